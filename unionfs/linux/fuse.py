"""How is the FUSE device asked for more than messages?  Its ioctls for backing files (linux/fuse.h)."""

import fcntl
import struct
from typing import Final

#: _IOW(229, 1, struct fuse_backing_map { int32_t fd; uint32_t flags; uint64_t padding; })
_BACKING_OPEN: Final = 0x4010E501
#: _IOW(229, 2, uint32_t)
_BACKING_CLOSE: Final = 0x4004E502
_MAP: Final = struct.Struct("=iIQ")
_ID: Final = struct.Struct("=I")


def backing_open(device: int, fd: int) -> int:
    """Register the regular file `fd` (O_PATH will do) as a backing file; its id, at least 1.

    Raises EPERM (no CAP_SYS_ADMIN in the initial user namespace, or passthrough not negotiated), ELOOP (the file's
    filesystem is stacked too deep), EINVAL and EISDIR (not a regular file), EOPNOTSUPP.
    """
    # Python hands back the ioctl's result only for a mutable buffer.
    result: int = fcntl.ioctl(device, _BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0)), True)
    return result


def backing_close(device: int, backing_id: int) -> None:
    """Release a backing id; opens that use it go on.  Raises ENOENT for an unknown id."""
    fcntl.ioctl(device, _BACKING_CLOSE, _ID.pack(backing_id))
