"""How do the results look as a picture?  Bars of times as ratios to the kernel's, and curves against layers and files, in SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.mounts import KERNEL, OURS, REFERENCE
from tests.bench.report import Results
from tests.bench.scaling import OPERATIONS, Point
from tests.bench.svg import FAINT, INK, bar, curve, document, line, text

_WIDTH = 960
_MARGIN = 24
_COLOURS = {OURS: "#1d7a5f", KERNEL: "#222222", REFERENCE: "#c2571a"}
_OTHERS = ("#4b3fa8", "#b4902a", "#9a9a92", "#8c2f5b")
_LEGEND_TOP, _LEGEND_HEIGHT = 40, 34

_TITLES = 270
_BAR, _GAP = 11, 9
_AXIS_HEIGHT = 40

_PANEL_WIDTH, _PANEL_HEIGHT = 290, 250
_PLOT_LEFT, _PLOT_TOP, _PLOT_BOTTOM = 52, 30, 42
_LABEL_WIDTH = 48

Value = Callable[[Point], float]


@dataclass(frozen=True)
class _Log:
    """A logarithmic axis: values from `low` to `high` lie between the pixels `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value in pixels; what is outside lies on the edge."""
        inside = min(max(value, self.low), self.high)
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def marks(self, base: float) -> list[float]:
        """The powers of `base` on the axis."""
        first, last = math.ceil(math.log(self.low, base) - 1e-9), math.floor(math.log(self.high, base) + 1e-9)
        return [base**power for power in range(first, last + 1)]


def svg(results: Results) -> str:
    """The chart of a run as one SVG document, UTF-8, that needs nothing but itself."""
    colours = _colours(results.columns)
    parts = [text(_MARGIN, 26, "Time on each file system", size=17), *_legend(colours)]
    bottom: float = _LEGEND_TOP + _LEGEND_HEIGHT
    titles = [title for title in results.titles() if title not in results.points]
    if titles and KERNEL in results.columns:
        drawn, bottom = _bars(results, titles, colours, bottom)
        parts += drawn
    for heading, value, series in _series(results):
        drawn, bottom = _panels(results, heading, value, series, colours, bottom)
        parts += drawn
    return document(_WIDTH, bottom + 10, parts)


def write_svg(results: Results, path: Path) -> None:
    """Writes `svg` to a file."""
    path.write_text(svg(results), encoding="utf-8")


def _colours(columns: Sequence[str]) -> dict[str, str]:
    others = [column for column in columns if column not in _COLOURS]
    more = {column: _OTHERS[number % len(_OTHERS)] for number, column in enumerate(others)}
    return {column: (_COLOURS | more)[column] for column in columns}


def _legend(colours: dict[str, str]) -> list[str]:
    parts, x = [], float(_MARGIN)
    for column, colour in colours.items():
        parts += [bar(x, _LEGEND_TOP, 12, 12, colour), text(x + 18, _LEGEND_TOP + 11, column)]
        x += 44 + 7.2 * len(column)
    return parts


def _bars(results: Results, titles: list[str], colours: dict[str, str], top: float) -> tuple[list[str], float]:
    """One group of bars for each row, from the kernel's time (a line at 1): to the left is faster, to the right slower."""
    shown = [column for column in colours if column != KERNEL]
    found = [results.ratio(title, column, KERNEL) for title in titles for column in shown]
    ratios = [ratio for ratio in found if ratio is not None]
    low, high = min([0.5, *ratios]), max([2.0, *ratios])
    axis = _Log(2 ** math.floor(math.log2(low)), 2 ** math.ceil(math.log2(high)), _TITLES, _WIDTH - 60)
    # Who can do only some of the workloads has no place in the others' rows.
    rows = [
        [column for column in shown if (title, column) in results.samples or (title, column) in results.failures]
        for title in titles
    ]
    first, bottom = top + _AXIS_HEIGHT, top + _AXIS_HEIGHT + sum([len(row) * _BAR + _GAP for row in rows])
    caption = "times the kernel overlayfs's time (logarithmic; left of the line is faster)"
    parts = [text((_TITLES + _WIDTH - 60) / 2, top + 14, caption, anchor="middle")]
    for mark in axis.marks(2):
        parts.append(line(axis.at(mark), first - 6, axis.at(mark), bottom))
        parts.append(text(axis.at(mark), first - 10, f"{mark:g}", size=11, anchor="middle"))
    y = first
    for title, row in zip(titles, rows, strict=True):
        parts.append(text(_TITLES - 12, y + (len(row) * _BAR + _GAP) / 2, title, size=12, anchor="end"))
        for place, column in enumerate(row):
            parts += _bar(results.ratio(title, column, KERNEL), axis, y + place * _BAR, colours[column])
        y += len(row) * _BAR + _GAP
    return [*parts, line(axis.at(1), first - 6, axis.at(1), bottom, INK)], bottom + _MARGIN


def _bar(ratio: float | None, axis: _Log, y: float, colour: str) -> list[str]:
    if ratio is None:
        return [text(axis.at(1) + 4, y + _BAR - 2, "not measured", size=9)]
    left, right = sorted((axis.at(ratio), axis.at(1)))
    return [bar(left, y, max(right - left, 1), _BAR - 2, colour), text(right + 4, y + _BAR - 2, f"{ratio:.2f}", size=9)]


def _series(results: Results) -> list[tuple[str, Value, list[Point]]]:
    """Against what there are curves: those of the points in which the other number is the same."""
    points = list(results.points.values())
    found: list[tuple[str, Value, list[Point]]] = []
    for files in sorted({point.files for point in points}):
        chosen = [point for point in points if point.files == files]
        if len({point.layers for point in chosen}) > 1:
            found.append((f"layers (a directory of {files:,} files)", lambda point: point.layers, chosen))
    for layers in sorted({point.layers for point in points}):
        chosen = [point for point in points if point.layers == layers]
        if len({point.files for point in chosen}) > 1:
            found.append((f"files of a directory in {layers} layers", lambda point: point.files, chosen))
    return found


def _panels(
    results: Results, heading: str, value: Value, points: list[Point], colours: dict[str, str], top: float
) -> tuple[list[str], float]:
    """Three panels side by side, one for each operation: microseconds a name against layers or files, both logarithmic."""
    times = [time for point in points for column in colours if (time := _time(results, point, column)) is not None]
    if not times:
        return [], top
    parts = [text(_MARGIN, top + 20, f"microseconds a name, by the number of {heading}", size=14)]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times) * 1.001))
    for number, operation in enumerate(OPERATIONS):
        left = _MARGIN + number * (_PANEL_WIDTH + 20)
        vertical = _Log(low, high, top + _PANEL_HEIGHT - _PLOT_BOTTOM + _PLOT_TOP, top + _PLOT_TOP + 30)
        chosen = sorted((point for point in points if point.operation == operation), key=value)
        if chosen:
            parts += _panel(results, operation, value, chosen, colours, left, vertical)
    return parts, top + _PANEL_HEIGHT + 30


def _panel(
    results: Results, operation: str, value: Value, points: list[Point], colours: dict[str, str], left: float, vertical: _Log
) -> list[str]:
    low, high = value(points[0]), value(points[-1])
    across = _Log(low, max(high, low * 2), left + _PLOT_LEFT, left + _PANEL_WIDTH - 14)
    parts = [text((across.start + across.end) / 2, vertical.end - 8, operation, anchor="middle")]
    for mark in vertical.marks(10):
        parts.append(line(across.start, vertical.at(mark), across.end, vertical.at(mark)))
        parts.append(text(across.start - 6, vertical.at(mark) + 4, f"{mark:g}", size=11, anchor="end"))
    for point, following in zip(points, [*points[1:], None], strict=True):
        x = across.at(value(point))
        parts.append(line(x, vertical.start, x, vertical.end, FAINT))
        if following is None or across.at(value(following)) - x > _LABEL_WIDTH:
            parts.append(text(x, vertical.start + 16, f"{value(point):,.0f}", size=11, anchor="middle"))
    for column, colour in colours.items():
        found = [(across.at(value(point)), time) for point in points if (time := _time(results, point, column)) is not None]
        if found:
            parts += curve([(x, vertical.at(time)) for x, time in found], colour)
    return parts


def _time(results: Results, point: Point, column: str) -> float | None:
    """Microseconds a name."""
    milliseconds = results.median(point.title, column)
    return None if milliseconds is None else milliseconds * 1e3 / point.names
