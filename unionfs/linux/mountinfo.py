"""What is mounted where?  The table of mounts that this process sees (proc(5), /proc/self/mountinfo)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from unionfs.linux import mount, procfs

_FLAGS: Final = {
    b"ro": mount.MS_RDONLY, b"nosuid": mount.MS_NOSUID, b"nodev": mount.MS_NODEV, b"noexec": mount.MS_NOEXEC,
    b"sync": mount.MS_SYNCHRONOUS, b"dirsync": mount.MS_DIRSYNC, b"noatime": mount.MS_NOATIME,
    b"nodiratime": mount.MS_NODIRATIME, b"relatime": mount.MS_RELATIME, b"lazytime": mount.MS_LAZYTIME,
    b"nosymfollow": mount.MS_NOSYMFOLLOW,
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
        return flags if flags & (mount.MS_NOATIME | mount.MS_RELATIME) else flags | mount.MS_STRICTATIME


def entries() -> Iterator[Entry]:
    """All mounts; of those on one mount point the topmost comes last."""
    with open(procfs.path("self/mountinfo"), "rb") as table:
        for line in table:
            words = line.rstrip(b"\n").split(b" ")
            kind, source, of_filesystem = words[words.index(b"-", 6) + 1 :][:3]
            options = frozenset((*words[5].split(b","), *of_filesystem.split(b",")))
            yield Entry(words[0], words[2], unescaped(words[4]), options, kind, unescaped(source))


def topmost(mountpoint: bytes) -> Entry | None:
    """The mount that an absolute path without symlinks leads to, if it is a mount point.  Nothing is asked of the filesystem."""
    found = None
    for entry in entries():
        if entry.point == mountpoint:
            found = entry
    return found


def unescaped(path: bytes) -> bytes:
    """A path as the table has it, with its octal escapes undone; the options' paths have them still."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)
