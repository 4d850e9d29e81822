"""How does a name move?  rename(2) and renameat2(2) with NOREPLACE and EXCHANGE.

Files and directories of the upper layer alone move by one rename there; what shows from below at the old name is hidden
by the whiteout that RENAME_WHITEOUT leaves in the same step.  A directory with a lower part gets a redirect that says where
that is, or where none may be made, can't be renamed: EXDEV.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from unionfs.linux import at, procfs, stat
from unionfs.linux.stat import Stat
from unionfs.overlay import dirindex, links, opaque, protect, redirect
from unionfs.overlay.attrs import link_count
from unionfs.overlay.config import RedirectDir
from unionfs.overlay.copyup import copy_xattrs, ensure_metadata, ensure_upper
from unionfs.overlay.create import check_name
from unionfs.overlay.creator import SERVER
from unionfs.overlay.impure import set_impure
from unionfs.overlay.lookup import find_below, lookup
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.remove import (
    check_empty,
    check_removable,
    forget_name,
    keep_name,
    prepare_directory,
    prepare_linked,
    prepare_loss,
    require,
)  # fmt: skip

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


class Side(NamedTuple):
    """One end of a rename: directory, name, what is there, and whether something below would show if it were not."""

    parent: DirNode
    name: bytes
    node: Node | None
    below: bool


def rename(union: Union, parent: DirNode, name: bytes, new_parent: DirNode, new_name: bytes, flags: int) -> Node | None:
    """The node that was replaced, if any.

    Raises EINVAL (flags), ENOENT, EEXIST (NOREPLACE), EXDEV (a directory with a lower part), ENOTEMPTY, EISDIR, ENOTDIR,
    EPERM (immutable), EROFS.
    """
    if flags & ~(at.RENAME_NOREPLACE | at.RENAME_EXCHANGE) or flags == at.RENAME_NOREPLACE | at.RENAME_EXCHANGE:
        raise OSError(errno.EINVAL, "unknown rename flags")
    check_name(new_name)
    node, _ = require(union, parent, name)
    check_removable(union, parent, node)
    protect.check_entry(new_parent, adding=True)
    replaced = lookup(union, new_parent, new_name)
    target = replaced[0] if replaced is not None else None
    exchange = bool(flags & at.RENAME_EXCHANGE)
    if replaced is None and exchange:
        raise OSError(errno.ENOENT, "nothing to exchange with")
    if replaced is not None and flags & at.RENAME_NOREPLACE:
        raise OSError(errno.EEXIST, "target exists")
    if target is node:
        return None
    for moving in (node, target) if exchange else (node,):
        if isinstance(moving, DirNode) and _has_lower_part(moving) and union.redirects is not RedirectDir.ON:
            raise OSError(errno.EXDEV, "a directory with a lower part can't be renamed")
    if replaced is not None:
        _check_target(union, node, new_parent, replaced[0], exchange=exchange)
    for moving in (node, target) if exchange else (node,):
        if moving is not None:
            ensure_metadata(union, moving)
    ensure_upper(union, parent)
    ensure_upper(union, new_parent)
    if not exchange:
        prepare_directory(union, target)
    prepare_linked(union, node, parent, name)
    counted = prepare_linked(union, target, new_parent, new_name) if target is not None else None
    found = counted if counted is not None or replaced is None else replaced[1]
    if parent is not new_parent:
        # Marked before anything moves: a failure must leave all as it was.
        for old, new in ((parent, new_parent), (new_parent, parent)) if exchange else ((parent, new_parent),):
            if old.upper_dir.marks().impure:
                set_impure(union, new)
    source = Side(parent, name, node, find_below(union, parent, name))
    destination = Side(new_parent, new_name, target, find_below(union, new_parent, new_name))
    for side, place in ((source, destination), (destination, source)) if exchange else ((source, destination),):
        _mark_moved(union, side, place.parent)
    if exchange:
        _exchange(union, source, destination)
        return None
    _move(union, source, destination, found)
    return target


def _check_target(union: Union, node: Node, parent: DirNode, target: Node, *, exchange: bool) -> None:
    check_removable(union, parent, target)
    if exchange:
        return
    if node.is_dir and not isinstance(target, DirNode):
        raise OSError(errno.ENOTDIR, "target is not a directory")
    if isinstance(target, DirNode):
        if not node.is_dir:
            raise OSError(errno.EISDIR, "target is a directory")
        check_empty(union, target)


def _exchange(union: Union, one: Side, other: Side) -> None:
    assert one.node is not None
    assert other.node is not None
    at.rename(
        one.parent.upper_dir.fd(), one.name, other.parent.upper_dir.fd(), other.name, at.RENAME_EXCHANGE
    )
    _rename_node(union, one.node, one, other)
    _rename_node(union, other.node, other, one)
    # Both names were taken off their old places before either was entered at its new one.
    for side, node in ((other, one.node), (one, other.node)):
        _enter(side, node)


def _move(union: Union, source: Side, destination: Side, replaced: Stat | None) -> None:
    node, target = source.node, destination.node
    assert node is not None
    indexed = dirindex.origin_in_index(union, target)
    over_whiteout = False
    if target is None or not target.upper:
        over_whiteout = union.staging_area().is_whiteout(destination.parent.upper_dir, destination.name)
    try:
        if isinstance(target, DirNode) and target.upper:
            target.pin()
            _clear(union, target, destination)
        elif target is not None and target.upper:
            prepare_loss(target)
        _rename_upper(union, source, destination, over_whiteout)
    except OSError:
        if target is not None:
            keep_name(target)
        raise
    if indexed:
        links.drop_entry(union, indexed)
    if target is not None:
        last = not target.upper or target.is_dir or replaced is None or link_count(target, replaced) <= 1
        forget_name(union, target, destination.parent, destination.name, last, replaced=True)
    union.staging_area().unmark(destination.parent.upper_dir, destination.name)
    _rename_node(union, node, source, destination)
    if source.parent.index is not None:
        source.parent.index.discard(source.name)
    _enter(destination, node)


def _rename_upper(union: Union, source: Side, destination: Side, over_whiteout: bool) -> None:
    """The step on the upper filesystem."""
    staging = union.staging_area()
    old, new = source.parent.upper_dir, destination.parent.upper_dir
    node = source.node
    assert node is not None
    if source.below and staging.files:
        staging.whiteout(source.parent, source.name)
    hide = source.below and not staging.files
    if over_whiteout and node.is_dir:
        # A directory can't replace a whiteout, but change places with it.
        at.rename(old.fd(), source.name, new.fd(), destination.name, at.RENAME_EXCHANGE)
        if not hide:
            # A whiteout over nothing hides nothing: that it stays does not undo the rename.
            with contextlib.suppress(OSError):
                os.unlink(source.name, dir_fd=old.fd())
        return
    if not hide:
        at.rename(old.fd(), source.name, new.fd(), destination.name)
        return
    union.identity.assume(SERVER)
    try:
        at.rename(old.fd(), source.name, new.fd(), destination.name, at.RENAME_WHITEOUT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        staging.move_and_hide(old, source.name, new, destination.name)


def _has_lower_part(node: DirNode) -> bool:
    return not node.upper or node.is_merged


def _mark_moved(union: Union, side: Side, new: DirNode) -> None:
    """Before an object moves: say where its lower part is, or that it must not merge with what lies or will lie there.

    Raises EXDEV where the mark can't be made.
    """
    node, old = side.node, side.parent
    if node is not None and node.data is not None:
        redirect.write_for_file(union, node, old, side.name, same_parent=old is new)
    if not isinstance(node, DirNode):
        return
    if _has_lower_part(node):
        redirect.write(union, node, same_parent=old is new)
    elif new.lower_dirs and not node.upper_dir.marks().opaque:
        try:
            opaque.mark(union, *node.at())
        except OSError:
            raise OSError(errno.EXDEV, "the upper layer takes no opaque mark") from None
        node.upper_dir.note_opaque()


def _clear(union: Union, target: DirNode, place: Side) -> None:
    """Put an empty opaque directory in the place of an upper one that shows nothing but may hold whiteouts."""
    if not os.listdir(procfs.fd_path(target.upper_dir.fd())):
        return
    staging = union.staging_area()
    staged = staging.temporary()
    union.identity.assume(SERVER)
    os.mkdir(staged, 0o700, dir_fd=staging.work)
    here = (staging.work, staged)
    try:
        found = stat.stat(*target.at())
        at.chown(*here, found.uid, found.gid)
        at.chmod(*here, found.mode & 0o7777)
        copy_xattrs(union, target.layer(), target.at(), here)
        opaque.mark(union, *here)
        at.utimens(*here, (found.atime, found.atime_nsec), (found.mtime, found.mtime_nsec))
        staging.publish(staged, place.parent.upper_dir, place.name, at.RENAME_EXCHANGE)
        # What its whiteouts hid must not show again, should the rename fail after this.
        target.reals = target.reals[:1]
        target.upper_dir.close()
        target.upper_dir.note_new()
        target.unpin()
        target.pin()
    finally:
        staging.discard(staged)


def _rename_node(union: Union, node: Node, old: Side, new: Side) -> None:
    """The node leaves its old name; `_enter` gives it the new one."""
    if old.parent.children.get(old.name) is node:
        del old.parent.children[old.name]
    if (node.parent, node.name) == (old.parent, old.name):
        node.place(new.parent, new.name)
    elif node.aliases and (old.parent, old.name) in node.aliases:
        node.aliases.remove((old.parent, old.name))
        node.aliases.append((new.parent, new.name))


def _enter(place: Side, node: Node) -> None:
    place.parent.children[place.name] = node
    if place.parent.index is not None:
        place.parent.index.put(place.name, node.kind, node.ino, (place.parent.upper_dir,))
