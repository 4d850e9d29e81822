"""Which private names does overlayfs give a meaning?  Whiteouts, opaque directories, origins, and how they hide from users.

Source: Documentation/filesystems/overlayfs.rst and fs/overlayfs/overlayfs.h of Linux; for `.wh.` files the image layer
specification of OCI; for `user.fuseoverlayfs.` fuse-overlayfs(1).
"""

from __future__ import annotations

import errno
import struct
import sys
from typing import Final, NamedTuple

from unionfs.linux import xattr
from unionfs.linux.handle import Handle

TRUSTED: Final = "trusted.overlay."
USER: Final = "user.overlay."
#: Marks of fuse-overlayfs, always hidden from users.
FOREIGN: Final = "user.fuseoverlayfs."
MARKER: Final = b".wh."
OPAQUE_MARKER: Final = b".wh..wh..opq"
#: Of a staged object or a whiteout kept for linking: nothing else may lie in workdir/work.
TEMPORARY: Final = b"#"

ORIGIN_MAGIC: Final = 0xFB
_ORIGIN_HEAD: Final = struct.Struct("=BBBBB16s")
_FLAG_BIG_ENDIAN: Final = 1
_FLAG_ANY_ENDIAN: Final = 2
_FLAG_UPPER: Final = 4
_NATIVE_FLAGS: Final = _FLAG_BIG_ENDIAN if sys.byteorder == "big" else 0


class DirMarks(NamedTuple):
    """What a directory's xattrs say to the union.

    opaque: nothing below shows.  xwhiteouts: empty files in it may be whiteouts by xattr.  impure: objects in it may have
    an origin, or their data elsewhere.  redirect: under which path the layers below continue it.  origin: it says which
    lower directory it was.
    """

    opaque: bool
    xwhiteouts: bool
    impure: bool
    redirect: bytes | None
    origin: bool = False


NO_MARKS: Final = DirMarks(False, False, False, None)


def read_dir_marks(dir_fd: int, name: bytes, prefix: str) -> DirMarks:
    """The marks of the directory `name`: one system call when there are none."""
    names = xattr.names(dir_fd, name)
    if not names:
        return NO_MARKS
    value = xattr.find(dir_fd, name, prefix + "opaque") if prefix + "opaque" in names else None
    opaque = value == b"y"
    foreign = FOREIGN + "opaque"
    if not opaque and foreign in names:
        opaque = (xattr.find(dir_fd, name, foreign) or b"").startswith(b"y")
    redirect = xattr.find(dir_fd, name, prefix + "redirect") if prefix + "redirect" in names else None
    return DirMarks(opaque, value == b"x", prefix + "impure" in names, redirect, prefix + "origin" in names)


def has_whiteout_xattr(dir_fd: int, name: bytes, prefix: str) -> bool:
    return xattr.find(dir_fd, name, prefix + "whiteout") is not None


def metacopy(dir_fd: int, name: bytes, prefix: str) -> bytes | None:
    """The mark of a file whose data are in a layer below (overlayfs.rst, "Metadata only copy up"); None when there is none.

    A `user.` xattr that can't be read for lack of permission is none, as in overlayfs.
    """
    try:
        return xattr.find(dir_fd, name, prefix + "metacopy")
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        return None


def escape(attribute: str, prefix: str) -> str | None:
    """The real name of the xattr a user names through the mount; None when the name is not to be had at all.

    A union stored inside a union keeps its marks one `overlay.` deeper for each level (overlayfs.rst, "Nested overlayfs
    mounts").
    """
    if attribute.startswith(FOREIGN):
        return None
    return f"{prefix}overlay.{attribute[len(prefix):]}" if attribute.startswith(prefix) else attribute


def unescape(attribute: str, prefix: str) -> str | None:
    """The name under which a user sees a real xattr; None when it is hidden."""
    if attribute.startswith(FOREIGN):
        return None
    if not attribute.startswith(prefix):
        return attribute
    nested = prefix + "overlay."
    return prefix + attribute[len(nested) :] if attribute.startswith(nested) else None


class Origin(NamedTuple):
    """`overlay.origin`: which lower inode an upper one was copied from (struct ovl_fb)."""

    uuid: bytes
    handle: Handle


def encode_origin(uuid: bytes, handle: Handle | None, *, upper: bool = False) -> bytes:
    """u8 version 0 | u8 magic | u8 length | u8 flags | u8 handle type | u8 uuid[16] | handle; empty when unknown.

    upper: the handle is that of an object on the upper layer, as in `overlay.upper`.
    """
    if handle is None or not 0 <= handle.kind <= 0xFE:
        return b""
    length = _ORIGIN_HEAD.size + len(handle.opaque)
    flags = _NATIVE_FLAGS | (_FLAG_UPPER if upper else 0)
    return _ORIGIN_HEAD.pack(0, ORIGIN_MAGIC, length, flags, handle.kind, uuid) + handle.opaque


def decode_origin(value: bytes) -> Origin | None:
    """The origin, or None where it is unknown, of another version or byte order, or damaged."""
    try:
        return check_origin(value)
    except OSError:
        return None


def same_origin(one: bytes | None, other: bytes) -> bool:
    """Do two values hold the same handle?  What follows a handle counts for nothing; a value that holds none is like no other."""
    return one is not None and decode_origin(one) is not None and one[: one[2]] == other[: other[2]]


def check_origin(value: bytes) -> Origin:
    """The origin.  Raises EINVAL for what is damaged, ENODATA for another version or byte order (ovl_check_fb_len)."""
    if len(value) < _ORIGIN_HEAD.size:
        raise OSError(errno.EINVAL, "malformed handle")
    version, magic, length, flags, kind, uuid = _ORIGIN_HEAD.unpack_from(value)
    if magic != ORIGIN_MAGIC or not _ORIGIN_HEAD.size <= length <= len(value):
        raise OSError(errno.EINVAL, "malformed handle")
    if version != 0 or flags & ~(_FLAG_BIG_ENDIAN | _FLAG_ANY_ENDIAN | _FLAG_UPPER):
        raise OSError(errno.ENODATA, "handle of a newer format")
    if not flags & _FLAG_ANY_ENDIAN and flags & _FLAG_BIG_ENDIAN != _NATIVE_FLAGS:
        raise OSError(errno.ENODATA, "handle of a machine with another byte order")
    return Origin(uuid, Handle(kind, value[_ORIGIN_HEAD.size : length]))
