"""What does a default ACL make of a new object's mode?  The rule of acl(5), "Object creation and default ACLs".

An ACL as an xattr (linux/posix_acl_xattr.h): u32 version 2, then entries of u16 tag, u16 permissions, u32 id.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
NAMES: Final = frozenset((ACCESS, DEFAULT))
_VERSION: Final = 2
_HEAD: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def for_new_object(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """(mode, access ACL or None if the mode says it all) of an object made with `mode` below a directory with `default`.

    The classes of the mode and the entries that stand for them are each cut down to what both allow.
    """
    if len(default) < _HEAD.size or _HEAD.unpack_from(default)[0] != _VERSION:
        return mode, None
    entries = [list(entry) for entry in _ENTRY.iter_unpack(default[_HEAD.size :])]
    has_mask = any(tag == _MASK for tag, _, _ in entries)
    result = mode & ~0o777
    for entry in entries:
        tag = entry[0]
        shift = _class_shift(tag, has_mask)
        if shift is None:
            continue
        entry[1] &= mode >> shift & 7
        result |= entry[1] << shift
    extended = has_mask or any(tag in (_USER, _GROUP) for tag, _, _ in entries)
    if not extended:
        return result, None
    return result, _HEAD.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def with_ids(value: bytes, uids: Callable[[int], int] | None, gids: Callable[[int], int] | None) -> bytes:
    """The list with the ids of its named users and groups changed; as it is where it is none."""
    if len(value) < _HEAD.size or _HEAD.unpack_from(value)[0] != _VERSION or (len(value) - _HEAD.size) % _ENTRY.size:
        return value
    changed = [value[: _HEAD.size]]
    for tag, permissions, number in _ENTRY.iter_unpack(value[_HEAD.size :]):
        change = uids if tag == _USER else gids if tag == _GROUP else None
        changed.append(_ENTRY.pack(tag, permissions, number if change is None else change(number)))
    return b"".join(changed)


def _class_shift(tag: int, has_mask: bool) -> int | None:
    """Where in the mode the entry's class stands; with a mask that one is the group class."""
    if tag == _USER_OBJ:
        return 6
    if tag == _MASK or (tag == _GROUP_OBJ and not has_mask):
        return 3
    return 0 if tag == _OTHER else None
