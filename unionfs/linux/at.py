"""How is an object addressed by (directory descriptor, name) changed?  The *at system calls with the flags Python hides.

In every function an empty name means the object the descriptor itself refers to (which may be opened with O_PATH).
Symbolic links are never followed.
"""

import ctypes
import errno
import os
from typing import Final

from unionfs.linux import libc, procfs
from unionfs.linux.stat import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

_int, _long, _uint, _str, _ptr = ctypes.c_int, ctypes.c_long, ctypes.c_uint, ctypes.c_char_p, ctypes.c_void_p
_renameat2: Final = libc.function("renameat2", _int, _str, _int, _str, _uint)
_fchownat: Final = libc.function("fchownat", _int, _str, _uint, _uint, _int)
_utimensat: Final = libc.function("utimensat", _int, _str, _ptr, _int)
_linkat: Final = libc.function("linkat", _int, _str, _int, _str, _int)
_Times: Final = _long * 4


def path(dir_fd: int, name: bytes) -> bytes:
    """A path through /proc for the calls that have no *at form; follow symlinks exactly when the name is empty."""
    return procfs.fd_path(dir_fd, name)


def open_at(dir_fd: int, name: bytes, flags: int, mode: int = 0) -> int:
    """openat(2), close-on-exec and never through a symlink; an empty name reopens `dir_fd`'s own object."""
    if name:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=dir_fd)
    return os.open(procfs.fd_path(dir_fd), (flags | os.O_CLOEXEC) & ~os.O_NOFOLLOW)


def open_beneath(dir_fd: int, name: bytes, flags: int, *, across_mounts: bool = False) -> int:
    """openat2(2) of a path of several components that may not cross a symlink, a mount (unless so told), nor leave `dir_fd`.

    Raises OSError: ELOOP (symlink), EXDEV (mount or escape), and what openat raises.
    """
    resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | (0 if across_mounts else RESOLVE_NO_XDEV)
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)
    return libc.syscall("openat2", dir_fd, name, how, ctypes.sizeof(how))


def rename(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2)."""
    if _renameat2(old_fd, old, new_fd, new, flags):
        raise libc.failed()


def chown(dir_fd: int, name: bytes, uid: int, gid: int) -> None:
    """fchownat(2); an id of -1 (or 0xffffffff) leaves that one as it is."""
    if _fchownat(dir_fd, name, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise libc.failed()


def chmod(dir_fd: int, name: bytes, mode: int) -> None:
    """fchmodat2(2), on kernels before 6.6 by way of an O_PATH descriptor.  Raises EOPNOTSUPP for a symlink."""
    try:
        libc.syscall("fchmodat2", dir_fd, name, mode, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        fd = open_at(dir_fd, name, os.O_PATH)
        try:
            os.chmod(procfs.fd_path(fd), mode)
        finally:
            os.close(fd)


def utimens(dir_fd: int, name: bytes, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2); times as (seconds, nanoseconds), nanoseconds may be UTIME_NOW or UTIME_OMIT."""
    times = _Times(*atime, *mtime)
    if _utimensat(dir_fd, name, ctypes.addressof(times), AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise libc.failed()


def link(old_fd: int, old: bytes, new_fd: int, new: bytes) -> None:
    """linkat(2); with an empty old name the object of `old_fd` (an O_TMPFILE file, an O_PATH descriptor) gets a name."""
    failure = _linkat(old_fd, old, new_fd, new, 0 if old else AT_EMPTY_PATH)
    if failure and not old and ctypes.get_errno() == errno.ENOENT:
        # Without CAP_DAC_READ_SEARCH only the way through /proc is open (open(2), O_TMPFILE).
        failure = _linkat(AT_FDCWD, procfs.fd_path(old_fd), new_fd, new, AT_SYMLINK_FOLLOW)
    if failure:
        raise libc.failed()


def readlink(dir_fd: int, name: bytes) -> bytes:
    """readlinkat(2)."""
    return os.readlink(name, dir_fd=dir_fd)
