"""Which persistent name does the filesystem give an inode?  File handles and the filesystem's UUID."""

import array
import ctypes
import errno
import fcntl
import os
import struct
import threading
from typing import Final, NamedTuple

from unionfs.linux import libc
from unionfs.linux.stat import AT_EMPTY_PATH

MAX_HANDLE_SZ: Final = 128
_HEAD: Final = struct.Struct("=Ii")
#: _IOR(0x15, 0, struct fsuuid2 { __u8 len; __u8 uuid[16]; }), linux/fs.h, kernel 6.9.
_FS_IOC_GETFSUUID: Final = 0x80111500
#: _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args), 1024 bytes: u64 max_id, u64 num_devices, u8 fsid[16], ... (linux/btrfs.h).
_BTRFS_IOC_FS_INFO: Final = 0x8400941F
_name_to_handle_at: Final = libc.function(
    "name_to_handle_at", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
)
_UNSUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.EOVERFLOW, errno.ENOSYS, errno.EPERM))


class _PerThread(threading.local):
    """Room for the result; for each thread, since copies are made in worker threads too."""

    def __init__(self) -> None:
        self.handle = ctypes.create_string_buffer(_HEAD.size + MAX_HANDLE_SZ)
        self.address = ctypes.addressof(self.handle)
        self.mount_id = ctypes.c_int()
        self.mount_id_address = ctypes.addressof(self.mount_id)


_thread: Final = _PerThread()


class Handle(NamedTuple):
    """struct file_handle: the filesystem's own type number and its opaque bytes (at most 128)."""

    kind: int
    opaque: bytes


def encode(dir_fd: int, name: bytes) -> Handle | None:
    """name_to_handle_at(2); None where the filesystem has no handles."""
    room = _thread
    _HEAD.pack_into(room.handle, 0, MAX_HANDLE_SZ, 0)
    if _name_to_handle_at(dir_fd, name, room.address, room.mount_id_address, AT_EMPTY_PATH):
        if ctypes.get_errno() in _UNSUPPORTED:
            return None
        raise libc.failed()
    size, kind = _HEAD.unpack_from(room.handle)
    return Handle(kind, ctypes.string_at(room.address + _HEAD.size, size))


def open_handle(mount_fd: int, handle: Handle, flags: int) -> int:
    """open_by_handle_at(2) on the filesystem of `mount_fd`, which must not be an O_PATH descriptor.

    Raises OSError: ESTALE (the inode is gone), EPERM (needs CAP_DAC_READ_SEARCH), EBADF, EINVAL.
    """
    raw = ctypes.create_string_buffer(_HEAD.pack(len(handle.opaque), handle.kind) + handle.opaque)
    return libc.syscall("open_by_handle_at", mount_fd, raw, flags | os.O_CLOEXEC)


def filesystem_uuid(fd: int) -> bytes:
    """The 16 bytes of the superblock's UUID; zeros where the filesystem has none or the kernel can't say."""
    buffer = array.array("B", bytes(17))
    try:
        fcntl.ioctl(fd, _FS_IOC_GETFSUUID, buffer, True)
    except OSError:
        return _btrfs_uuid(fd)
    return bytes(buffer[1:17]) if buffer[0] == 16 else bytes(16)


def _btrfs_uuid(fd: int) -> bytes:
    """btrfs has a UUID in its superblock, as overlayfs sees it, but only its own ioctl tells it."""
    buffer = bytearray(1024)
    try:
        fcntl.ioctl(fd, _BTRFS_IOC_FS_INFO, buffer, True)
    except OSError:
        return bytes(16)
    return bytes(buffer[16:32])
