"""How are names looked up, made, moved and removed?  The directory operations but for listing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from unionfs.overlay import attrs, create, lookup, remove, rename
from unionfs.overlay.creator import Creator
from unionfs.overlay.node import DirNode, Node
from unionfs.serve.attributes import Attributes
from unionfs.wire.kinds import (
    BatchForget,
    Forget,
    Header,
    Link,
    Lookup,
    Mkdir,
    Mknod,
    Readlink,
    Rename,
    Rmdir,
    Symlink,
    Unlink,
)  # fmt: skip
from unionfs.wire.reply import Entry

if TYPE_CHECKING:
    from unionfs.serve.context import Context
    from unionfs.serve.files import Files
    from unionfs.serve.listers import Listers


_DOTS: Final = (b".", b"..")


class Names:
    """The operations on names.  Each takes the request's header and arguments and returns a plain value."""

    __slots__ = ("_attributes", "_files", "_listers", "_union")

    def __init__(self, context: Context, attributes: Attributes, files: Files, listers: Listers) -> None:
        self._union = context.union
        self._attributes = attributes
        self._files = files
        self._listers = listers

    def _directory(self, nodeid: int) -> DirNode:
        node = self._union.node(nodeid)
        if not isinstance(node, DirNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node

    def lookup(self, header: Header, request: Lookup) -> Entry | None:
        """None: the name is missing, and the kernel may remember that."""
        if request.name in _DOTS:
            return self._lookup_by_handle(header.nodeid, request.name)
        found = lookup.lookup(self._union, self._directory(header.nodeid), request.name)
        if found is None:
            return None
        if self._listers.watching and not found[0].is_dir:
            self._listers.looked_up(header.nodeid)
        return self._attributes.entry(*found)

    def _lookup_by_handle(self, nodeid: int, name: bytes) -> Entry:
        """A node by its nodeid alone, as it is in a file handle, or the directory above one.  Raises ESTALE."""
        exports = self._union.exports
        if exports is None:
            raise OSError(errno.ESTALE, "no handles without nfs_export")
        node = exports.find(self._union, nodeid)
        if name == b".":
            return self._attributes.entry_by_id(node, nodeid, attrs.real_stat(node))
        if node.parent is None and node is not self._union.root:
            raise OSError(errno.ESTALE, "its directory is not known")
        above = node.parent or self._union.root
        return self._attributes.entry(above, attrs.real_stat(above))

    def forget(self, header: Header, request: Forget) -> None:
        self._drop(header.nodeid, request.nlookup)

    def batch_forget(self, header: Header, request: BatchForget) -> None:
        for nodeid, lookups in request.items:
            self._drop(nodeid, lookups)

    def _drop(self, nodeid: int, lookups: int) -> None:
        gone = self._union.forget(nodeid, lookups)
        if gone is not None and gone.attachment is not None:
            self._files.forgotten(gone)

    def readlink(self, header: Header, request: Readlink) -> bytes:
        return attrs.read_link(self._union.node(header.nodeid))

    def mknod(self, header: Header, request: Mknod) -> Entry:
        who = Creator(header.uid, header.gid, request.umask)
        parent = self._directory(header.nodeid)
        made = create.make_node(self._union, parent, request.name, request.mode, request.rdev, who)
        return self._attributes.entry(*made)

    def mkdir(self, header: Header, request: Mkdir) -> Entry:
        who = Creator(header.uid, header.gid, request.umask)
        parent = self._directory(header.nodeid)
        return self._attributes.entry(*create.make_directory(self._union, parent, request.name, request.mode, who))

    def symlink(self, header: Header, request: Symlink) -> Entry:
        who = Creator(header.uid, header.gid, 0)
        parent = self._directory(header.nodeid)
        return self._attributes.entry(*create.make_symlink(self._union, parent, request.name, request.target, who))

    def link(self, header: Header, request: Link) -> Entry:
        node = self._union.node(request.oldnodeid)
        found = create.link(self._union, node, self._directory(header.nodeid), request.newname)
        return self._attributes.entry(node, found)

    def unlink(self, header: Header, request: Unlink) -> None:
        self._lost(remove.unlink(self._union, self._directory(header.nodeid), request.name))

    def rmdir(self, header: Header, request: Rmdir) -> None:
        remove.rmdir(self._union, self._directory(header.nodeid), request.name)

    def rename(self, header: Header, request: Rename) -> None:
        replaced = rename.rename(
            self._union, self._directory(header.nodeid), request.oldname, self._directory(request.newdir), request.newname,
            request.flags,
        )  # fmt: skip
        if replaced is not None:
            self._lost(replaced)

    def _lost(self, node: Node) -> None:
        """A file has lost a name: what is kept for its next open may go."""
        if node.unlinked and node.attachment is not None:
            self._files.name_lost(node)
