"""What do chattr(1)'s immutable and append-only flags forbid?

On the layer that has the real flags its filesystem refuses by itself, but a copy-up has to be refused before it is made.
On the upper layer overlayfs keeps the flags of a copied-up object in the xattr `overlay.protattr`, as letters: `a`
append-only, `i` immutable (overlayfs.rst, "Inode properties"; fs/overlayfs/util.c, ovl_check_protattr).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from unionfs.linux import stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay.node import UNKNOWN, DirNode, Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

IMMUTABLE: Final = stat.STATX_ATTR_IMMUTABLE
APPEND: Final = stat.STATX_ATTR_APPEND
_LETTERS: Final = {ord("a"): APPEND, ord("i"): IMMUTABLE}
#: Bytes of the longest value that is read (OVL_PROTATTR_MAX).
_LONGEST: Final = 32


def decode(value: bytes | None) -> int:
    """The flags as statx(2) attribute bits; none at all if there is a letter nobody knows, or too many."""
    if value is None or len(value) > _LONGEST or any(letter not in _LETTERS for letter in value):
        return 0
    flags = 0
    for letter in value:
        flags |= _LETTERS[letter]
    return flags


def encode(flags: int) -> bytes:
    """The letters for statx(2) attribute bits."""
    return bytes(letter for letter, bit in _LETTERS.items() if flags & bit)


def real_flags(node: Node, found: Stat) -> int:
    """The flags of the real object, whose stat is `found`.

    EROFS calls everything immutable and means that nothing can be written there; the kernel's overlayfs asks for inode flags, of
    which EROFS has none.
    """
    return found.attributes & (IMMUTABLE | APPEND) if node.upper or node.layer().has_flags else 0


def kept_flags(node: Node) -> int:
    """The flags that are kept for an upper object, read when they first matter; none of a lower one."""
    if node.protected == UNKNOWN:
        node.protected = decode(xattr.find(*node.at(), node.layer().prefix + "protattr"))
    return node.protected


def flags_of(node: Node) -> int:
    """The flags in force, but for those that the upper filesystem itself enforces."""
    return kept_flags(node) if node.upper else real_flags(node, stat.stat(*node.at()))


def check_change(node: Node, *, touching: bool = False) -> Stat | None:
    """Before metadata change, or a link is made: raises EPERM for an immutable or append-only object.

    `touching`: its times are set to this moment, which an append-only one allows (fs/attr.c, may_setattr).

    The stat of a lower object, which a copy-up can go on with; None for an upper one.
    """
    found = None if node.upper else stat.stat(*node.at())
    flags = kept_flags(node) if found is None else real_flags(node, found)
    _refuse(flags, unless_appending=touching)
    return found


def check_open(node: Node, *, appending: bool) -> None:
    """Before an open for writing; `appending`: with O_APPEND and without O_TRUNC.  Raises EPERM.

    The upper layer's own flags count here too: a passthrough open is made without the kernel's check of them.
    """
    _refuse(kept_flags(node) | real_flags(node, stat.stat(*node.at())), unless_appending=appending)


def check_contents(node: Node, *, appending: bool) -> None:
    """Before copy_file_range(2) or fallocate(2) by a descriptor from before the flags were set; write(2) heeds none.

    `appending`: what is there stays.  Raises EPERM (fs/read_write.c, generic_copy_file_checks; fs/open.c, vfs_fallocate).
    """
    _refuse(kept_flags(node), unless_appending=appending)


def _refuse(flags: int, *, unless_appending: bool) -> None:
    """Raises EPERM for flags that forbid a change; `unless_appending`: it is one that append-only allows."""
    if flags & IMMUTABLE or (flags & APPEND and not unless_appending):
        raise OSError(errno.EPERM, "immutable or append-only")


def check_entry(parent: DirNode, *, adding: bool) -> None:
    """Before a name is added to a directory, or taken from it.  Raises EPERM."""
    if flags_of(parent) & (IMMUTABLE if adding else IMMUTABLE | APPEND):
        raise OSError(errno.EPERM, "immutable or append-only directory")


def write(union: Union, node: Node, flags: int) -> None:
    """Keep `flags` for an object on the upper layer."""
    if flags == kept_flags(node):
        return
    if flags:
        xattr.write(*node.at(), union.prefix + "protattr", encode(flags))
    else:
        xattr.remove(*node.at(), union.prefix + "protattr")
    node.protected = flags
