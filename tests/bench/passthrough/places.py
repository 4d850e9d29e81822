"""Where does the client work: on plain FUSE, on FUSE passthrough, or on the backing directory itself?

All three show one and the same directory, so the pages that are read and written are the same too.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import programs
from tests.bench.mounts import Cell, FileSystem, mounted_on

PLAIN = "plain FUSE"
PASSTHROUGH = "passthrough"
BIND = "bind mount"

DISKS = ("tmpfs", "ext4")

_BLOCK_BYTES = 1 << 20
_SLACK_BYTES = 1 << 30


def _union(passthrough: str) -> FileSystem:
    ours = [sys.executable, "-m", "unionfs"]
    return FileSystem(
        PASSTHROUGH if passthrough == "on" else PLAIN,
        sys.executable,
        lambda cell: [*ours, "-o", f"passthrough={passthrough},{cell.overlay_options}", str(cell.mount)],
        [*ours, "--version"],
    )


def places() -> list[FileSystem]:
    """The columns of the table. `passthrough=on` fails where passthrough can't be had, so the column is what it says."""
    bind = FileSystem(BIND, "mount", lambda cell: ["mount", "--bind", str(cell.upper), str(cell.mount)], ["uname", "-sr"])
    return [_union("off"), _union("on"), bind]


@dataclass(frozen=True)
class Disk:
    """The file system under the measurements: `cell` to mount on, and `trees` for what is made once and copied."""

    cell: Cell
    trees: Path


def make_disk(scratch: Path, kind: str, file_bytes: int) -> Disk:
    """Mounts a fresh disk (one of DISKS) below `scratch`, all of it in a private tmpfs; raises ProgramError.

    It has room for two files of `file_bytes`. The upper layer is what all places show.
    """
    programs.run("mount", "-t", "tmpfs", "-o", "size=90%,noatime", "unionfs-bench", str(scratch))
    top = scratch / "disk"
    top.mkdir()
    if kind == "ext4":
        _make_ext4(scratch / "image", top, 2 * file_bytes + _SLACK_BYTES)
    cell = Cell(lower=top / "lower", upper=top / "upper", work=top / "work", mount=top / "mount")
    disk = Disk(cell, top / "trees")
    for directory in (cell.lower, cell.upper, cell.work, cell.mount, disk.trees):
        directory.mkdir()
    return disk


def _make_ext4(image: Path, top: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)
    # Inode tables and journal are written now, not by a kernel thread during the measurements.
    programs.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    programs.run("mount", "-o", "loop,noatime", str(image), str(top))


def make_file(path: Path, size: int) -> None:
    """Writes a file of `size` bytes that is neither sparse nor compressible by the block, and leaves it in the page cache."""
    block = os.urandom(_BLOCK_BYTES)
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            file.write(block[: size - start])
    programs.run("sync", "-f", str(path))
    with path.open("rb") as file:
        while file.read(_BLOCK_BYTES):
            pass


@contextmanager
def at(place: FileSystem, disk: Disk) -> Iterator[Path]:
    """Mounts a place and gives its mount point; what was written before is on the disk by then. Raises MountError."""
    programs.run("sync", "-f", str(disk.cell.upper))
    # A fresh work directory: unions of different options take turns on it.
    shutil.rmtree(disk.cell.work)
    disk.cell.work.mkdir()
    with mounted_on(place, disk.cell):
        yield disk.cell.mount
