"""System calls: which calls do the tests make that Python's os module lacks?

Deliberately apart from unionfs.linux, so that a mistake there cannot hide itself from the tests.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
"""renameat2(2) flags, linux/fs.h."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_COLLAPSE_RANGE = 0x08
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20
FALLOC_FL_UNSHARE_RANGE = 0x40
"""fallocate(2) modes, linux/falloc.h."""

STATX_BTIME = 0x800
STATX_BASIC_STATS = 0x7FF
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
SYS_GETDENTS64 = 217 if os.uname().machine == "x86_64" else 61

CLONE_NEWNS = 0x20000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
"""linux/sched.h, linux/mount.h."""

PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""

ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"
ACL_TAGS = {"u": 0x01, "user": 0x02, "g": 0x04, "group": 0x08, "mask": 0x10, "o": 0x20}


def checked(result: int, *names: str) -> int:
    """A result of libc, or the OSError of its errno if it is negative; `names` are the files it was about."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *names)
    return result


def renameat2(source: str, target: str, flags: int) -> None:
    """Renames with RENAME_* flags, both paths relative to the working directory."""
    checked(_libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)), source)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Linux's fallocate(2) with FALLOC_FL_* modes; `offset` and `length` in bytes."""
    checked(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


MAX_HANDLE_SZ = 128


class FileHandle(NamedTuple):
    """struct file_handle of name_to_handle_at(2): the filesystem's type number and its bytes."""

    kind: int
    opaque: bytes


def name_to_handle(path: str) -> FileHandle:
    """name_to_handle_at(2), a symlink itself."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", MAX_HANDLE_SZ, 0), 8 + MAX_HANDLE_SZ)
    checked(_libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(ctypes.c_int()), 0), path)
    size, kind = struct.unpack_from("=Ii", buffer)
    return FileHandle(kind, buffer.raw[8 : 8 + size])


def open_by_handle(mount: str, handle: FileHandle, flags: int = os.O_RDONLY) -> int:
    """open_by_handle_at(2) on the filesystem mounted on `mount`."""
    directory = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        raw = ctypes.create_string_buffer(struct.pack("=Ii", len(handle.opaque), handle.kind) + handle.opaque)
        return checked(_libc.open_by_handle_at(directory, raw, flags | os.O_CLOEXEC), mount)
    finally:
        os.close(directory)


class Statx(NamedTuple):
    """The fields of struct statx (statx(2)) that tests look at: the mask that came back, and times as (seconds, nanoseconds)."""

    mask: int
    mode: int
    size: int
    ino: int
    btime: tuple[int, int]


def statx(path: str, mask: int = STATX_BASIC_STATS | STATX_BTIME) -> Statx:
    """statx(2) of a path, a symlink itself not followed."""
    buffer = ctypes.create_string_buffer(256)
    checked(_libc.statx(AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, ctypes.c_uint(mask), buffer), path)
    got, _blksize, _attributes, _nlink, _uid, _gid, mode, ino, size = struct.unpack_from("=IIQIIIHxxQQ", buffer.raw, 0)
    btime = struct.unpack_from("=qI", buffer.raw, 80)
    return Statx(got, mode, size, ino, (btime[0], btime[1]))


class DirectoryEntry(NamedTuple):
    """One struct linux_dirent64 (getdents64(2)); `offset` is the cookie that continues behind it, `type` a DT_* number."""

    ino: int
    offset: int
    type: int
    name: str


def getdents(fd: int, size: int = 32768) -> list[DirectoryEntry]:
    """One getdents64(2) call with a buffer of `size` bytes; an empty list is the end of the directory."""
    buffer = ctypes.create_string_buffer(size)
    end = checked(_libc.syscall(ctypes.c_long(SYS_GETDENTS64), fd, buffer, ctypes.c_size_t(size)))
    raw, position, entries = buffer.raw, 0, []
    while position < end:
        ino, offset, length, kind = struct.unpack_from("=QqHB", raw, position)
        name = raw[position + 19 : position + length].split(b"\0", 1)[0]
        entries.append(DirectoryEntry(ino, offset, kind, os.fsdecode(name)))
        position += length
    return entries


def own_mount_namespace() -> None:
    """Moves the calling thread, and every process it starts from now on, to a mount namespace of its own (unshare(2),
    CLONE_NEWNS).

    Its mounts are made private, recursively: nothing mounted later is seen, or held, by processes outside.
    """
    checked(_libc.unshare(CLONE_NEWNS))
    checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "/")


def die_with_parent() -> None:
    """Has the kernel kill this process when the thread that forked it ends (prctl(2), PR_SET_PDEATHSIG)."""
    checked(_libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)))


def link_fd(fd: int, target: str) -> None:
    """Gives an open file a name, by linkat(2) with AT_SYMLINK_FOLLOW on /proc/self/fd."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def acl(*entries: str) -> bytes:
    """The value of a POSIX ACL xattr from entries such as `u::rw-`, `user:1000:r--`, `mask::r--` (linux/posix_acl_xattr.h,
    version 2).
    """
    value = struct.pack("<I", 2)
    for entry in entries:
        tag, who, rights = entry.split(":")
        bits = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in rights)
        value += struct.pack("<HHI", ACL_TAGS[tag], bits, int(who) if who else 0xFFFFFFFF)
    return value


def capability(permitted: int, effective: bool = True) -> bytes:
    """The value of `security.capability`, revision 2, of a set of capability bits (linux/capability.h, struct vfs_cap_data)."""
    return struct.pack("<IIIII", 0x02000000 | int(effective), permitted & 0xFFFFFFFF, 0, permitted >> 32, 0)


OPEN_TREE_CLONE = 1
MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK = 0x10, 0x70
SYS_OPEN_TREE, SYS_MOUNT_SETATTR = 428, 442
"""linux/mount.h; the numbers are the same on every architecture."""


def view_without_atime(directory: str) -> int:
    """A descriptor of a directory through a mount of its own, which is mounted nowhere (open_tree(2), mount_setattr(2)).

    Reading there sets no access times, and what is mounted below the directory does not show.
    """
    call = ctypes.c_long(SYS_OPEN_TREE)
    fd = checked(_libc.syscall(call, AT_FDCWD, os.fsencode(directory), OPEN_TREE_CLONE | os.O_CLOEXEC), directory)
    # struct mount_attr: what to set, what to clear before, propagation, user namespace.
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK, 0, 0)
    try:
        call = ctypes.c_long(SYS_MOUNT_SETATTR)
        checked(_libc.syscall(call, fd, b"", AT_EMPTY_PATH, attributes, ctypes.c_size_t(len(attributes))), directory)
    except OSError:
        os.close(fd)
        raise
    return fd


def sync_file_range(fd: int, offset: int, length: int) -> None:
    """sync_file_range(2), writing out and waiting before and after."""
    checked(_libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(7)))


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    checked(_libc.syncfs(fd))
