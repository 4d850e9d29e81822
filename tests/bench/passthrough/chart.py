"""How do the ratios look as a picture? A bar chart in SVG: two bars to a row, the bind mount a line at 1."""

from dataclasses import dataclass
from pathlib import Path

from tests.bench.passthrough.places import PASSTHROUGH, PLAIN
from tests.bench.passthrough.results import PUBLISHED, V6, V12, Results, RowResult
from tests.bench.svg import FAINT, INK, bar, document, line, text

_WIDTH = 860
_LEFT = 190
_RIGHT = 60
_TOP = 84
_BAR = 12
_ROW = 40
_BOTTOM = 44
_LEAST_SCALE = 1.2
_MOST_SCALE = 2.0
"""The axis ends here at the latest: a ratio beyond it is a bar to the edge, its number says how much it is."""

_COLOURS = {PLAIN: "#b4b2a9", PASSTHROUGH: "#1d7a5f"}
_ON_BAR = {PLAIN: "#222222", PASSTHROUGH: "#ffffff"}
_MARKS = {V6: "#c2571a", V12: "#4b3fa8"}


@dataclass(frozen=True)
class _Axis:
    """Ratios from 0 to `end` along the x axis."""

    end: float

    def x(self, ratio: float) -> float:
        """The place of a ratio in pixels, at most the axis's end."""
        return _LEFT + min(ratio, self.end) / self.end * (_WIDTH - _LEFT - _RIGHT)


def svg(results: Results) -> str:
    """The chart of a run as one SVG document, UTF-8, that needs nothing but itself."""
    rows = results.measured()
    axis = _Axis(_axis_end(rows))
    height = _TOP + _ROW * len(rows) + _BOTTOM
    parts = [
        text(16, 26, f"Speed as a ratio to the bind mount, {results.disk}", size=17),
        *_legend(),
        *_grid(axis, height),
    ]
    for number, row in enumerate(rows):
        parts += _row(row, axis, _TOP + _ROW * number)
    parts += _line_of_one(axis, height)
    return document(_WIDTH, height, parts)


def write_svg(results: Results, path: Path) -> None:
    """Writes `svg` to a file."""
    path.write_text(svg(results), encoding="utf-8")


def _axis_end(rows: list[RowResult]) -> float:
    shown = [row.speed(place) for row in rows for place in _COLOURS]
    shown += [row.published(version, PASSTHROUGH) for row in rows for version in PUBLISHED]
    largest = max((ratio for ratio in shown if ratio is not None), default=0.0)
    return min(max(largest + 0.05, _LEAST_SCALE), _MOST_SCALE)


def _legend() -> list[str]:
    parts, x = [], 16.0
    for place, colour in _COLOURS.items():
        parts += [bar(x, 42, 12, 12, colour), text(x + 18, 53, place)]
        x += 40 + 7.2 * len(place)
    for version, colour in _MARKS.items():
        label = f"passthrough in the patches' {version}"
        parts += [_mark(x + 6, 48, colour), text(x + 18, 53, label)]
        x += 40 + 6.6 * len(label)
    return parts


def _grid(axis: _Axis, height: int) -> list[str]:
    parts = []
    for tenths in range(0, int(axis.end * 10) + 1, 2):
        x = axis.x(tenths / 10)
        parts.append(line(x, _TOP - 8, x, height - _BOTTOM + 4, FAINT))
        parts.append(text(x, height - _BOTTOM + 22, f"{tenths / 10:.1f}", anchor="middle"))
    return parts


def _row(row: RowResult, axis: _Axis, top: int) -> list[str]:
    parts = [text(_LEFT - 10, top + _BAR + 5, row.title, anchor="end")]
    for number, (place, colour) in enumerate(_COLOURS.items()):
        ratio, y = row.speed(place), top + number * (_BAR + 2)
        if ratio is None:
            parts.append(text(_LEFT + 6, y + _BAR - 1, "not measured", size=11))
            continue
        length = axis.x(ratio) - _LEFT
        parts.append(bar(_LEFT, y, length, _BAR, colour))
        parts.append(_value(axis.x(ratio), y, f"{ratio:.2f}", _ON_BAR[place]))
    # Beside the bar of passthrough, one above the other, so that equal figures do not cover each other.
    for number, (version, colour) in enumerate(_MARKS.items()):
        published = row.published(version, PASSTHROUGH)
        if published is not None:
            parts.append(_mark(axis.x(published), top + _BAR + 3 + number * _BAR, colour))
    return parts


def _value(end: float, y: float, label: str, on_bar: str) -> str:
    """The number of a bar: at its end inside, or behind it where the bar is too short."""
    if end - _LEFT > 60:
        return text(_LEFT + 6, y + _BAR - 2, label, size=11, fill=on_bar)
    return text(end + 6, y + _BAR - 2, label, size=11)


def _line_of_one(axis: _Axis, height: int) -> list[str]:
    x = axis.x(1)
    return [
        line(x, _TOP - 8, x, height - _BOTTOM + 4, INK, "4 3"),
        text(x, _TOP - 13, "bind mount", size=11, anchor="middle"),
    ]


def _mark(x: float, y: float, colour: str) -> str:
    return f'<path d="M{x:.1f} {y - 6:.1f}l5 6l-5 6l-5 -6z" fill="{colour}" stroke="white"/>'
