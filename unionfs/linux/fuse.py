"""How is the FUSE device asked for more than messages?  Its ioctls for backing files (linux/fuse.h)."""

import fcntl
import struct
from typing import Final

#: _IOW(229, 1, struct fuse_backing_map { int32_t fd; uint32_t flags; uint64_t ops_mask; })
#: (the last one is called padding, and has to be 0, in kernels without passthrough of inode operations)
_BACKING_OPEN: Final = 0x4010E501
#: _IOW(229, 2, uint32_t)
_BACKING_CLOSE: Final = 0x4004E502
_MAP: Final = struct.Struct("=iIQ")
_ID: Final = struct.Struct("=I")


def backing_open(device: int, fd: int, ops_mask: int = 0) -> int:
    """Register the regular file `fd` (O_PATH will do) as a backing file; its id, at least 1.

    `ops_mask`: the operations on inodes that are to pass through to it, as bits; with any but reading and writing it may be a
    file of any type. That takes a kernel with passthrough of inode operations (a draft), agreed on at INIT.

    Raises EPERM (no CAP_SYS_ADMIN in the initial user namespace, or passthrough not negotiated), ELOOP (the file's
    filesystem is stacked too deep), EINVAL (`ops_mask` where there is no such thing), EINVAL and EISDIR (not a regular file),
    EOPNOTSUPP.
    """
    # Python hands back the ioctl's result only for a mutable buffer.
    result: int = fcntl.ioctl(device, _BACKING_OPEN, bytearray(_MAP.pack(fd, 0, ops_mask)), True)
    return result


def backing_close(device: int, backing_id: int) -> None:
    """Release a backing id; opens that use it go on.  Raises ENOENT for an unknown id."""
    fcntl.ioctl(device, _BACKING_CLOSE, _ID.pack(backing_id))
