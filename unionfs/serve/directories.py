"""How are directories listed?  READDIR and READDIRPLUS from the merged index, with positions that survive changes."""

from __future__ import annotations

import errno
import stat as modes
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from unionfs.linux.stat import Stat
from unionfs.overlay import attrs, lookup, merge
from unionfs.overlay.errors import ScanNeeded
from unionfs.overlay.merge import IndexEntry
from unionfs.overlay.node import DirNode, Node
from unionfs.serve.attributes import Attributes
from unionfs.serve.listers import Listers, Wish
from unionfs.serve.lookahead import LookAhead, Part, Place
from unionfs.wire.kinds import Header, Readdir
from unionfs.wire.reply import DirBuffer, Entry

if TYPE_CHECKING:
    from unionfs.serve.context import Context
    from unionfs.serve.opens import Opens

_DT_DIR: Final = 4
_S_IFDIR: Final = modes.S_IFDIR
#: Of how many files a part leaves the attributes out.
_MOST_BARE: Final = {Wish.ALL: 0, Wish.ALL_BUT_ONE: 1, Wish.NONE: sys.maxsize}
_DOT, _DOTDOT = 1, 2


class Listing(Protocol):
    """What takes the entries of a part of a listing until it is full."""

    def add_plus(self, entry: Entry | None, name: bytes, ino: int, next_offset: int, dtype: int) -> bool:
        """See `DirBuffer.add_plus`."""


class Directories:
    """Listing.  There is no state for each open directory: the cookie alone says where to go on."""

    __slots__ = ("_ahead", "_attributes", "_listers", "_notices", "_opens", "_union")

    def __init__(
        self, context: Context, attributes: Attributes, opens: Opens, ahead: LookAhead, listers: Listers
    ) -> None:
        self._union = context.union
        self._notices = context.notices
        self._attributes = attributes
        self._opens = opens
        self._ahead = ahead
        self._listers = listers

    def readdir(self, header: Header, request: Readdir) -> DirBuffer:
        """Names, numbers and types."""
        node, buffer = self._directory(header), DirBuffer(request.size)
        if not request.offset:
            self._begin(node)
        if request.offset < _DOTDOT and not self._dots(node, buffer.add, request.offset):
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
        """The same with the entries' attributes, which saves a LOOKUP each, as far as they are wanted (see `listers`)."""
        node = self._directory(header)
        if not request.offset:
            self._begin(node)
        place = Place(node, request.offset, request.size, self._listers.wish(header.pid, request.offset))
        part = self._ahead.take(place)
        if part is None:
            part = self._part(place)
        else:
            for child in part.nodes:
                child.lookups += 1
        self._listers.gave(header.pid, header.nodeid, part.bare)
        if part.next_offset:
            after = self._listers.wish(header.pid, part.next_offset)
            self._ahead.expect(Place(node, part.next_offset, request.size, after))
        else:
            self._ahead.expect(None)
        return part.buffer

    def list_into(self, header: Header, offset: int, listing: Listing) -> None:
        """The same for another kind of listing, which says itself when it is full."""
        node = self._directory(header)
        if not offset:
            self._begin(node)
        self._fill(Place(node, offset, 0, Wish.ALL), listing)

    def _begin(self, node: DirNode) -> None:
        """A listing begins.  If one was begun before a change and not ended, the kernel has kept its beginning, and would take
        that for this one's (fs/fuse/readdir.c starts an incomplete cache anew only when it is empty): it has to let go of it.
        """
        index = node.index
        if index is not None and index.changed:
            index.changed = False
            self._notices.contents_changed(node.nodeid)
            merge.settle_purity(self._union, node, index)

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
        buffer = DirBuffer(place.size)
        return Part(buffer, *self._fill(place, buffer))

    def _fill(self, place: Place, listing: Listing) -> tuple[list[Node], int, int]:
        """A part of a listing, as `Part` describes it; its nodes are counted as looked up."""
        node, offset, wish = place.node, place.offset, place.wish
        nodes = list[Node]()
        bare = 0
        most_bare = _MOST_BARE[wish]
        # What has to wait for the index comes again: so nothing may have been listed before it is there.
        index = None if node.unlinked else merge.index_of(self._union, node)
        if (offset < _DOTDOT and not self._dots(node, partial(listing.add_plus, None), offset)) or index is None:
            return nodes, 0, bare
        last = 0
        for name, entry in index.after(max(offset, _DOTDOT)):
            if bare < most_bare and entry.kind != _S_IFDIR and entry.ino:
                known = node.children.get(name)
                if known is None or wish is Wish.NONE:
                    ino = entry.ino if known is None else known.ino
                    if not listing.add_plus(None, name, ino, entry.cookie, entry.kind >> 12):
                        return nodes, last, bare
                    bare += known is None
                    last = entry.cookie
                    continue
            try:
                resolved = self._resolve(node, name, entry)
            except OSError:
                # One object that can't be shown must not hide the others: its name is listed, its LOOKUP says why.
                if not listing.add_plus(None, name, entry.ino or entry.cookie, entry.cookie, entry.kind >> 12):
                    return nodes, last, bare
                last = entry.cookie
                continue
            if resolved is None:
                continue
            child, found = resolved
            if not listing.add_plus(self._attributes.entry(child, found), name, child.ino, entry.cookie, child.kind >> 12):
                self._union.forget(child.nodeid, 1)
                return nodes, last, bare
            nodes.append(child)
            last = entry.cookie
        return nodes, 0, bare

    def _directory(self, header: Header) -> DirNode:
        node = self._union.node(header.nodeid)
        if not isinstance(node, DirNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def _dots(self, node: DirNode, add: Callable[[bytes, int, int, int], bool], offset: int) -> bool:
        """`.` and `..`, as far as they are wanted; False when they don't fit."""
        above = node.parent or node
        dots = ((_DOT, b".", node.ino), (_DOTDOT, b"..", above.ino))
        return all(add(name, ino, cookie, _DT_DIR) for cookie, name, ino in dots if cookie > offset)

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
