"""What are an object's attributes, and how do they change?  stat, mode, owner, size, times."""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import isolation, protect
from unionfs.overlay.copyup import ensure_metadata, ensure_upper
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.override import real_stat as real_stat
from unionfs.overlay.owners import give_away

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_SET_GROUP: Final = modes.S_ISGID | modes.S_IXGRP
_CAPABILITY: Final = "security.capability"
#: Says of a group, as users see it, whether the caller is in it, or may keep set-id bits whatever it is in.
MayKeep = Callable[[int], bool]


def link_count(node: Node, found: Stat) -> int:
    """st_nlink: 1 for a merged directory (its subdirectories are not counted), 0 for what has no name left.

    Of all names of a lower inode (index=on) those that it still has and those that were added, without the index entry.
    """
    if node.unlinked:
        return 0
    if node.links is not None and node.upper:
        return found.nlink + node.links.extra
    return 1 if isinstance(node, DirNode) and node.is_merged else found.nlink


def chmod(union: Union, node: Node, mode: int) -> None:
    """chmod(2)."""
    ensure_metadata(union, node, protect.check_change(node))
    set_mode(node, mode & 0o7777)


def set_mode(node: Node, mode: int) -> None:
    """Give an object on the upper layer other permission bits."""
    override = node.layer().override
    if override is None:
        at.chmod(*node.at(), mode)
    else:
        override.chmod(node.at(), mode)


def chown(union: Union, node: Node, uid: int, gid: int, may_keep: MayKeep) -> None:
    """chown(2) with ids as users see them; -1 keeps one.

    The upper filesystem drops set-id bits and capabilities itself, but for what it leaves to the server and not to the caller.
    """
    found = protect.check_change(node)
    loses = not node.is_dir and _loses_group_bit(union, found or real_stat(node), may_keep)
    ensure_metadata(union, node, found)
    owners, override = union.owners, node.layer().override
    if owners is not None:
        uid, gid = owners.uid(uid), owners.gid(gid)
    if override is None:
        give_away(node.at(), uid, gid, lenient=owners is not None and owners.lenient)
    else:
        override.chown(node.at(), uid, gid)
        if not node.is_dir:
            drop_capabilities(union, node)
    if loses and (mode := real_stat(node).mode & 0o7777) & modes.S_ISGID:
        set_mode(node, mode & ~modes.S_ISGID)


def utimens(union: Union, node: Node, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2)."""
    ensure_metadata(union, node, protect.check_change(node, touching=atime == mtime == (0, at.UTIME_NOW)))
    at.utimens(*node.at(), atime, mtime)


def truncate(union: Union, node: Node, size: int, fd: int = -1) -> None:
    """truncate(2), by `fd` if the caller has the upper file open for writing.

    A lower file's data beyond `size` are not copied first.  Raises EISDIR, EINVAL, EFBIG, EPERM.
    """
    if node.is_dir:
        raise OSError(errno.EISDIR, "is a directory")
    if not node.is_regular:
        raise OSError(errno.EINVAL, "not a regular file")
    ensure_upper(union, node, size, protect.check_change(node))
    if fd >= 0:
        os.ftruncate(fd, size)
        return
    fd = at.open_at(*node.at(), os.O_WRONLY)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def is_set_id(found: Stat) -> bool:
    """Does the file change its executor's identity: set-user-ID, or set-group-ID together with group execution?"""
    return bool(found.mode & modes.S_ISUID) or found.mode & _SET_GROUP == _SET_GROUP


def _loses_group_bit(union: Union, found: Stat, may_keep: MayKeep) -> bool:
    """Does a change of the file take its set-group-ID bit (fs/attr.c, setattr_should_drop_sgid)?

    On one that its group can't execute, where it once meant mandatory locking (inode(7)), it stays if the caller may keep it.
    """
    if not found.mode & modes.S_ISGID:
        return False
    shown = found if union.owners is None else union.owners.shown(found)
    return bool(found.mode & modes.S_IXGRP) or not may_keep(shown.gid)


def kill_privileges(union: Union, node: Node, may_keep: MayKeep) -> None:
    """Someone without the privilege to keep them changes the file: set-id bits and capabilities go."""
    ensure_metadata(union, node)
    found = real_stat(node)
    mode = found.mode & 0o7777
    kept = mode & ~modes.S_ISUID
    if _loses_group_bit(union, found, may_keep):
        kept &= ~modes.S_ISGID
    if kept != mode:
        set_mode(node, kept)
    drop_capabilities(union, node)


def drop_capabilities(union: Union, node: Node) -> None:
    """A file's capabilities go with every change of its data, whoever makes it (capabilities(7))."""
    if isolation.present(node, _CAPABILITY):
        ensure_metadata(union, node)
        for name in isolation.present(node, _CAPABILITY):
            xattr.remove(*node.at(), name)


@contextmanager
def keeping_capability(fd: int) -> Iterator[None]:
    """The open file has afterwards the security.capability that it had before, whatever a write in between took away."""
    capability = xattr.find(fd, None, _CAPABILITY)
    try:
        yield
    finally:
        if capability is not None and xattr.find(fd, None, _CAPABILITY) is None:
            xattr.write(fd, None, _CAPABILITY, capability)


def read_link(node: Node) -> bytes:
    """readlink(2).  Raises EINVAL when it is no symlink."""
    return at.readlink(*node.at())
