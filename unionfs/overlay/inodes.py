"""Which nodes does the kernel know, and what are their inode numbers?  The node table and `st_ino`."""

from __future__ import annotations

import os
import stat as modes
import sys
from typing import TYPE_CHECKING, Any, Final

from unionfs.linux import stat, xattr
from unionfs.overlay import marks
from unionfs.overlay.node import DirNode, Node

if TYPE_CHECKING:
    from unionfs.overlay.exports import Exports
    from unionfs.overlay.layer import Layer

ROOT_ID: Final = 1
#: With layers on several filesystems the highest bits of st_ino say which one, as overlayfs's xino does.
_FS_SHIFT: Final = 58
_INO_MASK: Final = (1 << _FS_SHIFT) - 1
#: A table of this size may stay; a larger one has at most so many bytes a node if nodes have only been added.
_TABLE_BYTES: Final = 1 << 17
_MOST_BYTES: Final = 256
_ALL_BITS: Final = (1 << 63) - 1
_NARROW: Final = 0xFFFFFFFF
#: An odd number whose small multiples have no order in any of their bits: 2 to the 64th over the golden ratio.
_SCATTER: Final = 0x9E3779B97F4A7C15


class Former:
    """What is left with a nodeid that a node had before it was split: the kernel's lookups of it, and its attachment."""

    __slots__ = ("attachment", "lookups")

    def __init__(self, lookups: int, attachment: Any) -> None:
        self.lookups = lookups
        self.attachment = attachment


