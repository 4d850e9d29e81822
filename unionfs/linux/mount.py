"""How are mounts made, cloned and removed?  mount(2), umount2(2), open_tree(2), mount_setattr(2), fsopen(2)."""

import ctypes
import os
from collections.abc import Iterable
from typing import Final

from unionfs.linux import libc
from unionfs.linux.stat import AT_EMPTY_PATH

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_DIRSYNC: Final = 128
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR__ATIME: Final = 0x70
MOUNT_ATTR_NODIRATIME: Final = 0x80
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6

_mount: Final = libc.slow.mount
_mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_umount2: Final = libc.slow.umount2
_umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
    """mount(2)."""
    if _mount(source, target, kind, flags, data):
        raise libc.failed()


def unmount(target: bytes, flags: int = 0) -> None:
    """umount2(2)."""
    if _umount2(target, flags):
        raise libc.failed()


def atime_attributes(flags: int) -> int:
    """What the MS_* bits of a mount say of access times, as MOUNT_ATTR_* bits; relatime (0) where they say nothing."""
    chosen = MOUNT_ATTR_NOATIME if flags & MS_NOATIME else MOUNT_ATTR_STRICTATIME if flags & MS_STRICTATIME else 0
    return chosen | (MOUNT_ATTR_NODIRATIME if flags & MS_NODIRATIME else 0)


def private_clone(dir_fd: int, *, read_only: bool, atime: int = 0) -> int:
    """A descriptor of the directory on a private, detached clone of its mount (overlayfs: clone_private_mount).

    Nothing mounted below shows through it, covering the original does not hide it, and with `read_only` the kernel
    refuses every write through it (EROFS).  `atime`: else what it does about access times (`atime_attributes`), whatever
    the original does.  Raises EPERM without CAP_SYS_ADMIN over the mount namespace, EINVAL where
    the mount can't be cloned (a locked child mount, a foreign namespace), ENOSYS before kernel 5.12.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    clone = libc.syscall("open_tree", dir_fd, b"", flags)
    try:
        wanted = MOUNT_ATTR_NOATIME | MOUNT_ATTR_RDONLY if read_only else atime
        attributes = (ctypes.c_uint64 * 4)(wanted, MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME, 0, 0)
        libc.syscall("mount_setattr", clone, b"", AT_EMPTY_PATH, attributes, ctypes.sizeof(attributes))
    except OSError:
        os.close(clone)
        raise
    return clone


def unmounted_fuse(device: int) -> int:
    """A descriptor that keeps a new FUSE filesystem served by `device` (/dev/fuse) alive, which is mounted nowhere.

    The kernel has put its INIT in the queue when this returns.  Raises EPERM without the privilege, ENOSYS before kernel 5.2.
    """
    context = libc.syscall("fsopen", b"fuse", _FSOPEN_CLOEXEC)
    try:
        for key, value in ((b"fd", b"%d" % device), (b"rootmode", b"40000"), (b"user_id", b"0"), (b"group_id", b"0")):
            libc.syscall("fsconfig", context, _FSCONFIG_SET_STRING, key, value, 0)
        libc.syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
    except OSError:
        os.close(context)
        raise
    return context


def unmounted_overlay(options: Iterable[tuple[bytes, bytes | None]]) -> int:
    """A descriptor of the root of a new kernel overlay that is mounted nowhere, and ends with the descriptor.

    A value of None stands for a flag.  Raises EPERM without the privilege, ENODEV without overlayfs, ENOSYS before kernel 5.2,
    and what overlayfs says to the options.
    """
    context = libc.syscall("fsopen", b"overlay", _FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            libc.syscall("fsconfig", context, _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING, key, value, 0)
        libc.syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0)
        detached = libc.syscall("fsmount", context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=detached)
    finally:
        os.close(detached)
