"""Where is a node that the kernel has forgotten?  A file handle of a FUSE mount holds its nodeid alone (nfs_export).

Nobody is told of which nodes there are handles.  So a few words are kept of each that was forgotten: its inode number, under
which it keeps its nodeids, and its name and directory, or its handle on its layer if its names are not known.  That is bounded
by the number of objects in the union; an object without names is not remembered.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from unionfs.linux import handle, stat
from unionfs.linux.handle import Handle
from unionfs.overlay import lookup
from unionfs.overlay.node import DirNode, Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


class Named(NamedTuple):
    """A place by its directory, whose inode number that is, and its name there."""

    parent: int
    name: bytes


class Exports:
    """What is remembered of the nodes.

    generation: goes with every nodeid of this mount, so that handles of an earlier one are not taken for ours.
    """

    __slots__ = ("_nodeids", "_numbers", "_places", "generation")

    def __init__(self) -> None:
        self.generation = int.from_bytes(os.urandom(4), "little")
        self._nodeids: dict[int, tuple[int, ...]] = {}
        self._numbers: dict[int, int] = {}
        self._places: dict[int, Named | Handle] = {}

    def former_id(self, node: Node) -> int:
        """The last nodeid of the object that a new node stands for; 0 for one that never had one."""
        ids = self._nodeids.get(node.ino)
        return ids[-1] if ids else 0

    def note(self, node: Node) -> None:
        """The node got its nodeid."""
        ids = self._nodeids.get(node.ino, ())
        if node.nodeid not in ids:
            self._nodeids[node.ino] = (*ids, node.nodeid)
        self._numbers[node.nodeid] = node.ino

    def remembers(self, nodeid: int) -> bool:
        """May there be handles with this nodeid?"""
        return nodeid in self._numbers

    def keep(self, node: Node) -> None:
        """The kernel forgets the node: remember where it is."""
        if node.parent is not None:
            self._places[node.ino] = Named(node.parent.ino, node.name)
            return
        found = handle.encode(*node.at()) if node.upper else None
        if found is not None:
            self._places[node.ino] = found

    def drop(self, node: Node) -> None:
        """The object has no name left: its number may come to mean another one."""
        self._places.pop(node.ino, None)
        for nodeid in self._nodeids.pop(node.ino, ()):
            del self._numbers[nodeid]

    def find(self, union: Union, nodeid: int) -> Node:
        """The node of a nodeid, forgotten or not; the directories on the way to it become known again.  Raises ESTALE."""
        node = union.inodes.by_id.get(nodeid)
        if node is not None:
            return node
        number = self._numbers.get(nodeid)
        if number is None:
            raise OSError(errno.ESTALE, "no such object any more")
        node = self._by_number(union, number)
        if nodeid not in union.inodes.by_id:
            union.inodes.rejoin(node, nodeid)
        return node

    def _by_number(self, union: Union, number: int) -> Node:
        """Walk down from the nearest directory that is known."""
        way: list[tuple[int, bytes]] = []
        node: Node | None = None
        while (node := self._live(union, number)) is None:
            place = self._places.get(number)
            if place is None:
                raise OSError(errno.ESTALE, "its place is not known")
            if isinstance(place, Handle):
                node = _by_handle(union, place)
                break
            way.append((number, place.name))
            number = place.parent
        for number, name in reversed(way):
            found = lookup.lookup(union, node, name) if isinstance(node, DirNode) else None
            if found is None or found[0].ino != number:
                raise OSError(errno.ESTALE, "it is not where it was")
            node = found[0]
        return node

    def _live(self, union: Union, number: int) -> Node | None:
        for nodeid in self._nodeids.get(number, ()):
            node = union.inodes.by_id.get(nodeid)
            if node is not None:
                return node
        return None


def _by_handle(union: Union, place: Handle) -> Node:
    """A node of an upper object none of whose names is known.  Raises ESTALE, EPERM."""
    upper = union.upper
    assert upper is not None
    assert upper.readable is not None
    fd = handle.open_handle(upper.readable.fileno(), place, os.O_PATH)
    try:
        return lookup.instantiate_unnamed(union, fd, stat.stat(fd))
    except OSError:
        os.close(fd)
        raise
