"""How do the data of a file follow its metadata to the upper layer?  Written into the file that is there, then its mark goes.

As long as the metacopy mark is on the upper file its own contents mean nothing, so they can be filled in place: a crash
leaves the mark and with it the data below, or the data in their new place.  What is written has reached the device before
the mark is removed (fs/overlayfs/copy_up.c, ovl_copy_up_meta_inode_data).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, fs, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import metacopy
from unionfs.overlay.config import Fsync
from unionfs.overlay.copydata import Cancelled, copy_data
from unionfs.overlay.node import Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_CAPABILITY: Final = "security.capability"


class Job(ABC):
    """A copy-up in three steps, of which `prepare` and `publish` belong to the event loop and `copy` may run in a thread."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = Cancelled()

    def run(self) -> None:
        """All steps at once."""
        try:
            self.prepare()
            self.copy()
            self.publish()
        finally:
            self.close()

    @abstractmethod
    def prepare(self) -> None:
        """Open what is needed."""

    @abstractmethod
    def copy(self) -> None:
        """Do what takes long.  Raises EINTR when cancelled."""

    @abstractmethod
    def publish(self) -> None:
        """Make it show."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; what was not published is dropped."""


class DataCopyUp(Job):
    """The data of one file that is on the upper layer with its metadata alone; only the first `length` bytes, if given.

    Capabilities, set-id bits and times stay what they are.  When it fails, the data are where they were.
    """

    __slots__ = ("_capability", "_length", "_node", "_source", "_stat", "_target", "_union")

    def __init__(self, union: Union, node: Node, length: int | None = None) -> None:
        super().__init__()
        self._union = union
        self._node = node
        self._length = length
        self._source = -1
        self._target = -1
        self._stat: Stat | None = None
        self._capability: bytes | None = None

    def prepare(self) -> None:
        node = self._node
        assert node.data is not None
        metacopy.check(self._union, node)
        self._stat = stat.stat(*node.at())
        self._capability = xattr.find(*node.at(), _CAPABILITY) if self._stat.size else None
        self._source = at.open_at(*node.data.at(), os.O_RDONLY)
        self._target = at.open_at(*node.at(), os.O_WRONLY)

    def copy(self) -> None:
        """Raises EINTR when cancelled, ENOSPC, EDQUOT, EIO."""
        found, target = self._stat, self._target
        assert found is not None
        size = found.size if self._length is None else min(found.size, self._length)
        copy_data(self._source, target, size, self.cancelled)
        if size < found.size:
            os.ftruncate(target, size)
        if stat.stat(target).mode != found.mode:
            os.fchmod(target, found.mode & 0o7777)
        if self._capability is not None:
            xattr.write(target, None, _CAPABILITY, self._capability)
        at.utimens(target, b"", (found.atime, found.atime_nsec), (found.mtime, found.mtime_nsec))
        if size or self._union.config.fsync is Fsync.STRICT:
            sync_data(self._union, target)

    def publish(self) -> None:
        """From now on the file is one as any other."""
        union, node = self._union, self._node
        xattr.remove(self._target, None, union.prefix + "metacopy")
        node.data = None
        union.changed.append(node)
        if union.config.fsync is Fsync.STRICT:
            os.fsync(self._target)

    def close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1


def is_ordered(union: Union) -> bool:
    """Is it enough to write data out, because the journal orders what comes after them?"""
    return union.config.fsync is Fsync.AUTO and union.upper is not None and union.upper.ordered


def sync_data(union: Union, fd: int) -> None:
    """Bring a file's data to the device before something that must not outrun them, as the `fsync` option has it."""
    if union.config.fsync is Fsync.VOLATILE:
        return
    if is_ordered(union):
        fs.write_out(fd)
    else:
        os.fsync(fd)
