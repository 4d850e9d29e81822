"""How does a name go away?  unlink and rmdir: a whiteout only where something below would show, no copy-up of what goes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from unionfs.linux.stat import Stat
from unionfs.overlay import dirindex, links, merge, protect
from unionfs.overlay.attrs import link_count
from unionfs.overlay.copyup import ensure_metadata, ensure_upper
from unionfs.overlay.errors import ScanNeeded
from unionfs.overlay.lookup import find_below, lookup
from unionfs.overlay.node import DirNode, Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def unlink(union: Union, parent: DirNode, name: bytes) -> Node:
    """unlink(2); the node that lost the name.  Raises ENOENT, EISDIR, EPERM (immutable), EROFS."""
    node, found = require(union, parent, name)
    if node.is_dir:
        raise OSError(errno.EISDIR, "is a directory")
    check_removable(union, parent, node)
    found = prepare_linked(union, node, parent, name) or found
    ensure_upper(union, parent)
    if not node.upper:
        union.staging_area().whiteout(parent, name)
        forget_name(union, node, parent, name, last=True)
        return node
    prepare_loss(node)
    try:
        if find_below(union, parent, name):
            union.staging_area().replace_by_whiteout(parent, name, is_dir=False)
        else:
            os.unlink(name, dir_fd=parent.upper_dir.fd())
    except OSError:
        keep_name(node)
        raise
    forget_name(union, node, parent, name, last=link_count(node, found) <= 1)
    return node


def rmdir(union: Union, parent: DirNode, name: bytes) -> Node:
    """rmdir(2); the node.  Raises ENOENT, ENOTDIR, ENOTEMPTY, EPERM (immutable), EROFS."""
    node, _ = require(union, parent, name)
    if not isinstance(node, DirNode):
        raise OSError(errno.ENOTDIR, "not a directory")
    check_removable(union, parent, node)
    below = find_below(union, parent, name)
    fast = node.upper and not node.is_merged and not below and node.index is None
    if not fast:
        check_empty(union, node)
    prepare_directory(union, node)
    indexed = dirindex.origin_in_index(union, node)
    ensure_upper(union, parent)
    staging = union.staging_area()
    if not node.upper:
        staging.whiteout(parent, name)
    else:
        node.pin()
        try:
            if below:
                staging.replace_by_whiteout(parent, name, is_dir=True)
            else:
                _remove_upper(union, node, parent, name, fast)
        except (OSError, ScanNeeded):
            node.unpin()
            raise
    if indexed:
        links.drop_entry(union, indexed)
    forget_name(union, node, parent, name, last=True)
    return node


def _remove_upper(union: Union, node: DirNode, parent: DirNode, name: bytes, fast: bool) -> None:
    upper = parent.upper_dir
    if fast:
        try:
            os.rmdir(name, dir_fd=upper.fd())
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        check_empty(union, node)
    union.staging_area().take_away(upper, name, is_dir=True)


def require(union: Union, parent: DirNode, name: bytes) -> tuple[Node, Stat]:
    """The node of `name` and its real stat.  Raises ENOENT."""
    found = lookup(union, parent, name)
    if found is None:
        raise OSError(errno.ENOENT, "no such name")
    return found


def check_removable(union: Union, parent: DirNode, node: Node) -> None:
    """Raises EROFS in a read-only union, EPERM where the object or its directory is immutable or append-only."""
    if union.read_only:
        raise OSError(errno.EROFS, "read-only union")
    protect.check_entry(parent, adding=False)
    protect.check_change(node)


def check_empty(union: Union, node: DirNode) -> None:
    """Raises ENOTEMPTY when any name shows in the directory; whiteouts don't.  ScanNeeded where that takes long to tell."""
    if not merge.shows_nothing(union, node):
        raise OSError(errno.ENOTEMPTY, "directory is not empty")


def prepare_linked(union: Union, node: Node, parent: DirNode, name: bytes) -> Stat | None:
    """Before the names of a node of several change by `name`: that one is on the upper layer, and the count is noted there.

    The object's stat then; None for any other node.  Raises CopyUpNeeded before it has changed anything, and what a copy-up
    raises.
    """
    if node.links is None:
        return None
    ensure_metadata(union, node)
    ensure_upper(union, parent)
    links.link_up(union, node, parent, name)
    return links.note_count(union, node)


def prepare_directory(union: Union, node: Node | None) -> None:
    """Before a directory goes: with nfs_export it is in the index, which is to say that it has gone."""
    if isinstance(node, DirNode) and union.origins is not None and union.origins.everything:
        ensure_upper(union, node)


def prepare_loss(node: Node) -> None:
    """Before a name of an upper object goes: if no other is known, hold the object itself, it may be open."""
    if not node.aliases:
        node.pin()


def keep_name(node: Node) -> None:
    """The name did not go after all."""
    if node.parent is not None:
        node.unpin()


def forget_name(union: Union, node: Node, parent: DirNode, name: bytes, last: bool, replaced: bool = False) -> None:
    """`name` no longer stands for the node; `last`: nothing does.  `replaced`: the name stays, for another node."""
    if parent.children.get(name) is node:
        del parent.children[name]
    if parent.index is not None and not replaced:
        parent.index.discard(name)
    if node.aliases:
        if (node.parent, node.name) == (parent, name):
            other, other_name = node.aliases.pop()
            node.place(other, other_name)
        else:
            node.aliases.remove((parent, name))
        links.keep_count(union, node)
        return
    if last and links.is_gone(union, node):
        node.unlinked = True
        union.inodes.forget_link(node)
        if union.exports is not None:
            union.exports.drop(node)
    elif node.links is not None:
        node.unpin()
    if node.upper and not isinstance(node, DirNode):
        node.parent = None
    if isinstance(node, DirNode):
        node.index = None
