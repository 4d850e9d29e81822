"""How are directories listed?  READDIR and READDIRPLUS from the merged index, with positions that survive changes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from unionfs.linux.stat import Stat
from unionfs.overlay import attrs, lookup, merge
from unionfs.overlay.errors import ScanNeeded
from unionfs.overlay.merge import IndexEntry
from unionfs.overlay.node import DirNode, Node
from unionfs.serve.attributes import Attributes
from unionfs.serve.lookahead import LookAhead, Part, Place
from unionfs.wire import notify
from unionfs.wire.kinds import Header, Readdir
from unionfs.wire.reply import DirBuffer

if TYPE_CHECKING:
    from unionfs.serve.context import Context
    from unionfs.serve.opens import Opens

_DT_DIR: Final = 4
_DOT, _DOTDOT = 1, 2


class Directories:
    """Listing.  There is no state for each open directory: the cookie alone says where to go on."""

    __slots__ = ("_ahead", "_attributes", "_notify", "_opens", "_union")

    def __init__(self, context: Context, attributes: Attributes, opens: Opens, ahead: LookAhead) -> None:
        self._union = context.union
        self._notify = context.notify
        self._attributes = attributes
        self._opens = opens
        self._ahead = ahead

    def readdir(self, header: Header, request: Readdir) -> DirBuffer:
        """Names, numbers and types."""
        node, buffer = self._directory(header), DirBuffer(request.size)
        if not request.offset:
            self._begin(node)
        if request.offset < _DOTDOT and not self._dots(node, buffer, request.offset, plus=False):
            return buffer
        if node.unlinked:
            return buffer
        children = node.children
        for name, entry in merge.index_of(self._union, node).after(max(request.offset, _DOTDOT)):
            child = children.get(name)
            ino = child.ino if child is not None else entry.ino or self._number(node, name, entry)
            if not buffer.add(name, ino, entry.cookie, entry.kind >> 12):
                break
        return buffer

    def readdirplus(self, header: Header, request: Readdir) -> DirBuffer:
        """The same with every entry's attributes, which saves a LOOKUP each."""
        node = self._directory(header)
        if not request.offset:
            self._begin(node)
        place = Place(node, request.offset, request.size)
        part = self._ahead.take(place)
        if part is None:
            part = self._part(place)
        else:
            for child in part.nodes:
                child.lookups += 1
        self._ahead.expect(Place(node, part.next_offset, request.size) if part.next_offset else None)
        return part.buffer

    def _begin(self, node: DirNode) -> None:
        """A listing begins.  If one was begun before a change and not ended, the kernel has kept its beginning, and would take
        that for this one's (fs/fuse/readdir.c starts an incomplete cache anew only when it is empty): it has to let go of it.
        """
        index = node.index
        if index is not None and index.changed:
            index.changed = False
            self._notify([notify.inval_inode(node.nodeid, 0, 0)])

    def make_ahead(self) -> bool:
        """Make the next part of a listing before it is asked for, if one is expected; False: there was nothing to do."""
        place = self._ahead.due()
        if place is None or self._opens.writers or self._union.inodes.by_id.get(place.node.nodeid) is not place.node:
            return False
        try:
            part = self._part(place)
        except (OSError, ScanNeeded):
            # Whoever asks for it is told, or waits.
            return False
        for child in part.nodes:
            child.lookups -= 1
        self._ahead.keep(place, part)
        return True

    def _part(self, place: Place) -> Part:
        """A part of a listing with the entries' nodes, each counted as looked up."""
        node = place.node
        buffer, nodes = DirBuffer(place.size), list[Node]()
        if (place.offset < _DOTDOT and not self._dots(node, buffer, place.offset, plus=True)) or node.unlinked:
            return Part(buffer, nodes, 0)
        last = 0
        for name, entry in merge.index_of(self._union, node).after(max(place.offset, _DOTDOT)):
            try:
                resolved = self._resolve(node, name, entry)
            except OSError:
                # One object that can't be shown must not hide the others: its name is listed, its LOOKUP says why.
                if not buffer.add_plus(None, name, entry.ino or entry.cookie, entry.cookie, entry.kind >> 12):
                    return Part(buffer, nodes, last)
                last = entry.cookie
                continue
            if resolved is None:
                continue
            child, found = resolved
            if not buffer.add_plus(self._attributes.entry(child, found), name, child.ino, entry.cookie, child.kind >> 12):
                self._union.forget(child.nodeid, 1)
                return Part(buffer, nodes, last)
            nodes.append(child)
            last = entry.cookie
        return Part(buffer, nodes, 0)

    def _directory(self, header: Header) -> DirNode:
        node = self._union.node(header.nodeid)
        if not isinstance(node, DirNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def _dots(self, node: DirNode, buffer: DirBuffer, offset: int, *, plus: bool) -> bool:
        above = node.parent or node
        for cookie, name, ino in ((_DOT, b".", node.ino), (_DOTDOT, b"..", above.ino)):
            if cookie <= offset:
                continue
            if not (buffer.add_plus(None, name, ino, cookie, _DT_DIR) if plus else buffer.add(name, ino, cookie, _DT_DIR)):
                return False
        return True

    def _resolve(self, node: DirNode, name: bytes, entry: IndexEntry) -> tuple[Node, Stat] | None:
        known = node.children.get(name)
        if known is not None:
            return known, attrs.real_stat(known)
        found = lookup.found_by(node, entry, name)
        if found is None:
            return None
        child = lookup.instantiate(self._union, node, name, found)
        if child.ino == entry.ino:
            # One object for both saves memory.
            child.ino = entry.ino
        return child, lookup.stat_of(child, found)

    def _number(self, node: DirNode, name: bytes, entry: IndexEntry) -> int:
        """The number of an upper object, which may be its origin's; it is kept in the index."""
        try:
            resolved = self._resolve(node, name, entry)
        except OSError:
            return entry.cookie
        if resolved is None:
            return entry.cookie
        child = resolved[0]
        assert node.index is not None
        node.index.put(name, child.kind, child.ino, entry.reals)
        if not child.lookups:
            self._union.forget(child.nodeid, 0)
        return child.ino
