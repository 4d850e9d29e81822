"""What can a filesystem do, and what is it?  statfs(2), inode flags, reflinks, fs-verity."""

import ctypes
import errno
import fcntl
import struct
from typing import Final, NamedTuple

from unionfs.linux import libc

EXT4_SUPER_MAGIC: Final = 0xEF53
XFS_SUPER_MAGIC: Final = 0x58465342
OVERLAYFS_SUPER_MAGIC: Final = 0x794C7630
FUSE_SUPER_MAGIC: Final = 0x65735546
ECRYPTFS_SUPER_MAGIC: Final = 0xF15F
PROC_SUPER_MAGIC: Final = 0x9FA0
EROFS_SUPER_MAGIC: Final = 0xE0F5E1E2
FICLONE: Final = 0x40049409
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
#: _IOR('X', 31, struct fsxattr) and _IOW('X', 32, struct fsxattr), linux/fs.h; 28 bytes, the flags first.
FS_IOC_FSGETXATTR: Final = 0x801C581F
FS_IOC_FSSETXATTR: Final = 0x401C5820
#: _IOWR('f', 134, struct fsverity_digest), linux/fsverity.h.
FS_IOC_MEASURE_VERITY: Final = 0xC0046686
FS_XFLAG_IMMUTABLE: Final = 0x8
FS_XFLAG_APPEND: Final = 0x10
FS_SYNC_FL: Final = 0x8
FS_IMMUTABLE_FL: Final = 0x10
FS_APPEND_FL: Final = 0x20
FS_NOATIME_FL: Final = 0x80
FS_CASEFOLD_FL: Final = 0x40000000
#: A mode of fallocate(2), linux/falloc.h.
FALLOC_FL_KEEP_SIZE: Final = 1

_DIGEST_HEAD: Final = struct.Struct("=HH")
_DIGEST_MAX: Final = 64
_LAYOUT: Final = struct.Struct("=qqQQQQQiiqqq")
_fstatfs: Final = libc.function("fstatfs", ctypes.c_int, ctypes.c_void_p)
_fallocate: Final = libc.function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, blocking=True)
_syncfs: Final = libc.function("syncfs", ctypes.c_int, blocking=True)
_sync_file_range: Final = libc.function(
    "sync_file_range", ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint, blocking=True
)
_WRITE: Final = 2
_WRITE_AND_WAIT: Final = 1 | 2 | 4
_WAIT_BEFORE: Final = 1
#: Beyond the end of every file.
_NOWHERE: Final = (1 << 62, 1)


class StatFs(NamedTuple):
    """struct statfs (statfs(2)); block counts in units of `frsize`."""

    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    fsid0: int
    fsid1: int
    namelen: int
    frsize: int
    flags: int


def statfs(fd: int) -> StatFs:
    """fstatfs(2); works on an O_PATH descriptor."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(fd, ctypes.addressof(buffer)):
        raise libc.failed()
    return StatFs._make(_LAYOUT.unpack_from(buffer))


def syncfs(fd: int) -> None:
    """syncfs(2) of the filesystem that holds `fd`; may take long."""
    if _syncfs(fd):
        raise libc.failed()


def reflink(target: int, source: int) -> None:
    """ioctl FICLONE: `target` shares all of `source`'s data.  Raises EOPNOTSUPP, EXDEV, EINVAL where it can't."""
    fcntl.ioctl(target, FICLONE, source)


def inode_flags(fd: int) -> int:
    """ioctl FS_IOC_GETFLAGS.  Raises ENOTTY, EOPNOTSUPP where the filesystem has none."""
    buffer = bytearray(8)
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer, True)
    return int.from_bytes(buffer[:4], "little")


def set_inode_flags(fd: int, flags: int) -> None:
    """ioctl FS_IOC_SETFLAGS."""
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("=q", flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with every mode the filesystem knows.  Raises EOPNOTSUPP, ENOSPC, EINVAL."""
    if _fallocate(fd, mode, offset, length):
        raise libc.failed()


def start_write_out(fd: int) -> None:
    """sync_file_range(2): begin to write the file's dirty pages to the device, without waiting."""
    if _sync_file_range(fd, 0, 0, _WRITE):
        raise libc.failed()


def write_out(fd: int) -> None:
    """sync_file_range(2): write the file's dirty pages to the device and wait for that; no journal commit, no flush."""
    if _sync_file_range(fd, 0, 0, _WRITE_AND_WAIT):
        raise libc.failed()


def check_written(fd: int) -> None:
    """sync_file_range(2) of nothing: raises the error with which some of the file's pages could not be written, without waiting.

    Each error is raised once for each open file that it came after, or by the first that asks (fsync(2)).
    """
    if _sync_file_range(fd, *_NOWHERE, _WAIT_BEFORE):
        raise libc.failed()


def measure_verity(fd: int) -> tuple[int, bytes] | None:
    """ioctl FS_IOC_MEASURE_VERITY: fs-verity's number of the hash algorithm, and the file's digest; None when it has none.

    struct fsverity_digest (linux/fsverity.h): u16 algorithm, u16 size of the buffer and then of the digest, digest.
    """
    buffer = bytearray(_DIGEST_HEAD.pack(0, _DIGEST_MAX) + bytes(_DIGEST_MAX))
    try:
        fcntl.ioctl(fd, FS_IOC_MEASURE_VERITY, buffer, True)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP):
            raise
        return None
    algorithm, size = _DIGEST_HEAD.unpack_from(buffer)
    return algorithm, bytes(buffer[_DIGEST_HEAD.size : _DIGEST_HEAD.size + size])


def fsxattr(fd: int) -> bytes:
    """ioctl FS_IOC_FSGETXATTR: struct fsxattr, 28 bytes, whose first u32 are the FS_XFLAG_ bits."""
    buffer = bytearray(28)
    fcntl.ioctl(fd, FS_IOC_FSGETXATTR, buffer, True)
    return bytes(buffer)


def set_fsxattr(fd: int, value: bytes) -> None:
    """ioctl FS_IOC_FSSETXATTR with a struct fsxattr of 28 bytes."""
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, value)
