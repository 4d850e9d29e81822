"""How are the measurements summed up and shown?"""

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench.mounts import KERNEL, OURS, REFERENCE


@dataclass
class Results:
    """All samples of a run: milliseconds by (row title, file system), and what could not be measured."""

    columns: list[str]
    versions: dict[str, str]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

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
    parts = [_table("median ms", results, lambda title, column: _plain(results.median(title, column), ".1f"))]
    parts += [_ratios(results, base) for base in (KERNEL, REFERENCE) if base in results.columns]
    parts += _losses(results)
    if results.failures:
        parts.append("\n".join(["Not measured:", *_failures(results)]))
    return "\n\n".join(parts)


def write_json(results: Results, path: Path) -> None:
    """Writes every sample, in milliseconds, with the medians and what the run was made on."""
    rows = [
        {
            "workload": title,
            "samples_ms": {c: results.samples[title, c] for c in results.columns if (title, c) in results.samples},
            "median_ms": {c: results.median(title, c) for c in results.columns},
            "failures": {c: results.failures[title, c] for c in results.columns if (title, c) in results.failures},
        }
        for title in results.titles()
    ]
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, "versions": results.versions, "rows": rows}, indent=2) + "\n")


def _losses(results: Results) -> list[str]:
    ratios = {title: results.ratio(title, OURS, REFERENCE) for title in results.titles()}
    compared = {title: ratio for title, ratio in ratios.items() if ratio is not None}
    slower = [title for title, ratio in compared.items() if ratio > 1]
    summary = f"{OURS} is slower than {REFERENCE} in {len(slower)} of {len(compared)} rows"
    return ["\n".join([summary, *(f"- {title}" for title in slower)])] if compared else []


def _failures(results: Results) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for (title, column), reason in results.failures.items():
        rows.setdefault((column, reason), []).append(title)
    return [f"- {column}: {'; '.join(titles)}: {reason}" for (column, reason), titles in rows.items()]


def _ratios(results: Results, base: str) -> str:
    return _table(f"x {base}", results, lambda title, column: _plain(results.ratio(title, column, base), ".2f"))


def _table(heading: str, results: Results, cell: Callable[[str, str], str]) -> str:
    rows = [[heading, *results.columns]]
    rows += [[title, *(cell(title, column) for column in results.columns)] for title in results.titles()]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    rule = ["-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([lines[0], _line(rule, widths), *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = [value.rjust(width) for value, width in zip(row[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *rest])} |"


def _plain(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
