"""One command that measures what passthrough is worth: `python -m tests.bench.passthrough`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import isolate
from tests.bench.errors import BenchError
from tests.bench.mounts import FileSystem
from tests.bench.passthrough import chart, report
from tests.bench.passthrough.pairs import NAMES, measure_pairs
from tests.bench.passthrough.places import DISKS, Disk, make_disk, places
from tests.bench.passthrough.results import Results, RowResult
from tests.bench.passthrough.rows import FILE, Row, all_rows, prepare
from tests.bench.turns import turns

_ROUNDS, _QUICK_ROUNDS = 9, 1
_BYTES, _QUICK_BYTES, _LEAST_BYTES = 512 << 20, 64 << 20, 16 << 20
_SOURCES, _QUICK_SOURCES = 300, 40
_MOST_REPEATS = 4
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns 0, 1 for a bad argument or a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run("tests.bench.passthrough", arguments, lambda scratch: _measure_all(scratch, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.passthrough", description=__doc__)
    rounds = f"measure everything N times (default {_ROUNDS}, quick {_QUICK_ROUNDS})"
    parser.add_argument("--rounds", type=_count, metavar="N", help=rounds)
    parser.add_argument("--size", type=_size, metavar="BYTES", help="of fio's file: 64m, 2g (default 512m, quick 64m)")
    parser.add_argument("--fs", choices=DISKS, default=DISKS[0], help="what the layers lie on, in memory (default tmpfs)")
    parser.add_argument("--quick", action="store_true", help="an eighth of the work, one round, for a look")
    parser.add_argument("--only", action="append", metavar="ROW", help="only this row; may repeat")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE, and a chart beside it (.svg)")
    return parser


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def _size(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]*)([kmg]?)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of bytes like 64m or 2g")
    size = int(found[1]) * _UNITS[found[2]]
    if size < _LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r}: less than {_LEAST_BYTES >> 20}m is no measurement")
    return size


def _file_bytes(options: argparse.Namespace) -> int:
    chosen: int | None = options.size
    return chosen or (_QUICK_BYTES if options.quick else _BYTES)


def _sources(options: argparse.Namespace) -> int:
    return _QUICK_SOURCES if options.quick else _SOURCES


def _chosen_rows(options: argparse.Namespace) -> list[Row]:
    rows = all_rows(_file_bytes(options), _sources(options))
    names = [row.name for row in rows]
    for name in options.only or []:
        if name not in names:
            raise BenchError(f"--only {name}: known are {', '.join(names)}")
    return [row for row in rows if not options.only or row.name in options.only]


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    rows = _chosen_rows(options)
    results = Results(
        options.fs,
        _file_bytes(options),
        [RowResult(row.name, row.title, row.unit, row.more_is_better) for row in rows],
        {place.name: place.version_line() for place in places()},
    )
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    try:
        print("making the disk", file=sys.stderr)
        disk = make_disk(scratch, results.disk, results.file_bytes)
        prepare(disk, results.file_bytes, _sources(options))
        named = [(row.title, (row, result)) for row, result in zip(rows, results.rows, strict=True)]
        for (row, result), place in turns(rounds, named, places()):
            _measure(row, place, disk, result)
        _measure_in_pairs(disk, rows, rounds, results)
    finally:
        if results.measured():
            print(report.text(results))
            if options.json:
                report.write_json(results, options.json)
                chart.write_svg(results, options.json.with_suffix(".svg"))


def _measure(row: Row, place: FileSystem, disk: Disk, result: RowResult) -> None:
    sample: float | None = None
    try:
        sample = row.measure(place, disk)
    except (BenchError, OSError) as error:
        result.failures[place.name] = str(error)
    result.samples[place.name].append(sample)


def _measure_in_pairs(disk: Disk, rows: list[Row], rounds: int, results: Results) -> None:
    names = [row.name for row in rows if row.name in NAMES]
    if names:
        print("block by block", file=sys.stderr)
        results.pairs = measure_pairs(disk, FILE, names, min(rounds, _MOST_REPEATS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
