"""What is a chart drawn with?  The few shapes of SVG that the benchmarks' charts need, as text."""

from collections.abc import Sequence
from html import escape

INK, FAINT = "#222222", "#dddddd"


def document(width: float, height: float, parts: Sequence[str]) -> str:
    """One SVG document of that size in pixels, UTF-8, on white, that needs nothing but itself."""
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>', *parts, "</svg>", ""])


def text(x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", fill: str = INK) -> str:
    """Words that begin, are centred ("middle") or end ("end") at x, on the line y."""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(words)}</text>'


def bar(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = FAINT, dashes: str = "") -> str:
    """A straight line; `dashes` as of stroke-dasharray."""
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{dashed}/>'


def curve(points: Sequence[tuple[float, float]], stroke: str) -> list[str]:
    """Points joined by straight lines, each with a dot."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{stroke}"/>' for x, y in points]
    return [f'<polyline points="{joined}" fill="none" stroke="{stroke}" stroke-width="2"/>', *dots]
