"""What is mounted where?  The table of mounts that this process sees (proc(5), /proc/self/mountinfo)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from unionfs.linux import procfs
from unionfs.linux.mount import (
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)

_FLAGS: Final = {
    b"ro": MS_RDONLY, b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC, b"sync": MS_SYNCHRONOUS,
    b"dirsync": MS_DIRSYNC, b"noatime": MS_NOATIME, b"nodiratime": MS_NODIRATIME, b"relatime": MS_RELATIME,
    b"lazytime": MS_LAZYTIME, b"nosymfollow": MS_NOSYMFOLLOW,
}  # fmt: skip


class Entry(NamedTuple):
    """One mount.  mount_id: as statx(2) has it, in digits.  device: `major:minor`.  point, source: octal escapes undone.

    kind: type of the filesystem with its subtype, `fuse.unionfs`.  options: those of the mount and of the filesystem.
    """

    mount_id: bytes
    device: bytes
    point: bytes
    options: frozenset[bytes]
    kind: bytes
    source: bytes

    def flags(self) -> int:
        """The MS_* bits of mount(2) that would mount it the same way again."""
        flags = 0
        for word, flag in _FLAGS.items():
            if word in self.options:
                flags |= flag
        return flags if flags & (MS_NOATIME | MS_RELATIME) else flags | MS_STRICTATIME


def entries() -> Iterator[Entry]:
    """All mounts; of those on one mount point the topmost comes last."""
    with open(procfs.path("self/mountinfo"), "rb") as table:
        for line in table:
            words = line.split()
            kind, source, of_filesystem = words[words.index(b"-", 6) + 1 :][:3]
            options = frozenset((*words[5].split(b","), *of_filesystem.split(b",")))
            yield Entry(words[0], words[2], _unescaped(words[4]), options, kind, _unescaped(source))


def topmost(mountpoint: bytes) -> Entry | None:
    """The mount that an absolute path without symlinks leads to, if it is a mount point.  Nothing is asked of the filesystem."""
    found = None
    for entry in entries():
        if entry.point == mountpoint:
            found = entry
    return found


def _unescaped(path: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)
