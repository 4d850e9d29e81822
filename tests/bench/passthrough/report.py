"""How is a run shown as text, and kept as JSON?"""

import json
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.passthrough.places import PASSTHROUGH, PLAIN
from tests.bench.passthrough.results import PLACES, PUBLISHED, Results, RowResult
from tests.bench.tables import number, table


def text(results: Results) -> str:
    """Tables of ratios, with the patches' own beside them, and of medians; the bars; what could not be measured."""
    parts = [_ratios(results), _medians(results), *_bars(results), *_failures(results)]
    return "\n\n".join(parts)


def as_json(results: Results) -> dict[str, Any]:
    """Everything that was measured, with medians, ratios, the patches' ratios and the bars."""
    return {
        "machine": machine.description(),
        "versions": results.versions,
        "disk": results.disk,
        "file_bytes": results.file_bytes,
        "pairs": {name: pair._asdict() for name, pair in results.pairs.items()},
        "rows": [_row_as_json(row, results.disk) for row in results.measured()],
    }


def write_json(results: Results, path: Path) -> None:
    """Writes `as_json` to a file."""
    path.write_text(json.dumps(as_json(results), indent=2) + "\n", encoding="ascii")


def _row_as_json(row: RowResult, disk: str) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "unit": row.unit,
        "samples": row.samples,
        "median": {place: row.median(place) for place in PLACES},
        "speed_to_bind_mount": {place: row.speed(place) for place in PLACES},
        "published_speed_to_bind_mount": {
            version: {place: row.published(version, place) for place in PLACES}
            for version, rows in PUBLISHED.items()
            if row.name in rows
        },
        "bar": row.bar(disk),
        "failures": row.failures,
    }


def _ratios(results: Results) -> str:
    published = [(version, place) for version in PUBLISHED for place in (PLAIN, PASSTHROUGH)]
    heading = ["speed, bind mount = 1", PLAIN, PASSTHROUGH, *(f"{version} {place}" for version, place in published)]
    lines = [
        [
            row.title,
            *(number(row.speed(place), ".2f") for place in (PLAIN, PASSTHROUGH)),
            *(number(row.published(version, place), ".2f") for version, place in published),
        ]
        for row in results.measured()
    ]
    return table(heading, lines)


def _medians(results: Results) -> str:
    lines = [
        [f"{row.title}, {row.unit}", *(number(row.median(place), ".0f" if row.more_is_better else ".2f") for place in PLACES)]
        for row in results.measured()
    ]
    return table([f"medians on {results.disk}", *PLACES], lines)


def _bars(results: Results) -> list[str]:
    """Pairs decide where there are any: fio's runs lie apart, and the machine has changed its speed between them."""
    lines = []
    for row in results.measured():
        bar, pair, speed = row.bar(results.disk), results.pairs.get(row.name), row.speed(PASSTHROUGH)
        found = pair.middle if pair else speed
        if bar is None or found is None:
            continue
        spread = row.speeds(PASSTHROUGH)
        lines.append(
            [
                row.title,
                f"{found:.2f}",
                f"{bar:.2f}",
                "met" if found >= bar else "MISSED",
                f"{pair.low:.2f} to {pair.high:.2f}" if pair else "-",
                f"{pair.control:.2f}" if pair else "-",
                f"{speed:.2f}, {min(spread):.2f} to {max(spread):.2f}" if speed is not None else "-",
            ]
        )
    heading = ["passthrough to bind mount", "is", "at least", "", "middle half of pairs", "control", "fio, all rounds"]
    return [table(heading, lines)] if lines else []


def _failures(results: Results) -> list[str]:
    lines = [f"- {row.title}, {place}: {reason}" for row in results.rows for place, reason in row.failures.items()]
    return ["\n".join(["Not measured in every round:", *lines])] if lines else []
