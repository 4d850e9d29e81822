"""What does statx(2) say of an object?  One call, one tuple, no exception for a name that is missing."""

import ctypes
import errno
import os
import struct
import threading
from typing import Final, NamedTuple

from unionfs.linux import libc

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_ATTR_IMMUTABLE: Final = 0x10
STATX_ATTR_APPEND: Final = 0x20


class Stat(NamedTuple):
    """struct statx up to stx_mnt_id (linux/stat.h); times as seconds and nanoseconds, blocks of 512 bytes."""

    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: int
    atime_nsec: int
    btime: int
    btime_nsec: int
    ctime: int
    ctime_nsec: int
    mtime: int
    mtime_nsec: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int
    mnt_id: int

    @property
    def rdev(self) -> int:
        return os.makedev(self.rdev_major, self.rdev_minor)

    @property
    def dev(self) -> int:
        return os.makedev(self.dev_major, self.dev_minor)

    @property
    def mtime_ns(self) -> int:
        return self.mtime * 1_000_000_000 + self.mtime_nsec

    @property
    def atime_ns(self) -> int:
        return self.atime * 1_000_000_000 + self.atime_nsec


_LAYOUT: Final = struct.Struct("=IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIIIQ")
_unpack: Final = _LAYOUT.unpack_from
_new: Final = tuple.__new__
_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
_MASK: Final = STATX_BASIC_STATS | STATX_BTIME
_ABSENT: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))
_statx: Final = libc.function(
    "statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
)


class _PerThread(threading.local):
    """The result buffer; one for each thread, since worker threads use statx too."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(256)
        self.address = ctypes.addressof(self.buffer)


_thread: Final = _PerThread()


def find(dir_fd: int, name: bytes) -> Stat | None:
    """The object `name` in `dir_fd` (empty name: `dir_fd` itself), symlinks not followed; None when there is none.

    A name that is too long for the directory's filesystem counts as absent there.  Raises OSError for everything else.
    """
    thread = _thread
    if _statx(dir_fd, name, _FLAGS, _MASK, thread.address) == 0:
        return _new(Stat, _unpack(thread.buffer))
    if ctypes.get_errno() in _ABSENT:
        return None
    raise libc.failed()


def stat(dir_fd: int, name: bytes = b"") -> Stat:
    """As `find`, but raises OSError (ENOENT, ENOTDIR, ENAMETOOLONG) when there is none."""
    thread = _thread
    if _statx(dir_fd, name, _FLAGS, _MASK, thread.address) == 0:
        return _new(Stat, _unpack(thread.buffer))
    raise libc.failed()
