"""Which I/O mode has each open of a regular file, and what is counted of it until its release?"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.overlay import attrs, files
from unionfs.overlay.node import Node
from unionfs.serve import policy
from unionfs.serve.config import LowerIo
from unionfs.serve.fileio import Descriptors, FileIo
from unionfs.serve.heldback import HeldBack
from unionfs.serve.passthrough import Backings
from unionfs.serve.policy import FLAGS, Mode
from unionfs.wire import abi

if TYPE_CHECKING:
    from unionfs.serve.context import Context

#: Bits of the file handle, all that RELEASE has to know of an open.
_CACHED: Final = 1
_BACKED: Final = 2
_WRITER: Final = 4
_MAPPER: Final = 8
_EXECUTING: Final = 16
_BACKED_MODES: Final = frozenset((Mode.PASSTHROUGH, Mode.MAPPED))
#: A file of at most this many bytes is pushed into the page cache with its first open.
_PUSH_LIMIT: Final = 64 * 1024


class OpenReply(NamedTuple):
    """File handle, FOPEN_ flags and backing id of an open."""

    fh: int
    flags: int
    backing_id: int


class Opens:
    """The live opens of all FUSE inodes.

    descriptors: the server's own.  held: the files whose writes the kernel holds back.  splits: how often a file got a new inode.
    writers: opens for writing of all files.
    """

    __slots__ = ("_backings", "_context", "_lower_io", "_union", "descriptors", "held", "splits", "writers")

    def __init__(self, context: Context, backings: Backings, descriptors: Descriptors) -> None:
        self._context = context
        self._union = context.union
        self._backings = backings
        self._lower_io = context.config.lower_io
        self.descriptors = descriptors
        self.held = HeldBack(context)
        self.splits = 0
        self.writers = 0

    def io(self, node: Node, nodeid: int) -> FileIo:
        """The state of the FUSE inode `nodeid` of a node."""
        io: FileIo | None = self._union.inodes.attachment(node, nodeid)
        if io is None:
            io = node.attachment = FileIo()
        return io

    def bar_change(self, node: Node) -> None:
        """Raises ETXTBSY while the file runs as a program, by any of its inodes.

        The kernel sees to that for its own inode, but not before a truncation that comes with an open.
        """
        for nodeid in (node.nodeid, *node.former_ids):
            io = self._union.inodes.attachment(node, nodeid)
            if io is not None and io.executing:
                raise OSError(errno.ETXTBSY, "the program is running")

    def is_stale(self, node: Node, nodeid: int, caller: int) -> bool:
        """Should the caller, who came by this nodeid, look the file's name up again?

        Once only: who comes by it again has no name to look up.  Who comes by the latest nodeid has done so.
        """
        if nodeid != node.nodeid:
            return not self.io(node, nodeid).came_back(caller)
        for former in node.former_ids:
            told = self.io(node, former).told
            if told is not None:
                told.discard(caller)
        return False

    def open(self, node: Node, nodeid: int, flags: int, caller: int, fd: int = -1) -> OpenReply:
        """Count one more open of the file, which is ready for it; `fd` is a descriptor of the file, if there is one already.

        Raises ESTALE when another inode stands for the file by now, ETXTBSY when this one can't be opened in that way.
        """
        io = self.io(node, nodeid)
        mode = self._mode(node, nodeid, io, flags, caller, fd)
        if mode is Mode.PASSTHROUGH or mode is Mode.MAPPED:
            return self._open_backed(node, io, flags, mode, fd)
        if mode is Mode.CACHED:
            return self._open_cached(node, io, flags)
        if mode is Mode.BUSY:
            raise OSError(errno.ETXTBSY, "in use with the lower file")
        if mode is Mode.SPLIT:
            self._union.inodes.split(node)
            self.splits += 1
            # From now on what the old inode knows of its attributes may be out of date at any time.
            self._context.notices.attributes_changed(nodeid)
            io.came_back(caller)
        raise OSError(errno.ESTALE, "another inode stands for the file by now")

    def _mode(self, node: Node, nodeid: int, io: FileIo, flags: int, caller: int, fd: int) -> Mode:
        settled = files.is_settled(self._union, node)
        former = nodeid != node.nodeid
        asked_before = not self.is_stale(node, nodeid, caller) if node.former_ids else False
        backable = self._backings.offers(node)
        if not settled and io.mappable is None and self._lower_io is LowerIo.AUTO:
            self._learn(node, io, backable)
        while True:
            mode = policy.decide(
                io.cached, io.backed, io.backing_upper == node.data_upper, flags, settled=settled, mappable=bool(io.mappable),
                backable=backable, lower_io=self._lower_io, former=former, asked_before=asked_before,
            )  # fmt: skip
            if mode not in _BACKED_MODES or io.backed or self._backings.attach(node, io, fd):
                return mode
            backable = False

    def _learn(self, node: Node, io: FileIo, backable: bool) -> None:
        """Find out if the file is mapped by nature, which is asked once."""
        found = attrs.real_stat(node)
        io.mappable = (
            backable and found.size > 0 and policy.is_mappable(node.name, found.mode, b"")
            and policy.is_mappable(node.name, found.mode, files.read_start(node, 2))
        )  # fmt: skip

    def _count(self, io: FileIo, flags: int) -> int:
        """Count what every open has; the bits of the handle that undo it."""
        bits = 0
        if policy.is_writing(flags):
            io.writers += 1
            self.writers += 1
            bits = _WRITER
        if flags & policy.FMODE_EXEC:
            io.executing += 1
            bits |= _EXECUTING
        return bits

    def _open_cached(self, node: Node, io: FileIo, flags: int) -> OpenReply:
        keep = 0 if io.mixed else abi.FOPEN_KEEP_CACHE
        io.mixed = False
        # With no other open, none for writing above all, the kernel has changed no page of it.  Writes that it holds back begin
        # with reading the page that they change a part of.
        reading = not policy.is_writing(flags) or (self.held.on and not flags & os.O_TRUNC)
        if reading and not io.cached and not io.stored and keep:
            self._push(node, io, policy.is_writing(flags))
        io.cached += 1
        return OpenReply(_CACHED | self._count(io, flags), keep | FLAGS[Mode.CACHED], 0)

    def _open_backed(self, node: Node, io: FileIo, flags: int, mode: Mode, fd: int) -> OpenReply:
        if not io.backed:
            self._backings.busy(io)
        io.backed += 1
        io.mixed = True
        fh = _BACKED | self._count(io, flags)
        if flags & os.O_ACCMODE == os.O_RDWR:
            fh |= _MAPPER
            io.mappers += 1
            if io.mappers == 1 and fd < 0:
                # A shared mapping changes the file unseen: what the kernel knows of its times must not last.
                self._context.notices.attributes_changed(node.nodeid)
        return OpenReply(fh, FLAGS[mode], io.backing_id)

    def _push(self, node: Node, io: FileIo, writing: bool) -> None:
        """Put a small file's data into the kernel's page cache, so that reading it makes no request.

        `writing`: not for a reader, so that the file has not been read.
        """
        io.stored = True
        ages = node.data_upper and not writing
        before = attrs.real_stat(node).atime_ns if ages else 0
        data = files.read_small(node, _PUSH_LIMIT, unseen=writing)
        if data:
            self._context.notices.store(node.nodeid, 0, data)
            if ages and attrs.real_stat(node).atime_ns != before:
                self._context.notices.attributes_changed(node.nodeid)

    def release(self, node: Node, nodeid: int, fh: int) -> Awaitable[None] | None:
        """Undo what `open` counted; what takes longer is given back."""
        io = self.io(node, nodeid)
        if fh & _WRITER:
            io.writers -= 1
            self.writers -= 1
        if fh & _EXECUTING:
            io.executing -= 1
        if fh & _MAPPER:
            io.mappers -= 1
        if fh & _BACKED:
            io.backed -= 1
            if not io.backed:
                self._last_backed(node, nodeid, io)
        elif fh & _CACHED:
            io.cached -= 1
        if self.held.on and not io.writers:
            self.held.settle(node)
        if not io.is_open and (node.unlinked or io.fd >= 0):
            self.settle(node, io)
        return self.held.closed(node) if self.held.on and not io.is_open else None

    def _last_backed(self, node: Node, nodeid: int, io: FileIo) -> None:
        """Keep the file registered for the next open, unless that one will need another."""
        if nodeid == node.nodeid and io.backing_upper == node.data_upper:
            self._backings.idle(io)
        else:
            self._backings.release(io)

    def settle(self, node: Node, io: FileIo) -> None:
        """Nothing keeps a closed file registered or open once its names are gone."""
        if not io.is_open:
            self.descriptors.drop(io)
            if node.unlinked:
                self._backings.release(io)

    def forgotten(self, io: FileIo) -> None:
        """The kernel forgot the inode."""
        self.descriptors.drop(io)
        self._backings.release(io)
