"""What grows with the number of layers and of files?  Lookups, misses and listings in one directory spread over many layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import small
from tests.bench.layers import flat_name
from tests.bench.small import Loop, timed_in_child

DIRECTORY = "d"
"""The directory that every layer has."""

LAYERS = (1, 16, 128, 500)
FILES = (1_000, 10_000, 100_000)
QUICK_LAYERS = (1, 16)
QUICK_FILES = (1_000,)

_FILES_OF_LAYERS = 5_000
_LAYERS_OF_FILES = 16
_MOST_NAMES = 5_000

LOOKUP, MISS, LISTING = "cold lookups", "missing names", "scandir + stat"
OPERATIONS = (LOOKUP, MISS, LISTING)


@dataclass(frozen=True)
class Point:
    """One measurement: so many names of a directory of `files` names that is spread over `layers` layers."""

    operation: str
    layers: int
    files: int

    @property
    def names(self) -> int:
        """How many names are looked up or listed: the time is divided by that."""
        return self.files if self.operation == LISTING else min(self.files, _MOST_NAMES)

    @property
    def title(self) -> str:
        """The row's name in the table."""
        return f"{self.names:,} {self.operation}, {self.files:,} files in {self.layers} layer{'s' if self.layers > 1 else ''}"

    def run(self, mount: Path) -> float:
        """Does it on a fresh mount; milliseconds."""
        (milliseconds,) = timed_in_child(self._loop(mount / DIRECTORY))
        return milliseconds

    def _loop(self, directory: Path) -> Loop:
        loops: dict[str, Callable[[], Loop]] = {
            LOOKUP: lambda: small.stat_all(directory, self.names),
            MISS: lambda: small.stat_missing(directory, self.names),
            LISTING: lambda: small.scan_and_stat(directory),
        }
        return loops[self.operation]()


def points_of_layers(counts: Iterable[int]) -> list[Point]:
    """The same files in more and more layers."""
    return [Point(operation, layers, _FILES_OF_LAYERS) for layers in counts for operation in OPERATIONS]


def points_of_files(counts: Iterable[int]) -> list[Point]:
    """More and more files in the same number of layers."""
    return [Point(operation, _LAYERS_OF_FILES, files) for files in counts for operation in OPERATIONS]


def layer_names(point: Point) -> tuple[str, ...]:
    """The layers' directories, the topmost first: short, since 500 of them have to fit in mount(2)'s 4 KiB for the kernel."""
    return tuple([str(number) for number in range(point.layers)])


def stack_of(stacks: Path, point: Point) -> Path:
    """The directory in which the layers lie that a point is measured on."""
    return stacks / f"{point.layers}x{point.files}"


def make_stack(stacks: Path, point: Point) -> None:
    """Makes those layers, unless they are there: empty files, dealt out like cards."""
    top = stack_of(stacks, point)
    if top.exists():
        return
    directories = [top / name / DIRECTORY for name in layer_names(point)]
    for directory in directories:
        directory.mkdir(parents=True)
    for number in range(point.files):
        os.mknod(directories[number % point.layers] / flat_name(number), 0o100644)
