"""One command that measures unionfs beside the kernel's overlayfs and its peers: `python -m tests.bench`."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench import chart, isolate, report
from tests.bench.errors import BenchError
from tests.bench.layers import BUILD, Layers, make_layers, settle
from tests.bench.mounts import FileSystem, example, extra_file_system, known_file_systems, mounted
from tests.bench.report import Results
from tests.bench.scaling import make_stack
from tests.bench.turns import turns
from tests.bench.workloads import FULL, QUICK, Scale, Workload, all_workloads


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns 0, 1 for a bad argument or a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run("tests.bench", arguments, lambda scratch: _measure_all(scratch, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help="measure everything N times (default 5, quick 1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, for a look in under two minutes")
    parser.add_argument("--only", action="append", metavar="WORKLOAD", help="only this workload; may repeat")
    parser.add_argument("--fs", action="append", metavar="NAME", help="only this file system; may repeat")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="one more file system, mounted by COMMAND -o lowerdir=...,upperdir=...,workdir=... DIR",
    )
    parser.add_argument("--example", type=Path, metavar="FILE", help="pyfuse3's passthroughfs.py, for the row of cold lookups")
    parser.add_argument(
        "--lower",
        default=BUILD,
        metavar="DIR",
        help=f"copy the root file system from DIR; '{BUILD}' (default) makes one with debootstrap",
    )
    layers, files = (",".join(map(str, counts)) for counts in (FULL.layer_counts, FULL.file_counts))
    parser.add_argument("--layers", type=_counts, metavar="N,...", help=f"how many layers to compare (default {layers})")
    parser.add_argument("--files", type=_counts, metavar="N,...", help=f"how many files in a directory (default {files})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE, and a chart beside it (.svg)")
    return parser


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    return replace(
        scale, layer_counts=options.layers or scale.layer_counts, file_counts=options.files or scale.file_counts
    )


def _counts(text: str) -> tuple[int, ...]:
    """Numbers from 1, separated by commas."""
    if not re.fullmatch(r"[1-9][0-9]*(,[1-9][0-9]*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers like 1,16,500")
    return tuple([int(word) for word in text.split(",")])


def _chosen_file_systems(options: argparse.Namespace) -> list[FileSystem]:
    known = known_file_systems() + [extra_file_system(text) for text in options.peer]
    if options.example:
        if not options.example.is_file():
            raise BenchError(f"--example {options.example}: there is no such file")
        known.append(example(options.example.resolve()))
    names = [fs.name for fs in known]
    for name in options.fs or []:
        if name not in names:
            raise BenchError(f"--fs {name}: known are {', '.join(names)}")
    wanted = [fs for fs in known if (fs.name in options.fs if options.fs else not fs.on_request)]
    for fs in wanted:
        if not fs.installed():
            print(f"left out: {fs.name} ({fs.program} or its module is not installed)", file=sys.stderr)
    return [fs for fs in wanted if fs.installed()]


def _chosen_workloads(only: list[str] | None, scale: Scale) -> list[Workload]:
    workloads = all_workloads(scale)
    names = [workload.name for workload in workloads]
    for name in only or []:
        if name not in names:
            raise BenchError(f"--only {name}: known are {', '.join(dict.fromkeys(names))}")
    return [workload for workload in workloads if not only or workload.name in only]


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    scale = _scale(options)
    file_systems = _chosen_file_systems(options)
    workloads = _chosen_workloads(options.only, scale)
    rounds = options.rounds or (1 if options.quick else 5)
    results = Results([fs.name for fs in file_systems], {fs.name: fs.version_line() for fs in file_systems})
    try:
        print("making the layers", file=sys.stderr)
        points = [workload.point for workload in workloads if workload.point is not None]
        layers = make_layers(scratch, options.lower, sum(point.files for point in points))
        for point in points:
            make_stack(layers.stacks, point)
        for workload, fs in turns(rounds, [(workload.name, workload) for workload in workloads], file_systems):
            if not fs.workloads or workload.name in fs.workloads:
                _measure(fs, workload, scale, layers, results)
    finally:
        if results.titles():
            print(report.text(results))
        if options.json:
            report.write_json(results, options.json)
            chart.write_svg(results, options.json.with_suffix(".svg"))


def _measure(fs: FileSystem, workload: Workload, scale: Scale, layers: Layers, results: Results) -> None:
    settle(layers)
    if workload.point is not None:
        results.points[workload.point.title] = workload.point
    try:
        with mounted(fs, layers, workload.point) as cell:
            times = workload.run(cell.mount, scale)
    except (BenchError, OSError) as error:
        for title in workload.titles:
            results.failures[title, fs.name] = str(error)
        return
    for title, milliseconds in zip(workload.titles, times, strict=True):
        results.add(title, fs.name, milliseconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
