"""How are extended attributes asked for and set?  The xattr operations, and the ACLs among them."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.overlay import acl, attrs, xattrs
from unionfs.overlay.node import Node
from unionfs.overlay.union import may_see_trusted
from unionfs.serve import callers
from unionfs.wire import abi
from unionfs.wire.kinds import Getxattr, Header, Listxattr, Removexattr, Setxattr

if TYPE_CHECKING:
    from unionfs.serve.context import Context

_WRITABLE_BY_OTHERS: Final = modes.S_IWGRP | modes.S_IWOTH
_CAPABILITY: Final = "security.capability"


class Xattrs:
    """The xattr operations.  A size of 0 asks for the length: an int is answered instead of bytes."""

    __slots__ = ("_noacl", "_union")

    def __init__(self, context: Context) -> None:
        self._union = context.union
        self._noacl = context.config.noacl or not context.union.takes_acls

    def getxattr(self, header: Header, request: Getxattr) -> bytes | int:
        name = self._name(request.name)
        value = xattrs.get(self._union, self._union.node(header.nodeid), name)
        return _sized(value, request.size)

    def listxattr(self, header: Header, request: Listxattr) -> bytes | int:
        node = self._union.node(header.nodeid)
        names = xattrs.names(self._union, node, trusted=True)
        if any(name.startswith("trusted.") for name in names) and not may_see_trusted(header.uid, header.pid):
            names = [name for name in names if not name.startswith("trusted.")]
        if self._noacl:
            names = [name for name in names if name not in acl.NAMES]
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), request.size)

    def setxattr(self, header: Header, request: Setxattr) -> None:
        node = self._union.node(header.nodeid)
        name = self._name(request.name)
        xattrs.put(self._union, node, name, request.value, request.flags)
        if name == acl.ACCESS and request.setxattr_flags & abi.SETXATTR_ACL_KILL_SGID:
            self._kill_sgid(node)

    def removexattr(self, header: Header, request: Removexattr) -> None:
        node = self._union.node(header.nodeid)
        name = self._name(request.name)
        if name == _CAPABILITY and (uid := callers.uid(header)) != 0:
            self._check_capability_owner(uid, node)
        xattrs.remove(self._union, node, name)

    def _check_capability_owner(self, uid: int, node: Node) -> None:
        """An ordinary user comes here only by changing the data or by chown(2) with no id; as a stranger not by that."""
        io = node.attachment
        if not (io is not None and io.writers):
            found = attrs.real_stat(node)
            if self._union.owners is not None:
                found = self._union.owners.shown(found)
            if attrs.is_set_id(found) and uid != found.uid and not found.mode & _WRITABLE_BY_OTHERS:
                raise OSError(errno.EPERM, "not the owner")

    def _name(self, name: bytes) -> str:
        text = os.fsdecode(name)
        if self._noacl and text in acl.NAMES:
            raise OSError(errno.EOPNOTSUPP, "ACLs are switched off")
        return text

    def _kill_sgid(self, node: Node) -> None:
        mode = attrs.real_stat(node).mode & 0o7777
        if mode & modes.S_ISGID:
            attrs.set_mode(node, mode & ~modes.S_ISGID)


def _sized(value: bytes, size: int) -> bytes | int:
    if size == 0:
        return len(value)
    if len(value) > size:
        raise OSError(errno.ERANGE, "buffer is too small")
    return value
