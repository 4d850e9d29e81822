"""How are the measurements summed up and shown?"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import machine
from tests.bench.mounts import KERNEL, OURS, REFERENCE
from tests.bench.scaling import LOOKUP, MISS, Point
from tests.bench.tables import number, table

GROWTH_BAR = 1.3
"""What a lookup or a miss may cost with 500 layers, as a ratio to one layer."""


@dataclass
class Results:
    """All samples of a run: milliseconds by (row title, file system), and what could not be measured.

    points: of the rows that measure many layers or files, by title.
    """

    columns: list[str]
    versions: dict[str, str]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)

    def add(self, title: str, column: str, milliseconds: float) -> None:
        """Adds one sample to a row's cell."""
        self.samples.setdefault((title, column), []).append(milliseconds)

    def median(self, title: str, column: str) -> float | None:
        """The median of a cell in milliseconds, or None where nothing was measured."""
        samples = self.samples.get((title, column))
        return median(samples) if samples else None

    def ratio(self, title: str, column: str, base: str) -> float | None:
        """How many times the base's median a cell's median is, or None where either is missing."""
        own, other = self.median(title, column), self.median(title, base)
        return None if own is None or not other else own / other

    def titles(self) -> list[str]:
        """The rows in the order in which they were first measured."""
        return list(dict.fromkeys(title for title, _ in [*self.samples, *self.failures]))


def text(results: Results) -> str:
    """The whole report: tables of medians and of ratios to the kernel and to fuse-overlayfs, losses and failures."""
    parts = [_table("median ms", results, lambda title, column: number(results.median(title, column), ".1f"))]
    parts += [_ratios(results, base) for base in (KERNEL, REFERENCE) if base in results.columns]
    parts += _losses(results)
    parts += _growth(results)
    if results.failures:
        parts.append("\n".join(["Not measured:", *_failures(results)]))
    return "\n\n".join(parts)


def write_json(results: Results, path: Path) -> None:
    """Writes every sample, in milliseconds, with the medians and what the run was made on."""
    rows = [
        {
            "workload": title,
            "point": asdict(results.points[title]) if title in results.points else None,
            "samples_ms": {c: results.samples[title, c] for c in results.columns if (title, c) in results.samples},
            "median_ms": {c: results.median(title, c) for c in results.columns},
            "failures": {c: results.failures[title, c] for c in results.columns if (title, c) in results.failures},
        }
        for title in results.titles()
    ]
    path.write_text(json.dumps({"machine": machine.description(), "versions": results.versions, "rows": rows}, indent=2) + "\n")


def _losses(results: Results) -> list[str]:
    ratios = {title: results.ratio(title, OURS, REFERENCE) for title in results.titles()}
    compared = {title: ratio for title, ratio in ratios.items() if ratio is not None}
    slower = [title for title, ratio in compared.items() if ratio > 1]
    summary = f"{OURS} is slower than {REFERENCE} in {len(slower)} of {len(compared)} rows"
    return ["\n".join([summary, *(f"- {title}" for title in slower)])] if compared else []


def _growth(results: Results) -> list[str]:
    """What a lookup and a miss cost with the most layers, as a ratio to the fewest, beside the bar."""
    lines = []
    for operation in (LOOKUP, MISS):
        points = sorted((p for p in results.points.values() if p.operation == operation), key=lambda p: p.layers)
        pairs = [(few, many) for few in points for many in points if (many.files, few.files) == (many.files,) * 2]
        widest = max(pairs, key=lambda pair: pair[1].layers - pair[0].layers, default=None)
        if widest is None or widest[0].layers == widest[1].layers:
            continue
        few, many = widest
        for column in results.columns:
            one, other = results.median(few.title, column), results.median(many.title, column)
            if one and other:
                lines.append([operation, f"{few.layers} to {many.layers}", column, f"{other / one:.2f}"])
    heading = ["growth of the time", "layers", "file system", f"ratio (bar for {OURS}: {GROWTH_BAR})"]
    return [table(heading, lines)] if lines else []


def _failures(results: Results) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for (title, column), reason in results.failures.items():
        rows.setdefault((column, reason), []).append(title)
    return [f"- {column}: {'; '.join(titles)}: {reason}" for (column, reason), titles in rows.items()]


def _ratios(results: Results, base: str) -> str:
    return _table(f"x {base}", results, lambda title, column: number(results.ratio(title, column, base), ".2f"))


def _table(heading: str, results: Results, cell: Callable[[str, str], str]) -> str:
    lines = [[title, *(cell(title, column) for column in results.columns)] for title in results.titles()]
    return table([heading, *results.columns], lines)
