"""What changes a union as fast as it can, so that every moment can be checked?  A list of files and one change for each.

Run as a program it makes the changes: `python -m tests.overlay.hammer MOUNTPOINT JOURNAL`.  Whatever it has synced it
notes in the journal first, so that a snapshot taken after that has to hold it.
"""

from __future__ import annotations

import enum
import functools
import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

FILES = 1200
OWNER = 4321
MODE = 0o2640
TAIL = b"appended by the caller, whose own matter it is to sync it"
ATTRIBUTE = "user.hammer"
_SMALL, _LARGE = 24 << 10, 1 << 20
_BLOCK = 1 << 20


class Change(enum.Enum):
    """What happens to a file, each of which copies it up or hides it."""

    CHOWN = "chown"
    CHMOD = "chmod"
    APPEND = "append"
    XATTR = "xattr"
    UNLINK = "unlink"


class Subject(NamedTuple):
    """A file of the lower layer: its path in the union, its size in bytes, its change, and whether that is synced."""

    number: int
    path: str
    size: int
    change: Change
    synced: bool


def subjects() -> list[Subject]:
    """All files, the same in every process."""
    chance = random.Random(20_240_607)
    found = []
    for number in range(FILES):
        limit = chance.choices((0, 1, _SMALL, _LARGE), (2, 1, 12, 3))[0]
        change = chance.choices(list(Change), (5, 4, 5, 3, 3))[0]
        synced = change is not Change.UNLINK and chance.random() < 0.08
        path = f"d{number % 7}/e{number % 3}/f{number}"
        found.append(Subject(number, path, chance.randint(0, limit), change, synced))
    return found


@functools.cache
def _noise() -> bytes:
    return random.Random(7).randbytes(_BLOCK + FILES * 16)


def content(subject: Subject) -> bytes:
    """The bytes of the file in the lower layer: no two files alike, and no block of zeros in them."""
    start = 16 * subject.number
    return _noise()[start : start + subject.size]


def build(lower: Path) -> None:
    """Make the files."""
    for subject in subjects():
        path = lower / subject.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(subject))


def change(root: Path, subject: Subject) -> None:
    """Make the subject's change below `root`."""
    path = root / subject.path
    match subject.change:
        case Change.CHOWN:
            os.chown(path, OWNER, OWNER)
        case Change.CHMOD:
            path.chmod(MODE)
        case Change.APPEND:
            if subject.number % 2:
                # With metacopy=on the data then follow what is there already.
                path.chmod(MODE)
            with open(path, "ab", buffering=0) as file:
                file.write(TAIL)
        case Change.XATTR:
            os.setxattr(path, ATTRIBUTE, b"1")
        case Change.UNLINK:
            path.unlink()
    if subject.synced:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def main() -> None:
    """Make all changes, and note those that were synced."""
    root, journal = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
    for subject in subjects():
        change(root, subject)
        if subject.synced:
            os.write(journal, b"%d\n" % subject.number)


if __name__ == "__main__":
    main()
