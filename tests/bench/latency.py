"""How long do others wait while somebody keeps the file system busy?  `python -m tests.bench.latency`."""

import argparse
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench import isolate
from tests.bench.layers import Layers, flat_name, make_layers, settle
from tests.bench.machine import description
from tests.bench.mounts import KERNEL, OURS, REFERENCE, FileSystem, extra_file_system, known_file_systems, mounted
from tests.bench.tables import table
from tests.bench.turns import turns

_MODULE = "tests.bench.latency"
_BIG = 2 << 30
_QUICK_BIG = 256 << 20
_NAMES = 100_000
_BLOCK = 1 << 20
_ALONE_SECONDS = 1.0
_CLIENTS = (1, 2, 4, 8)

Activity = Callable[[Path], None]


@dataclass(frozen=True)
class Sample:
    """One client's lookups while something went on: microseconds, their number, and how long it took."""

    median: float
    percentile99: float
    longest: float
    lookups: int
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Measures; returns 0, 1 for a bad argument or a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run(_MODULE, arguments, lambda scratch: _measure_all(scratch, options))


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    big = options.gigabytes << 30 if options.gigabytes else (_QUICK_BIG if options.quick else _BIG)
    rounds = options.rounds or (1 if options.quick else 3)
    samples: dict[tuple[str, str], list[Sample]] = {}
    chosen = options.fs or [OURS, KERNEL, REFERENCE]
    file_systems = [fs for fs in known_file_systems() if fs.name in chosen and fs.installed()]
    file_systems += [extra_file_system(text) for text in options.peer]
    layers = _make_layers(scratch, big)
    for _, fs in turns(rounds, [("lookups", None)], file_systems):
        for title, found in _measure(fs, layers, big).items():
            samples.setdefault((title, fs.name), []).append(found)
    print(_text(samples))
    if options.json:
        rows = [{"row": row, "fs": fs, "samples": [asdict(s) for s in found]} for (row, fs), found in samples.items()]
        options.json.write_text(json.dumps({"machine": description(), "rows": rows}, indent=2) + "\n", encoding="ascii")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help="measure everything N times (default 3, quick 1)")
    parser.add_argument("--quick", action="store_true", help="one round, with a small file")
    parser.add_argument("--gigabytes", type=int, metavar="N", help="size of the file that is copied up (default 2)")
    parser.add_argument("--fs", choices=[OURS, KERNEL, REFERENCE], action="append", help="only this file system; may repeat")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="as of python -m tests.bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    return parser


def _make_layers(scratch: Path, big: int) -> Layers:
    """A lower layer with a big file, which may be sparse nowhere, and a directory of very many names."""
    layers = make_layers(scratch, None, _NAMES, 3 * big)
    block = os.urandom(_BLOCK)
    with (layers.lower / "bench/huge").open("wb") as file:
        for _ in range(big // _BLOCK):
            file.write(block)
    many = layers.lower / "bench/many"
    many.mkdir()
    for number in range(_NAMES):
        os.mknod(many / flat_name(number), 0o100644)
    settle(layers)
    return layers


def _measure(fs: FileSystem, layers: Layers, big: int) -> dict[str, Sample]:
    found: dict[str, Sample] = {}
    for title, activity in _activities(big).items():
        settle(layers)
        with mounted(fs, layers) as cell:
            found[title] = _during(cell.mount, activity)
    with mounted(fs, layers) as cell:
        for clients in _CLIENTS:
            found[_clients_title(clients)] = _together(cell.mount, clients)
    return found


def _activities(big: int) -> dict[str, Activity]:
    return {
        "nothing else": lambda mount: time.sleep(_ALONE_SECONDS),
        f"copy-up of {big / (1 << 30):g} GiB": _copy_up,
        "fsync": _fsync,
        f"listing of {_NAMES:,} names": _list,
    }


def _copy_up(mount: Path) -> None:
    os.close(os.open(mount / "bench/huge", os.O_WRONLY | os.O_APPEND))


def _fsync(mount: Path) -> None:
    """Writes and syncs a quarter of a gibibyte, several times."""
    block = bytes(_BLOCK)
    fd = os.open(mount / "bench/written", os.O_WRONLY | os.O_CREAT, 0o644)
    for _ in range(4):
        for number in range(256):
            os.pwrite(fd, block, number * _BLOCK)
        os.fsync(fd)
    os.close(fd)


def _list(mount: Path) -> None:
    with os.scandir(mount / "bench/many") as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


def _clients_title(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''} at once"


def _during(mount: Path, activity: Activity) -> Sample:
    """One client's lookups while this process does something else."""
    with mmap.mmap(-1, mmap.PAGESIZE) as flags:
        reading = _start_client(mount, "x", flags)
        try:
            while not flags[1]:
                time.sleep(0.001)
            start = time.perf_counter()
            activity(mount)
            seconds = time.perf_counter() - start
        finally:
            flags[0] = 1
            times = _times_of(reading)
    return _sample(times, seconds)


def _together(mount: Path, clients: int) -> Sample:
    """Several clients' lookups at the same time."""
    with mmap.mmap(-1, mmap.PAGESIZE) as flags:
        start = time.perf_counter()
        readings = [_start_client(mount, f"{clients}-{number}-", flags) for number in range(clients)]
        time.sleep(_ALONE_SECONDS)
        flags[0] = 1
        times = [found for reading in readings for found in _times_of(reading)]
        return _sample(times, time.perf_counter() - start)


def _start_client(mount: Path, prefix: str, flags: mmap.mmap) -> int:
    """Starts a process that asks for one missing name after the other, until flags[0] is set; flags[1] says that it has begun.

    A name that was never asked for always makes a request.  The pipe from which its times come, in nanoseconds.
    """
    reading, writing = os.pipe()
    if os.fork() == 0:
        times: list[int] = []
        try:
            _ask(f"{mount}/bench/a/{prefix}", flags, times)
        finally:
            with os.fdopen(writing, "w") as answer:
                json.dump(times, answer)
            os._exit(0)
    os.close(writing)
    return reading


def _ask(prefix: str, flags: mmap.mmap, times: list[int]) -> None:
    clock = time.perf_counter_ns
    while not flags[0]:
        path = f"{prefix}{len(times)}"
        start = clock()
        try:
            os.stat(path)
        except FileNotFoundError:
            times.append(clock() - start)
            flags[1] = 1
            continue
        raise AssertionError(f"{path} exists")


def _times_of(reading: int) -> list[int]:
    with os.fdopen(reading) as answer:
        times: list[int] = json.load(answer)
    return times


def _sample(times: list[int], seconds: float) -> Sample:
    ordered = sorted(times)
    at99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return Sample(median(ordered) / 1e3, at99 / 1e3, ordered[-1] / 1e3, len(ordered), seconds)


def _text(samples: dict[tuple[str, str], list[Sample]]) -> str:
    lines = []
    for (title, name), found in samples.items():
        fields = ("median", "percentile99", "longest")
        middle = [f"{median(getattr(sample, field) for sample in found):.0f}" for field in fields]
        rate = median(sample.lookups / sample.seconds for sample in found)
        lines.append([title, name, *middle, f"{rate:,.0f}", f"{median(sample.seconds for sample in found):.2f}"])
    heading = ["lookups during", "file system", "median us", "99 % us", "longest us", "lookups a second", "seconds"]
    return table(heading, sorted(lines, key=lambda line: [title for title, _ in samples].index(line[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
