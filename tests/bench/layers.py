"""What do the layers hold, and where do they lie?

One ext4 file system on a loop device over a file in a private tmpfs: creating a file there costs some 20 us, so the
times are those of the union and not of a disk. It holds one lower layer, shared by every file system under test, and
room for one upper at a time.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError

BUILD = "build"
"""The value of --lower that asks for a root file system made by debootstrap."""

FLAT_FILES = 5000
FLAT_CONTENT = b"fifty bytes, the size of a small configuration file\n"[:50]
BIG_BYTES = 256 << 20

_MIRROR = "http://deb.debian.org/debian"
_SUITE = "bookworm"
_PACKAGES = "gcc,libc6-dev,git,python3"
_IMAGE_SLACK_BYTES = 3 << 30
_BYTES_AN_INODE = 16 << 10
_BYTES_A_FILE = 1 << 10


class LayerError(BenchError):
    """The layers could not be made; the message says which step failed."""


@dataclass(frozen=True)
class Layers:
    """The lower layer and the directory in which each measurement gets an upper, a work directory and a mount point.

    stacks: where there is room for other lower layers.
    """

    lower: Path
    cells: Path
    stacks: Path


def flat_name(index: int) -> str:
    """The name of the file number `index` in either of the two flat directories."""
    return f"file{index:05d}"


def make_layers(scratch: Path, source: str | None, more_files: int = 0, more_bytes: int = 0) -> Layers:
    """Makes the image below `scratch`, mounts it and fills the lower layer from `source`, a directory or BUILD.

    With None there is no root file system.  It has room for `more_files` small files and for `more_bytes` beside.
    """
    _run("mount", "-t", "tmpfs", "-o", "size=90%", "unionfs-bench", str(scratch))
    image, top = scratch / "image", scratch / "ext4"
    top.mkdir()
    source_bytes = 0 if source is None or source == BUILD else _tree_bytes(source)
    with image.open("wb") as file:
        size = _IMAGE_SLACK_BYTES + max(source_bytes * 2, 1 << 30) + more_files * _BYTES_A_FILE + more_bytes
        file.truncate(size)
    # Inode tables and journal are written now, not by a kernel thread during the measurements.
    inodes = str(size // _BYTES_AN_INODE + more_files)
    _run("mkfs.ext4", "-q", "-F", "-N", inodes, "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    _run("mount", "-o", "loop,noatime", str(image), str(top))
    layers = Layers(lower=top / "lower", cells=top / "cells", stacks=top / "stacks")
    for directory in (layers.lower, layers.cells, layers.stacks):
        directory.mkdir()
    if source == BUILD:
        _run("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(layers.lower), _MIRROR)
        shutil.rmtree(layers.lower / "var/cache/apt/archives", ignore_errors=True)
    elif source is not None:
        _run("cp", "-a", "--one-file-system", f"{source}/.", str(layers.lower))
    _add_flat_directories(layers.lower / "bench")
    _warm(layers.lower)
    return layers


def settle(layers: Layers) -> None:
    """Writes out everything dirty on the image, so that one measurement does not pay for the one before."""
    _run("sync", "-f", str(layers.cells))


def _add_flat_directories(bench: Path) -> None:
    for directory in (bench / "a", bench / "b"):
        directory.mkdir(parents=True)
        for index in range(FLAT_FILES):
            (directory / flat_name(index)).write_bytes(FLAT_CONTENT)
    block = os.urandom(1 << 20)
    with (bench / "big").open("wb") as file:
        for _ in range(BIG_BYTES // len(block)):
            file.write(block)


def _warm(lower: Path) -> None:
    # Measurements are of a fresh mount over warm layers: the union's own cost, and the same for whoever comes first.
    _run("sync", "-f", str(lower))
    _run("sh", "-c", 'tar -C "$0" -cf - . | cat > /dev/null', str(lower))


def _tree_bytes(path: str) -> int:
    return int(_run("du", "-sxB1", path).split()[0])


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LayerError(f"{command[0]}: not installed") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        raise LayerError(f"{' '.join(command)}: {lines[-1]}")
    return done.stdout
