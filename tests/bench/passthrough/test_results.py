"""Are ratios, bars and tables right? Nothing is timed here."""

from __future__ import annotations

import json

import pytest

from tests.bench.passthrough import report
from tests.bench.passthrough.places import BIND, PASSTHROUGH, PLAIN
from tests.bench.passthrough.results import V6, V12, Pair, Results, RowResult


def row(name: str, plain: list[float | None], passthrough: list[float | None], bind: list[float | None]) -> RowResult:
    """A row with samples, in the unit that its name asks for."""
    more_is_better = name != "compile"
    made = RowResult(name, name.replace("-", " "), "MiB/s" if more_is_better else "s", more_is_better)
    made.samples = {PLAIN: plain, PASSTHROUGH: passthrough, BIND: bind}
    return made


@pytest.fixture
def results() -> Results:
    rows = [
        row("randread-4k", [20, 10, 100], [80, 90, 400], [100, 100, 500]),
        row("read-1M", [50, 50, 50], [900, 990, 950], [1000, 1000, 1000]),
        row("compile", [4, None, 5], [2.5, 2.5, 2.5], [2, 2, 2]),
        row("mmap-read", [], [], []),
    ]
    rows[2].failures[PLAIN] = "did not mount"
    return Results("tmpfs", 1 << 20, rows)


def test_ratios_are_taken_round_by_round(results: Results) -> None:
    reading = results.rows[0]
    assert reading.speeds(PASSTHROUGH) == [0.8, 0.9, 0.8]
    assert reading.speed(PASSTHROUGH) == 0.8
    assert reading.median(PASSTHROUGH) == 90
    assert reading.speed(BIND) == 1


def test_less_time_is_more_speed(results: Results) -> None:
    compiling = results.rows[2]
    assert compiling.speed(PASSTHROUGH) == 0.8
    assert compiling.speeds(PLAIN) == [0.5, 0.4]
    assert compiling.median(PLAIN) == 4.5


def test_what_was_not_measured_has_no_number(results: Results) -> None:
    mapped = results.rows[3]
    assert mapped.median(PLAIN) is None
    assert mapped.speed(PASSTHROUGH) is None
    assert mapped not in results.measured()


@pytest.mark.parametrize(
    ("name", "version", "plain", "passthrough"),
    [
        ("write-4k", V6, 58185 / 141671, 141272 / 141671),
        ("compile", V6, 109.4 / 144.6, 109.4 / 133.8),
        ("randread-4k", V12, 25 / 1135, 860 / 1135),
        ("compile", V12, None, None),
        ("read-1M", V6, None, None),
    ],
)
def test_published_figures(name: str, version: str, plain: float | None, passthrough: float | None) -> None:
    made = row(name, [], [], [])
    assert made.published(version, PLAIN) == plain
    assert made.published(version, PASSTHROUGH) == passthrough


def test_bars_at_4_kib_hold_on_tmpfs_only() -> None:
    assert row("randread-4k", [], [], []).bar("tmpfs") == 0.85
    assert row("randread-4k", [], [], []).bar("ext4") is None
    assert row("write-1M", [], [], []).bar("tmpfs") == row("write-1M", [], [], []).bar("ext4") == 0.97
    assert row("mmap-read", [], [], []).bar("tmpfs") is None


def test_text(results: Results) -> None:
    ratios, medians, bars, failures = (part.splitlines() for part in report.text(results).split("\n\n"))
    assert [cell.strip() for cell in ratios[2].split("|")] == [
        "",
        "randread 4k",
        "0.20",
        "0.80",
        "0.74",
        "1.25",
        "0.02",
        "0.76",
        "",
    ]
    assert [cell.strip() for cell in ratios[3].split("|")] == ["", "read 1M", "0.05", "0.95", "-", "-", "-", "-", ""]
    assert [cell.strip() for cell in medians[4].split("|")] == ["", "compile, s", "4.50", "2.50", "2.00", ""]
    assert [cell.strip() for cell in bars[2].split("|")][2:5] == ["0.80", "0.85", "MISSED"]
    assert [cell.strip() for cell in bars[3].split("|")][2:5] == ["0.95", "0.97", "MISSED"]
    assert failures == ["Not measured in every round:", "- compile, plain FUSE: did not mount"]
    assert len({len(line) for line in ratios}) == 1


def test_pairs_decide(results: Results) -> None:
    results.pairs["read-1M"] = Pair(0.96, 0.98, 1.01, 500, 1.0)
    cells = [cell.strip() for cell in report.text(results).split("\n\n")[2].splitlines()[3].split("|")]
    assert cells == ["", "read 1M", "0.98", "0.97", "met", "0.96 to 1.01", "1.00", "0.95, 0.90 to 0.99", ""]
    assert report.as_json(results)["pairs"]["read-1M"]["pairs"] == 500


def test_json_keeps_every_sample(results: Results) -> None:
    kept = json.loads(json.dumps(report.as_json(results)))
    assert [found["name"] for found in kept["rows"]] == ["randread-4k", "read-1M", "compile"]
    assert kept["rows"][2]["samples"] == {PLAIN: [4, None, 5], PASSTHROUGH: [2.5] * 3, BIND: [2] * 3}
    assert kept["rows"][2]["failures"] == {PLAIN: "did not mount"}
    assert kept["rows"][0]["speed_to_bind_mount"] == {PLAIN: 0.2, PASSTHROUGH: 0.8, BIND: 1}
    assert kept["rows"][0]["bar"] == 0.85
