"""How are attributes answered and changed?  GETATTR, STATX, SETATTR, and what every entry reply carries."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.linux import at, creds
from unionfs.linux.stat import Stat
from unionfs.overlay import attrs
from unionfs.overlay.node import Node
from unionfs.serve import callers
from unionfs.serve.heldback import tells_times
from unionfs.wire import abi
from unionfs.wire.kinds import Getattr, Header, Setattr, Statx
from unionfs.wire.reply import Attr, Entry
from unionfs.wire.reply import Statx as StatxOut

if TYPE_CHECKING:
    from unionfs.serve.context import Context
    from unionfs.serve.fileio import FileIo
    from unionfs.serve.heldback import HeldBack
    from unionfs.serve.opens import Opens

_new: Final = tuple.__new__
_NOT_AT_ALL: Final = (0, 0)
#: A truncation by a kernel that keeps the times itself.
_TRUNCATED: Final = abi.FATTR_SIZE | abi.FATTR_MTIME
_NAMED: Final = _TRUNCATED | abi.FATTR_ATIME


class AttrReply(NamedTuple):
    """Attributes and for how long the kernel may keep them, in seconds and nanoseconds."""

    valid: tuple[int, int]
    attr: Attr


class StatxReply(NamedTuple):
    """statx(2)'s fields and for how long the kernel may keep them, in seconds and nanoseconds."""

    valid: tuple[int, int]
    statx: StatxOut


def attr_of(node: Node, found: Stat) -> Attr:
    """The union's attributes of a node whose real object has the stat `found`."""
    blocks = found[9] if node.data is None else node.data.blocks(found)
    return _new(
        Attr,
        (
            node.ino, found[8], blocks, found[11], found[17], found[15], found[12], found[18], found[16],
            found[6], attrs.link_count(node, found), found[4], found[5],
            0 if not found[19] and not found[20] else os.makedev(found[19], found[20]), found[1], 0,
        ),
    )  # fmt: skip


