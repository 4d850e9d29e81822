"""How is an open of a regular file served?  A pure function of what is known of the file and of the opens that live.

The kernel holds one inode in one I/O mode at a time and fails an open that does not fit with EIO (fs/fuse/iomode.c):

- opens through the page cache and opens by passthrough exclude each other while one of them lives;
- all opens by passthrough name the same backing file while one of them lives, which is opened for each as the user opens;
- beside FOPEN_PASSTHROUGH only DIRECT_IO, PARALLEL_DIRECT_WRITES and NOFLUSH are allowed, and at INIT no writeback cache.

So the mode of an inode is chosen by its first open and kept till the last one is gone.  When the file's data have moved
meanwhile and the backing file of the living opens is no longer the right one, the inode splits: see `Mode.SPLIT`.
"""

from __future__ import annotations

import enum
import os
from typing import Final

from unionfs.serve.config import LowerIo
from unionfs.wire import abi

#: Set in the flags of an open by which a program is executed (__FMODE_EXEC, include/linux/fs.h).
FMODE_EXEC: Final = 0x20
#: So open programs that read whole trees (tar, cp, rsync) and never the dynamic loader: they map nothing, and many small reads
#: are answered sooner by a page cache.
_OF_READERS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME
_SET_BY_ALL: Final = abi.FOPEN_NOFLUSH
_SHARED_OBJECT: Final = (b".so", b".so.")
_EXECUTABLE: Final = 0o111


class Mode(enum.Enum):
    """What to answer.

    PASSTHROUGH: read, write, mapping and splice at the backing file.
    MAPPED: mappings at the backing file; reads come to the server, which knows where the data are by now.
    CACHED: through the page cache of the FUSE inode.
    BUSY: ETXTBSY; the inode is in use with a lower file, which can't be opened like that.
    STALE: ESTALE, so that the VFS looks the name up again and finds the inode that stands for it by now.
    SPLIT: the file gets a new inode, and then STALE: what is open stays with the old one.
    """

    PASSTHROUGH = enum.auto()
    MAPPED = enum.auto()
    CACHED = enum.auto()
    BUSY = enum.auto()
    STALE = enum.auto()
    SPLIT = enum.auto()


#: FOPEN_ bits of an OPEN's answer, for the modes that open.
FLAGS: Final = {
    Mode.PASSTHROUGH: abi.FOPEN_PASSTHROUGH | _SET_BY_ALL,
    Mode.MAPPED: abi.FOPEN_PASSTHROUGH | abi.FOPEN_DIRECT_IO | _SET_BY_ALL,
    Mode.CACHED: _SET_BY_ALL,
}


def decide(
    cached: int, backed: int, current: bool, flags: int, *,
    settled: bool, mappable: bool, backable: bool, lower_io: LowerIo, former: bool, asked_before: bool,
) -> Mode:  # fmt: skip
    """The mode of one more open, with the open(2) `flags`.

    cached, backed: the inode's living opens, through the page cache and with a backing file (PASSTHROUGH and MAPPED).
    current: the backing file of those is the one that holds the data now.  settled: the place of the data can no longer
    change.  mappable: an executable or a shared object.  backable: the file can be registered as a backing file.
    former: the file's names lead to a younger inode.  asked_before: this caller was answered STALE and has come back, so it
    has no name to look up (a re-open through /proc/self/fd).
    """
    if former and not asked_before:
        return Mode.STALE
    if cached:
        return Mode.CACHED
    # What an exec opens is read by nobody but the kernel, and no longer when the program runs.
    straight = settled or lower_io is LowerIo.PASSTHROUGH or bool(flags & FMODE_EXEC)
    if backed:
        if current:
            return Mode.PASSTHROUGH if straight else Mode.MAPPED
        if not former:
            return Mode.SPLIT
        # Reads are served from where the data are now; neither a writer nor a program could do with the lower file.
        return Mode.BUSY if is_writing(flags) or flags & FMODE_EXEC else Mode.MAPPED
    if not backable:
        return Mode.CACHED
    if settled or lower_io is LowerIo.PASSTHROUGH:
        return Mode.PASSTHROUGH
    if not mappable or lower_io is LowerIo.CACHED or flags & _OF_READERS:
        return Mode.CACHED
    return Mode.PASSTHROUGH if straight else Mode.MAPPED


def is_mappable(name: bytes, mode: int, start: bytes) -> bool:
    """Is a file with that name, st_mode and first bytes mapped by nature?  A script is read, by its interpreter."""
    return (bool(mode & _EXECUTABLE) or name.endswith(_SHARED_OBJECT[0]) or _SHARED_OBJECT[1] in name) and start[:2] != b"#!"


def is_writing(flags: int) -> bool:
    """Do the flags of an open(2) allow writing?"""
    return flags & os.O_ACCMODE != os.O_RDONLY
