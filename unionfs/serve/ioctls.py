"""Which ioctls reach the real file?  The inode flags of chattr(1) and lsattr(1); all others are ENOTTY."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, fs
from unionfs.overlay.copyup import ensure_upper
from unionfs.wire.kinds import Header, Ioctl

if TYPE_CHECKING:
    from unionfs.serve.context import Context

_U32: Final = struct.Struct("=I")


class Ioctls:
    """The IOCTL operation."""

    __slots__ = ("_union",)

    def __init__(self, context: Context) -> None:
        self._union = context.union

    def ioctl(self, header: Header, request: Ioctl) -> bytes:
        """The bytes to hand back.  Raises ENOTTY for what is not served."""
        if request.cmd not in (fs.FS_IOC_GETFLAGS, fs.FS_IOC_SETFLAGS):
            raise OSError(errno.ENOTTY, "no such ioctl here")
        node = self._union.node(header.nodeid)
        if not (node.is_regular or node.is_dir):
            raise OSError(errno.ENOTTY, "no such ioctl here")
        if request.cmd == fs.FS_IOC_SETFLAGS:
            ensure_upper(self._union, node)
        fd = at.open_at(*node.at(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            if request.cmd == fs.FS_IOC_GETFLAGS:
                return _U32.pack(fs.inode_flags(fd) & 0xFFFFFFFF)[: request.out_size]
            if len(request.data) < _U32.size:
                raise OSError(errno.EINVAL, "flags are missing")
            fs.set_inode_flags(fd, _U32.unpack_from(request.data)[0])
            return b""
        finally:
            os.close(fd)
