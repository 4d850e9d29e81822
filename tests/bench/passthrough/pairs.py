"""How much slower is passthrough, if a shared machine's speed drifts by more than that? Measured in pairs, block by block.

One process has the same file open through the passthrough mount and through the bind mount and works on either in turn, a
mebibyte at a time, thousands of times. Whatever disturbs it disturbs both of a pair or is outvoted by the others.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

from tests.bench.mounts import mounted_on
from tests.bench.passthrough.places import BIND, PASSTHROUGH, Disk, places
from tests.bench.passthrough.results import Pair

BATCH_BYTES = 1 << 20
"""What is done on one side of a pair."""

BLOCKS = {"4k": 4 << 10, "1M": 1 << 20}
PATTERNS = ("read", "randread", "write", "randwrite")
NAMES = tuple(f"{pattern}-{block}" for block in BLOCKS for pattern in PATTERNS)
"""What can be measured in pairs: fio's rows, by the same names."""

Operation = Callable[[int, int], int]
"""Reads or writes one block: descriptor and offset to the number of bytes."""


def measure_pairs(disk: Disk, file: str, names: Sequence[str], repeats: int) -> dict[str, Pair]:
    """By row name, the speed of passthrough against the bind mount's, and as a control the bind mount's against itself.

    `file` is on the upper layer. Each row goes over the whole file `repeats` times. Raises MountError and OSError.
    """
    by_name = {place.name: place for place in places()}
    bind = replace(disk.cell, mount=disk.trees / "bind")
    bind.mount.mkdir()
    paths = [directory / file for directory in (disk.cell.mount, bind.mount, disk.cell.upper)]
    # The union inside: at unmounting every server is waited for.
    with mounted_on(by_name[BIND], bind), mounted_on(by_name[PASSTHROUGH], disk.cell):
        return {name: _pair(name, paths, repeats) for name in names}


def _pair(name: str, paths: Sequence[Path], repeats: int) -> Pair:
    pattern, _, block = name.rpartition("-")
    with ExitStack() as stack:
        passed, bound, again = (stack.enter_context(open(path, "r+b", buffering=0)).fileno() for path in paths)
        size = os.fstat(bound).st_size
        operation, batches = _operation(pattern, BLOCKS[block]), _batches(pattern, BLOCKS[block], size)
        own = _ratios(operation, batches, (passed, bound), repeats)
        control = _ratios(operation, batches, (again, bound), repeats)
    low, middle, high = quantiles(own, n=4)
    return Pair(low, middle, high, len(own), quantiles(control, n=4)[1])


def _operation(pattern: str, block: int) -> Operation:
    buffer = memoryview(bytearray(os.urandom(block)))
    if "read" in pattern:
        return lambda fd, offset: os.preadv(fd, [buffer], offset)
    return lambda fd, offset: os.pwritev(fd, [buffer], offset)


def _batches(pattern: str, block: int, size: int) -> list[list[int]]:
    """Every block of the file once, as offsets, in batches of BATCH_BYTES: an even number of batches."""
    offsets = list(range(0, size // block * block, block))
    if pattern.startswith("rand"):
        random.Random(block).shuffle(offsets)
    each = BATCH_BYTES // block
    count = len(offsets) // each // 2 * 2
    return [offsets[number * each : (number + 1) * each] for number in range(count)]


def _ratios(operation: Operation, batches: Sequence[Sequence[int]], fds: tuple[int, int], repeats: int) -> list[float]:
    """For each pair of batches the speed by the first descriptor as a ratio to that by the second; they go first in turn."""
    found = []
    for turn in range(repeats * len(batches) // 2):
        number = 2 * turn % len(batches)
        times = [0, 0]
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            times[side] = _timed(operation, fds[side], batches[number + side])
        found.append(times[1] / times[0])
    return found


def _timed(operation: Operation, fd: int, offsets: Sequence[int]) -> int:
    start = time.perf_counter_ns()
    for offset in offsets:
        operation(fd, offset)
    return time.perf_counter_ns() - start