class Attributes:
    """The attribute operations."""

    __slots__ = ("_generation", "_opens", "_owners", "_union", "_valid")

    def __init__(self, context: Context, opens: Opens) -> None:
        self._opens = opens
        self._union = context.union
        self._owners = context.union.owners
        self._valid = context.valid
        exports = context.union.exports
        self._generation = 0 if exports is None else exports.generation

    def valid(self, node: Node) -> tuple[int, int]:
        """For how long the kernel may keep attributes: not at all while the file may change behind its back.

        A shared mapping by passthrough changes the times without a word to the kernel's FUSE side.  Of the several inodes of
        a file that was split, each changes behind the back of the others.
        """
        io = node.attachment
        return _NOT_AT_ALL if node.former_ids or (io is not None and io.mappers) else self._valid

    def entry(self, node: Node, found: Stat) -> Entry:
        """The reply that names a node; the kernel counts one more lookup."""
        node.lookups += 1
        if self._owners is not None:
            found = self._owners.shown(found)
        seconds, nsec = self._valid
        attr_seconds, attr_nsec = self.valid(node)
        return _new(Entry, (node.nodeid, self._generation, seconds, attr_seconds, nsec, attr_nsec, attr_of(node, found)))

    def entry_by_id(self, node: Node, nodeid: int, found: Stat) -> Entry:
        """The reply that names a node by one of its nodeids, which it may have had before it was split."""
        if node.nodeid == nodeid:
            return self.entry(node, found)
        reply = self.entry(node, found)
        node.lookups -= 1
        self._union.inodes.formers[nodeid].lookups += 1
        return reply._replace(nodeid=nodeid)

    def stat(self, node: Node) -> Stat:
        """What users see of the node's object; `ino` and `nlink` are the layer's own."""
        found = attrs.real_stat(node)
        return found if self._owners is None else self._owners.shown(found)

    def getattr(self, header: Header, request: Getattr) -> AttrReply:
        node = self._union.node(header.nodeid)
        return AttrReply(self.valid(node), attr_of(node, self.stat(node)))

    def statx(self, header: Header, request: Statx) -> StatxReply:
        node = self._union.node(header.nodeid)
        found = self.stat(node)
        statx = StatxOut(*found[:23])._replace(ino=node.ino, nlink=attrs.link_count(node, found), dev_major=0, dev_minor=0)
        if node.data is not None:
            statx = statx._replace(blocks=node.data.blocks(found))
        return StatxReply(self.valid(node), statx)

    def setattr(self, header: Header, request: Setattr) -> AttrReply:
        """The size first, since it may need a copy-up that the others then don't; times last, since all else moves them."""
        union = self._union
        node = union.node(header.nodeid)
        valid = request.valid
        if union.read_only:
            raise OSError(errno.EROFS, "read-only union")
        io = union.inodes.attachment(node, header.nodeid)
        held = self._opens.held if self._opens.held.on and node.is_regular else None
        if held is not None and tells_times(request):
            return self._told_times(held, node, io, request)
        if valid & abi.FATTR_SIZE:
            if node.former_ids and not valid & abi.FATTR_FH:
                self._truncate_by_path(header, node)
            unmoved = held.mtime_of(node, io) if held is not None and not valid & abi.FATTR_MTIME else None
            attrs.truncate(union, node, request.size, io.fd if io is not None and io.fd_upper else -1)
            if held is not None and unmoved is not None:
                # truncate(2) to the size that the file has: the kernel leaves its times as they are.
                held.set_told(node, unmoved)
        if valid & (abi.FATTR_UID | abi.FATTR_GID):
            uid = request.uid if valid & abi.FATTR_UID else -1
            gid = request.gid if valid & abi.FATTR_GID else -1
            attrs.chown(union, node, uid, gid, callers.may_keep_set_ids(header))
        if valid & abi.FATTR_KILL_SUIDGID and not valid & (abi.FATTR_UID | abi.FATTR_GID):
            # With a new owner the upper filesystem has dropped them itself.
            attrs.kill_privileges(union, node, callers.may_keep_set_ids(header))
        elif not valid & ~(abi.FATTR_FH | abi.FATTR_LOCKOWNER | abi.FATTR_CTIME):
            # Of what holds writes back, chown(2) names a change time.
            writing = io is not None and bool(io.writers) and not valid & abi.FATTR_CTIME
            self._before_write(header, node, writing)
        if valid & abi.FATTR_MODE:
            attrs.chmod(union, node, request.mode)
        if valid & (abi.FATTR_ATIME | abi.FATTR_MTIME):
            self._set_times(held, node, io, request)
        if union.changed and union.changed[-1] is node and node.nodeid == header.nodeid:
            # The reply itself says what a copy-up has changed.
            union.changed.pop()
        return AttrReply(self.valid(node), attr_of(node, self.stat(node)))

    def _truncate_by_path(self, header: Header, node: Node) -> None:
        """Truncation of a split file by name is for its latest inode, of which pages may be cached.

        Raises ESTALE once for a caller that came by an older one, and ETXTBSY while a program runs by one.
        """
        self._opens.bar_change(node)
        if self._opens.is_stale(node, header.nodeid, header.pid):
            raise OSError(errno.ESTALE, "another inode stands for the file by now")

    def _set_times(self, held: HeldBack | None, node: Node, io: FileIo | None, request: Setattr) -> None:
        mtime = (request.mtime, request.mtimensec)
        if held is not None and request.valid & _NAMED == _TRUNCATED:
            held.set_told(node, mtime)
        else:
            attrs.utimens(self._union, node, *_times(request))
        if held is not None and request.valid & (abi.FATTR_MTIME | abi.FATTR_MTIME_NOW) == abi.FATTR_MTIME:
            held.told(node, io, mtime)

    def _told_times(self, held: HeldBack, node: Node, io: FileIo | None, request: Setattr) -> AttrReply:
        """The kernel's word on a file's modification time, or what looks the same, utimensat(2) with it alone.

        After data were written, and after every change of names, xattrs or mode, in the name of whoever made it: it asks for
        no permission, must reach a file without names, and copies nothing up to say what the lower file says as well.
        """
        mtime = (request.mtime, request.mtimensec)
        found = self.stat(node)
        if (found.mtime, found.mtime_nsec) != mtime or (not node.upper and not node.unlinked and found.nlink == 1):
            if io is not None and io.writers:
                held.set_told(node, mtime)
            else:
                attrs.utimens(self._union, node, *_times(request))
            found = found._replace(mtime=mtime[0], mtime_nsec=mtime[1])
        held.told(node, io, mtime)
        return AttrReply(self.valid(node), attr_of(node, found))

    def _before_write(self, header: Header, node: Node, writing: bool) -> None:
        """Nothing to set: a write is about to happen, or else chown(2) with no id (fs/fuse/dir.c, fuse_setattr).

        A write by who may keep set-id bits takes the capabilities alone.  chown takes the bits whoever calls, if it is
        allowed; raises EPERM when it is not, or a stranger could strip anybody's file.
        """
        if not node.is_regular:
            return
        if writing:
            if callers.uid(header) == 0 and creds.has_capability(creds.CAP_FSETID, header.pid):
                attrs.drop_capabilities(self._union, node)
            else:
                attrs.kill_privileges(self._union, node, callers.may_keep_set_ids(header))
        elif attrs.is_set_id(found := self.stat(node)):
            if callers.uid(header) not in (0, found.uid):
                raise OSError(errno.EPERM, "not the owner")
            attrs.kill_privileges(self._union, node, callers.may_keep_set_ids(header))


def _times(request: Setattr) -> tuple[tuple[int, int], tuple[int, int]]:
    valid = request.valid
    atime, mtime = (0, at.UTIME_OMIT), (0, at.UTIME_OMIT)
    if valid & abi.FATTR_ATIME:
        atime = (0, at.UTIME_NOW) if valid & abi.FATTR_ATIME_NOW else (request.atime, request.atimensec)
    if valid & abi.FATTR_MTIME:
        mtime = (0, at.UTIME_NOW) if valid & abi.FATTR_MTIME_NOW else (request.mtime, request.mtimensec)
    return atime, mtime
