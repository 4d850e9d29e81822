"""What is measured: fio's jobs and a compilation, each a row of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import programs
from tests.bench.mounts import FileSystem
from tests.bench.passthrough.places import PLAIN, Disk, at, make_file
from tests.bench.passthrough.sources import make_project

FILE = "big"
"""The name of the file that fio and the pairs work on, on the upper layer."""

_PROJECT = "project"
_PLAIN_SHARE = 8
"""Plain FUSE does one part in so many of the work at 4 KiB, where it is up to a hundred times slower; rates stay the same."""


@dataclass(frozen=True)
class Row:
    """One row: its name on the command line, its title, its unit, whether a larger number is better, how to measure it.

    `measure(place, disk)` mounts the place, does the work there once and returns the number.
    """

    name: str
    title: str
    unit: str
    more_is_better: bool
    measure: Callable[[FileSystem, Disk], float]


def prepare(disk: Disk, file_bytes: int, sources: int) -> None:
    """Makes what the rows work on: the file, on the upper layer, and the project to compile."""
    make_file(disk.cell.upper / FILE, file_bytes)
    make_project(disk.trees / _PROJECT, sources)


def all_rows(file_bytes: int, sources: int) -> list[Row]:
    """The rows in the order of the table."""
    jobs = [(block, rw) for block in ("4k", "1M") for rw in ("read", "randread", "write", "randwrite")]
    rows = [_fio_row(f"{rw}-{block}", rw, block, "psync", file_bytes) for block, rw in jobs]
    rows += [_fio_row(f"mmap-{rw}", rw, "4k", "mmap", file_bytes) for rw in ("read", "randread")]
    return [*rows, Row("compile", f"make -j2, {sources} C files", "s", False, _compile)]


def _fio_row(name: str, rw: str, block: str, engine: str, file_bytes: int) -> Row:
    shown = {"4k": "4 KiB", "1M": "1 MiB"}[block]
    title = f"{'mmap ' if engine == 'mmap' else ''}{rw} {shown}"

    def measure(place: FileSystem, disk: Disk) -> float:
        share = _PLAIN_SHARE if place.name == PLAIN and block == "4k" else 1
        # end_fsync: data that plain FUSE has taken into its page cache only have not been written yet.
        sizes = {"size": file_bytes, "io_size": file_bytes // share, "end_fsync": int("write" in rw)}
        with at(place, disk) as mount:
            return programs.fio_bandwidth(mount / FILE, rw=rw, bs=block, ioengine=engine, **sizes)

    return Row(name, title, "MiB/s", True, measure)


def _compile(place: FileSystem, disk: Disk) -> float:
    project = disk.cell.upper / _PROJECT
    programs.run("cp", "-a", str(disk.trees / _PROJECT), str(project))
    try:
        with at(place, disk) as mount:
            milliseconds = programs.timed("make", "-s", "-j2", "-C", str(mount / _PROJECT))
            _check(mount / _PROJECT)
    finally:
        programs.run("rm", "-rf", str(project))
    return milliseconds / 1000


def _check(project: Path) -> None:
    expected = (project / "expected").read_text(encoding="ascii")
    found = programs.run(str(project / "all"))
    if found != expected:
        raise programs.ProgramError(f"the compiled program printed {found!r} and not {expected!r}")
