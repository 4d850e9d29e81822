"""How does a test come by a filesystem that loses data, and tells of it only those who ask?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import attached_loops
from unionfs.linux import fs

ROOM = 6 << 20
"""Bytes that the device under the filesystem really has."""


@contextmanager
def losing_disk(base: Path) -> Iterator[Path]:
    """A filesystem whose device has less room than it says, during the block."""
    place, disk = base / "memory", base / "disk"
    before = attached_loops(base)
    for path in (place, disk):
        path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", place], check=True)
    try:
        with open(place / "image", "wb") as image:
            image.truncate(64 << 20)
        # Without a journal it is the file's data alone that are lost, and the filesystem goes on.
        options = ["-O", "^has_journal", "-E", "lazy_itable_init=1"]
        subprocess.run(["mkfs.ext4", "-q", "-F", *options, place / "image"], check=True, capture_output=True)
        subprocess.run(["mount", "-t", "ext4", "-o", "loop", place / "image", disk], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", disk], check=True)
    finally:
        subprocess.run(["umount", place], check=True)
    assert attached_loops(base) == before


def lose_data(path: Path) -> None:
    """Write more to a file than the device can hold, and have the filesystem find that out, which tells only this descriptor."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(fd, os.urandom(2 * ROOM))
        with pytest.raises(OSError, match="Errno"):
            fs.write_out(fd)
    finally:
        os.close(fd)