class Inodes:
    """The node table.  A node stays while the kernel counts lookups of it; nodeids are never used again.

    by_id: the nodes by nodeid, split ones by each of theirs.  formers: what the nodeids have that are not a node's latest.
    hardlinks: nodes of upper files with several names, by the upper inode's number, so that all names are one node.
    exports: what is remembered of nodes that the kernel has forgotten, with nfs_export.
    by_origin: nodes that stand for all names of a lower inode, by its device and number.
    _claimed: nodes with the number of what they were copied from, by that number.
    """

    __slots__ = ("_claimed", "_narrow", "_next", "_plain", "by_id", "by_origin", "exports", "formers", "hardlinks", "layers")

    def __init__(self, layers: tuple[Layer, ...], *, narrow: bool = False) -> None:
        """`narrow`: numbers of 32 bits, for programs that need that; two objects may then have the same one."""
        self.by_id: dict[int, Node] = {}
        self.formers: dict[int, Former] = {}
        self.hardlinks: dict[int, Node] = {}
        self.by_origin: dict[tuple[int, int], Node] = {}
        self.exports: Exports | None = None
        self._claimed: dict[int, Node] = {}
        self.layers = layers
        self._next = ROOT_ID
        filesystems = {layer.dev: 0 for layer in layers}
        for index, dev in enumerate(filesystems):
            filesystems[dev] = index
        for layer in layers:
            layer.fs_index = filesystems[layer.dev]
        self._narrow = narrow
        self._plain = len(filesystems) == 1 and not narrow

    def enroll(self, node: Node) -> None:
        """Give a new node its nodeid; with nfs_export the one it had before it was forgotten."""
        former = 0 if self.exports is None else self.exports.former_id(node)
        if former and former not in self.by_id:
            node.nodeid = former
        else:
            node.nodeid = self._next
            self._next += 1
        self.by_id[node.nodeid] = node
        if self.exports is not None:
            self.exports.note(node)

    def rejoin(self, node: Node, nodeid: int) -> None:
        """The node is known by one more nodeid, which it had before it was split and then forgotten by that one."""
        self.formers[nodeid] = Former(0, None)
        node.former_ids = (*node.former_ids, nodeid)
        self.by_id[nodeid] = node

    def split(self, node: Node) -> None:
        """Give the node a new nodeid, with nothing attached; by the old one the kernel goes on to know it as well.

        So what is open stays with the kernel's old inode while the name leads to a new one; both are this node.
        """
        self.formers[node.nodeid] = Former(node.lookups, node.attachment)
        node.former_ids = (*node.former_ids, node.nodeid)
        node.lookups = 0
        node.attachment = None
        self.enroll(node)

    def attachment(self, node: Node, nodeid: int) -> Any:
        """What the server keeps with one of the node's nodeids."""
        return node.attachment if node.nodeid == nodeid else self.formers[nodeid].attachment

    def forget(self, nodeid: int, lookups: int) -> Node | Former | None:
        """The kernel drops `lookups` of its references.

        If those were the last, what this nodeid stood for: the node, or its former part.  The node leaves the table when
        the kernel knows none of its nodeids any more.
        """
        node = self.by_id.get(nodeid)
        if node is None:
            return None
        if node.nodeid != nodeid:
            return self._forget_former(node, nodeid, lookups)
        node.lookups -= lookups
        if node.lookups > 0 or nodeid == ROOT_ID:
            return None
        if self.exports is not None and isinstance(node, DirNode) and node.children:
            # Found again by a handle, they have a place only in it.
            return None
        if not node.former_ids:
            self._drop(node)
        return node

    def _forget_former(self, node: Node, nodeid: int, lookups: int) -> Former | None:
        former = self.formers[nodeid]
        former.lookups -= lookups
        if former.lookups > 0:
            return None
        del self.formers[nodeid]
        del self.by_id[nodeid]
        node.former_ids = tuple([other for other in node.former_ids if other != nodeid])
        if node.lookups <= 0 and not node.former_ids:
            self._drop(node)
        return former

    def drop_unused(self, node: Node) -> bool:
        """Drop a directory that the kernel has forgotten and that was kept for what it holds; False for any other."""
        if not isinstance(node, DirNode) or node.lookups > 0 or node.children or node.former_ids or node.nodeid == ROOT_ID:
            return False
        self._drop(node)
        return True

    def _drop(self, node: Node) -> None:
        del self.by_id[node.nodeid]
        if self.exports is not None:
            if node.unlinked:
                self.exports.drop(node)
            else:
                self.exports.keep(node)
        if not node.unlinked:
            for parent, name in names_of(node):
                if parent.children.get(name) is node:
                    del parent.children[name]
        self.forget_link(node)
        if isinstance(node, DirNode):
            for child in node.children.values():
                detach(child, node)
            for real in node.reals:
                real.close()
        node.unpin()

    def shrink(self) -> bool:
        """Make the table smaller if it is far too large for the nodes that are left, which it does not do by itself."""
        if sys.getsizeof(self.by_id) < _TABLE_BYTES + len(self.by_id) * _MOST_BYTES:
            return False
        self.by_id = dict(self.by_id)
        return True

    def note_link(self, node: Node, ino: int) -> None:
        """The upper inode `ino` has several names: all of them stand for this node."""
        node.link_ino = ino
        self.hardlinks[ino] = node

    def forget_link(self, node: Node) -> None:
        """The node's inode has no name left, or the kernel has forgotten it."""
        if node.link_ino:
            if self.hardlinks.get(node.link_ino) is node:
                del self.hardlinks[node.link_ino]
            node.link_ino = 0
        if self._claimed.get(node.ino) is node:
            del self._claimed[node.ino]
        if node.links is not None and self.by_origin.get(node.links.key) is node:
            del self.by_origin[node.links.key]

    def claim(self, node: Node, ino: int) -> None:
        """The node is what has become of the lower object with this number, and has it, too, unless another says so of itself.

        Layers can be like that whose directories were copied with their xattrs; programs must not take the two for one.
        """
        if self._claimed.setdefault(ino, node) is node:
            node.ino = ino

    def number(self, layer: Layer, ino: int) -> int:
        """`st_ino` for the inode `ino` of a layer: unique over all layers' filesystems, the same at every mount."""
        if self._plain:
            return ino
        if self._narrow:
            return ((ino ^ ino >> 32) + layer.fs_index * _SCATTER & _NARROW) or 1
        if ino <= _INO_MASK:
            return (layer.fs_index << _FS_SHIFT) | ino
        # A layer that is a union itself, or has numbers without order, uses the highest bits as well.
        return (ino ^ (layer.fs_index + 1) * _SCATTER) & _ALL_BITS

    def origin_number(self, dir_fd: int, name: bytes, prefix: str, kind: int) -> int | None:
        """`st_ino` of the lower inode that an upper object says it was copied from; None when that can't be told.

        Nor of a file with several names there: those that were not copied up have it.
        """
        value = xattr.find(dir_fd, name, prefix + "origin")
        origin = marks.decode_origin(value) if value else None
        if origin is None:
            return None
        for layer in self.layers:
            if layer.is_upper or layer.uuid != origin.uuid or not layer.handles or layer.ambiguous:
                continue
            try:
                fd = layer.open_origin(origin)
            except OSError:
                continue
            try:
                found = stat.stat(fd)
            finally:
                os.close(fd)
            if found.mode & 0o170000 == kind and (found.nlink == 1 or kind == modes.S_IFDIR):
                return self.number(layer, found.ino)
        return None


def names_of(node: Node) -> list[tuple[DirNode, bytes]]:
    """All names of the node the union knows."""
    names = list(node.aliases or ())
    if node.parent is not None:
        names.append((node.parent, node.name))
    return names


def detach(node: Node, parent: DirNode) -> None:
    """The kernel forgot the directory of one of the node's names: hold the object by another name or by itself."""
    if node.aliases:
        node.aliases = [(other, name) for other, name in node.aliases if other is not parent]
    if node.parent is parent:
        if node.aliases:
            other, name = node.aliases.pop()
            node.place(other, name)
        else:
            if node.links is None:
                node.pin()
            node.parent = None
