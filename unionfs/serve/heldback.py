"""What does it take that the kernel holds writes back?  Its modification times, and its data when they are needed.

With FUSE_WRITEBACK_CACHE the kernel's size and times of a regular file that it knows are the ones that count; it asks for
neither again (fs/fuse/inode.c, fuse_get_cache_mask).  Data reach the server before the descriptor is closed, and in what order
with SETATTRs that name a time is not said: background writeback waits for no WRITE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

import trio

from unionfs.linux import at, stat
from unionfs.overlay.inodes import names_of
from unionfs.overlay.node import Node
from unionfs.serve.fileio import FileIo
from unionfs.serve.notices import DeviceNotices
from unionfs.wire import abi
from unionfs.wire.kinds import Setattr

if TYPE_CHECKING:
    from unionfs.overlay.union import Union
    from unionfs.serve.context import Context

_TIMES: Final = abi.FATTR_MTIME | abi.FATTR_CTIME
_BESIDE: Final = abi.FATTR_FH | abi.FATTR_LOCKOWNER
_OMIT: Final = (0, at.UTIME_OMIT)


def tells_times(request: Setattr) -> bool:
    """Is it the kernel's word on the times it keeps itself (fs/fuse/dir.c, fuse_flush_times)?

    utimensat(2) with UTIME_OMIT for the access time looks the same.
    """
    return request.valid & ~_BESIDE == _TIMES


class HeldBack:
    """The files whose data have changed on the upper layer since the kernel's last word on their modification time.

    Each change moves the file's own time, to a moment after the kernel's.  If the kernel has a newer one it says so before it
    lets go of the file; if it has not, because its clock ticks coarsely or the data came late, its last word is set again when
    nobody has the file open for writing any more (`settle`).

    A write that fails when the kernel sends it leaves the kernel with a size that the file has not: the kernel is made to forget
    the file then.

    on: the kernel holds writes back at all.
    """

    __slots__ = ("_late", "_notices", "_wrong", "on")

    def __init__(self, context: Context) -> None:
        self.on = bool(context.flags & abi.WRITEBACK_CACHE)
        self._notices = context.notices
        self._late: dict[Node, FileIo] = {}
        self._wrong: set[Node] = set()

    def copied_up(self, union: Union, node: Node, number: int) -> None:
        """A file with this inode number was copied up for an open, if it is on the upper layer now.

        The kernel need not ask for its attributes before the first write, since of those that differ the change time is its own
        and it asks for the blocks after the close; unless the file has become another inode.
        """
        if node.ino == number and node.links is None and node in union.changed:
            union.changed.remove(node)

    def changing(self, node: Node, io: FileIo, fd: int = -1) -> None:
        """The data of an open file are about to be changed; `fd` is a descriptor of it, if there is one."""
        self.changed(node, io, self.mtime_of(node, io, fd))

    def changed(self, node: Node, io: FileIo, mtime: tuple[int, int]) -> None:
        """The data of an open file have changed; `mtime` is what `mtime_of` said before."""
        io.mtime = mtime
        self._late[node] = io

    def mtime_of(self, node: Node, io: FileIo | None, fd: int = -1) -> tuple[int, int]:
        """What the kernel takes for the file's modification time, unless it has a newer one that it will tell."""
        if io is not None and io.mtime is not None:
            return io.mtime
        found = stat.stat(fd) if fd >= 0 else stat.stat(*node.at())
        return found.mtime, found.mtime_nsec

    def told(self, node: Node, io: FileIo | None, mtime: tuple[int, int]) -> None:
        """The kernel has named the file's modification time (seconds, nanoseconds), which has been set."""
        if io is not None:
            io.mtime = mtime
            self._late.pop(node, None)

    def set_told(self, node: Node, mtime: tuple[int, int]) -> None:
        """Set the time that the kernel says an upper file has.

        Who may write a file may not always set its times (utimensat(2)); then it keeps that of the write, moments later.
        """
        with contextlib.suppress(PermissionError):
            at.utimens(*node.at(), _OMIT, mtime)

    def settle(self, node: Node) -> None:
        """The kernel has written all it had of the file: its last word on the time counts."""
        io = self._late.pop(node, None)
        if io is not None and io.mtime is not None and node.data_upper:
            with contextlib.suppress(OSError):
                if io.fd >= 0 and io.fd_upper:
                    at.utimens(io.fd, b"", _OMIT, io.mtime)
                else:
                    at.utimens(*node.at(), _OMIT, io.mtime)

    def failed(self, node: Node) -> None:
        """A write that was held back could not be made."""
        self._wrong.add(node)

    def closed(self, node: Node) -> Awaitable[None] | None:
        """Nobody has the file open any more: what is to be done then, if anything."""
        if node not in self._wrong:
            return None
        self._wrong.discard(node)
        return self._have_forgotten([(parent.nodeid, name) for parent, name in names_of(node)])

    async def _have_forgotten(self, names: list[tuple[int, bytes]]) -> None:
        """Have the kernel drop names, and the file with the last one that it knows."""
        assert isinstance(self._notices, DeviceNotices)
        for parent, name in names:
            await trio.to_thread.run_sync(self._notices.name_changed, parent, name, 0, abandon_on_cancel=True)

    def settle_all(self) -> None:
        """At the end of the mount, when not every RELEASE may have come."""
        for node in list(self._late):
            self.settle(node)

    async def write_out(self, nodeid: int, offset: int = 0) -> None:
        """Have the kernel write what it holds back of the file's data, and drop its copy, from byte `offset` on.

        The kernel waits in there for the answers to its WRITEs, which are the loop's to give.
        """
        assert isinstance(self._notices, DeviceNotices)
        await trio.to_thread.run_sync(self._notices.data_changed, nodeid, offset, abandon_on_cancel=True)
