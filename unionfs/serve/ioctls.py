"""Which ioctls reach the real file?  The inode flags of chattr(1), lsattr(1) and xfs_io(8); all others are ENOTTY."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from unionfs.linux import at, fs
from unionfs.overlay import protect
from unionfs.overlay.copyup import ensure_metadata
from unionfs.overlay.node import Node
from unionfs.wire.kinds import Header, Ioctl

if TYPE_CHECKING:
    from unionfs.serve.context import Context

_U32: Final = struct.Struct("=I")
_FSXATTR_SIZE: Final = 28
#: statx bit of a protection, and the bit that stands for it in the flags of each kind of ioctl.
_IN_FLAGS: Final = ((protect.IMMUTABLE, fs.FS_IMMUTABLE_FL), (protect.APPEND, fs.FS_APPEND_FL))
_IN_XFLAGS: Final = ((protect.IMMUTABLE, fs.FS_XFLAG_IMMUTABLE), (protect.APPEND, fs.FS_XFLAG_APPEND))
_T = TypeVar("_T")
_Bits = tuple[tuple[int, int], ...]


class Ioctls:
    """The IOCTL operation.  Immutable and append-only are kept beside an upper object, whose layer must stay changeable."""

    __slots__ = ("_union",)

    def __init__(self, context: Context) -> None:
        self._union = context.union

    def ioctl(self, header: Header, request: Ioctl) -> bytes:
        """The bytes to hand back.  Raises ENOTTY for what is not served."""
        node = self._union.node(header.nodeid)
        if not (node.is_regular or node.is_dir):
            raise OSError(errno.ENOTTY, "no such ioctl here")
        match request.cmd:
            case fs.FS_IOC_GETFLAGS:
                flags = self._on(node, fs.inode_flags) & 0xFFFFFFFF
                return _U32.pack(_shown(node, flags, _IN_FLAGS))[: request.out_size]
            case fs.FS_IOC_FSGETXATTR:
                found = self._on(node, fs.fsxattr)
                return (_U32.pack(_shown(node, _U32.unpack_from(found)[0], _IN_XFLAGS)) + found[4:])[: request.out_size]
            case fs.FS_IOC_SETFLAGS:
                flags = self._kept(node, request.data, _U32.size, _IN_FLAGS)
                self._change(node, lambda fd: fs.set_inode_flags(fd, flags))
            case fs.FS_IOC_FSSETXATTR:
                flags = self._kept(node, request.data, _FSXATTR_SIZE, _IN_XFLAGS)
                self._change(node, lambda fd: fs.set_fsxattr(fd, _U32.pack(flags) + request.data[4:_FSXATTR_SIZE]))
            case _:
                raise OSError(errno.ENOTTY, "no such ioctl here")
        return b""

    def _on(self, node: Node, call: Callable[[int], _T]) -> _T:
        fd = at.open_at(*node.at(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            return call(fd)
        finally:
            os.close(fd)

    def _change(self, node: Node, call: Callable[[int], None]) -> None:
        """Its change time is another then, and the kernel does not ask for it."""
        self._on(node, call)
        self._union.changed.append(node)

    def _kept(self, node: Node, data: bytes, size: int, bits: _Bits) -> int:
        """Keep the protections among the new flags, and return the others for the real file."""
        if len(data) < size:
            raise OSError(errno.EINVAL, "flags are missing")
        flags: int = _U32.unpack_from(data)[0]
        ensure_metadata(self._union, node)
        protect.write(self._union, node, sum(bit for bit, flag in bits if flags & flag))
        return flags & ~sum(flag for _, flag in bits)


def _shown(node: Node, flags: int, bits: _Bits) -> int:
    kept = protect.kept_flags(node)
    return flags | sum(flag for bit, flag in bits if kept & bit and not flags & flag)
