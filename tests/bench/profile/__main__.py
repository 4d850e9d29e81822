"""One command that shows where unionfs's time goes: `python -m tests.bench.profile WORKLOAD...`."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import isolate
from tests.bench.errors import BenchError
from tests.bench.layers import BUILD, Layers, make_layers, settle
from tests.bench.machine import description
from tests.bench.mounts import OURS, Cell, FileSystem, mounted, server_pids
from tests.bench.profile import report
from tests.bench.scaling import make_stack
from tests.bench.workloads import FULL, QUICK, Scale, Workload, all_workloads

_MODULE = "tests.bench.profile"


def main(arguments: Sequence[str]) -> int:
    """Profiles workloads; returns 0, 1 for a bad argument or a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run(_MODULE, arguments, lambda scratch: _measure_all(scratch, options))


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    scale = QUICK if options.quick else FULL
    workloads = _chosen(options.workload, scale)
    profiles: dict[str, Any] = {}
    try:
        print("making the layers", file=sys.stderr)
        points = [workload.point for workload in workloads if workload.point is not None]
        layers = make_layers(scratch, options.lower, sum(point.files for point in points))
        for point in points:
            make_stack(layers.stacks, point)
        for workload in workloads:
            profiles["; ".join(workload.titles)] = _profile(workload, scale, layers, scratch / "profile.json", options.option)
    finally:
        if options.json:
            options.json.write_text(json.dumps({"machine": description(), "workloads": profiles}, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("workload", nargs="*", help="names of the benchmark's workloads (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("-o", dest="option", action="append", default=[], metavar="OPTIONS", help="mount options for unionfs")
    parser.add_argument("--lower", default=BUILD, metavar="DIR", help="the root file system, as of python -m tests.bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser


def _chosen(names: list[str], scale: Scale) -> list[Workload]:
    workloads = all_workloads(scale)
    known = [workload.name for workload in workloads]
    for name in names:
        if name not in known:
            raise BenchError(f"{name}: known are {', '.join(dict.fromkeys(known))}")
    return [workload for workload in workloads if not names or workload.name in names]


def _profile(workload: Workload, scale: Scale, layers: Layers, file: Path, options: list[str]) -> dict[str, Any]:
    """The workload once as it is and once under an account, on fresh mounts; prints it, returns it for the JSON file."""
    settle(layers)
    with mounted(_server([sys.executable, "-m", "unionfs"], options), layers, workload.point) as cell:
        plain_ms = workload.run(cell.mount, scale)
    settle(layers)
    launcher = [sys.executable, "-m", f"{_MODULE}.launcher", str(file)]
    with mounted(_server(launcher, options), layers, workload.point) as cell:
        (server,) = server_pids()
        os.kill(server, signal.SIGUSR1)
        measured_ms = workload.run(cell.mount, scale)
        os.kill(server, signal.SIGUSR2)
    rows: report.Rows = json.loads(file.read_text(encoding="ascii"))
    file.unlink()
    print(report.text("; ".join(workload.titles), plain_ms, measured_ms, rows), end="\n\n\n", flush=True)
    return {"name": workload.name, "plain_ms": plain_ms, "measured_ms": measured_ms, "rows": rows}


def _server(program: list[str], options: list[str]) -> FileSystem:
    chosen = [word for text in options for word in ("-o", text)]

    def command(cell: Cell) -> list[str]:
        return [*program, "-o", cell.overlay_options, *chosen, str(cell.mount)]

    return FileSystem(OURS, sys.executable, command, [*program, "--version"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
