"""Which extended attributes do users see and change?  All but the union's own marks; nested unions' marks one level deeper."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from unionfs.linux import xattr
from unionfs.overlay import acl, isolation, marks, protect
from unionfs.overlay.copyup import ensure_metadata
from unionfs.overlay.node import Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_NAME_MAX: Final = 255


def get(union: Union, node: Node, attribute: str) -> bytes:
    """getxattr(2).  Raises ENODATA, EOPNOTSUPP.

    Where a layer's filesystem has no ACLs there simply is none: for another answer the kernel refuses all access to the object by
    who is not its owner (fs/fuse/acl.c).
    """
    real = _names_of(node, _real_name(union, attribute, errno.ENODATA))[0]
    try:
        value = xattr.read(*node.at(), real)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and attribute in acl.NAMES:
            raise OSError(errno.ENODATA, "no ACL") from None
        raise
    return value if union.owners is None or attribute not in acl.NAMES else union.owners.acl_shown(value)


def names(union: Union, node: Node, trusted: bool) -> list[str]:
    """listxattr(2); `trusted`: the caller may see the trusted namespace."""
    if union.config.noxattrs:
        return []
    found = xattr.names(*node.at())
    override = node.layer().override
    if override is not None:
        found = isolation.decoded(override, found)
    shown = (marks.unescape(name, union.prefix) for name in found)
    return [name for name in shown if name is not None and (trusted or not name.startswith("trusted."))]


def put(union: Union, node: Node, attribute: str, value: bytes, flags: int) -> None:
    """setxattr(2).  Raises EEXIST and ENODATA (flags), EOPNOTSUPP, EPERM, EROFS, ENOSPC."""
    real = _real_name(union, attribute, errno.EOPNOTSUPP)
    protect.check_change(node)
    if not node.upper and flags:
        present = bool(isolation.present(node, real))
        if present and flags & xattr.XATTR_CREATE:
            raise OSError(errno.EEXIST, "attribute exists")
        if not present and flags & xattr.XATTR_REPLACE:
            raise OSError(errno.ENODATA, "no such attribute")
    ensure_metadata(union, node)
    if union.owners is not None and attribute in acl.NAMES:
        value = union.owners.acl_stored(value)
    xattr.write(*node.at(), _own_name(node, real), value, flags)


def remove(union: Union, node: Node, attribute: str) -> None:
    """removexattr(2); of an attribute that is not there without a copy-up.  Raises ENODATA, EOPNOTSUPP, EPERM, EROFS."""
    real = _real_name(union, attribute, errno.EOPNOTSUPP)
    protect.check_change(node)
    if not node.upper:
        xattr.read(*node.at(), _names_of(node, real)[0])
    ensure_metadata(union, node)
    for name in _names_of(node, real):
        xattr.remove(*node.at(), name)


def _names_of(node: Node, attribute: str) -> list[str]:
    """The names under which the node's layer has an attribute.  Raises ENODATA for one that it knows not to be there."""
    if node.layer().override is None:
        return [attribute]
    found = isolation.present(node, attribute)
    if not found:
        raise OSError(errno.ENODATA, "no such attribute")
    return found


def _own_name(node: Node, attribute: str) -> str:
    """The name under which the node's layer gets an attribute.  Raises EOPNOTSUPP for one that is no user's."""
    override = node.layer().override
    name = attribute if override is None else isolation.encode(override, attribute)
    if name is None:
        raise OSError(errno.EOPNOTSUPP, "private attribute")
    return name


def _real_name(union: Union, attribute: str, hidden: int) -> str:
    if union.config.noxattrs:
        raise OSError(errno.EOPNOTSUPP, "xattrs are switched off")
    if attribute == union.prefix:
        raise OSError(errno.EINVAL, "no name after the prefix")
    real = marks.escape(attribute, union.prefix)
    if real is None:
        raise OSError(hidden, "private attribute")
    if len(real.encode("utf-8", "surrogateescape")) > _NAME_MAX:
        raise OSError(errno.EOPNOTSUPP, "attribute name is too long once escaped")
    return real
