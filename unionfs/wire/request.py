"""What does the kernel ask? Requests decoded from bytes into one named tuple per kind.

A message is a 40-byte `fuse_in_header` and a body; `decode_header` reads the first, a function of `DECODERS` the
second. Layouts are those of <linux/fuse.h>. A fixed part longer than it is known here is accepted, since the kernel
only ever appends fields; a shorter one, or a name that cannot be one, raises `Malformed`, and nothing else is raised.

Decoding runs once per request on the hot path, hence the bare `tuple.__new__` in place of the constructors.
"""

import struct
from collections.abc import Callable
from typing import Any, Final, TypeVar

from unionfs.wire.abi import INIT_EXT, Opcode
from unionfs.wire.cursor import Cursor, Malformed
from unionfs.wire.extension import security_context, split_extensions, supplementary_group
from unionfs.wire.kinds import (
    Access,
    BatchForget,
    Bmap,
    CopyFileRange,
    Create,
    CuseInit,
    Destroy,
    Fallocate,
    Flush,
    Forget,
    Fsync,
    Getattr,
    Getxattr,
    Header,
    Init,
    Interrupt,
    Ioctl,
    Link,
    Listxattr,
    Lk,
    Lookup,
    Lseek,
    Mkdir,
    Mknod,
    NotifyReply,
    Open,
    Opendir,
    Poll,
    Read,
    Readdir,
    Readlink,
    Release,
    Removemapping,
    Removexattr,
    Rename,
    Rmdir,
    Setattr,
    Setupmapping,
    Setxattr,
    Statfs,
    Statx,
    Symlink,
    Syncfs,
    Tmpfile,
    Unlink,
    Write,
)

__all__ = [
    "DECODERS",
    "HEADER",
    "Access",
    "BatchForget",
    "Bmap",
    "CopyFileRange",
    "Create",
    "CuseInit",
    "Decoder",
    "Destroy",
    "Fallocate",
    "Flush",
    "Forget",
    "Fsync",
    "Getattr",
    "Getxattr",
    "Header",
    "Init",
    "Interrupt",
    "Ioctl",
    "Link",
    "Listxattr",
    "Lk",
    "Lookup",
    "Lseek",
    "Malformed",
    "Mkdir",
    "Mknod",
    "NotifyReply",
    "Open",
    "Opendir",
    "Poll",
    "Read",
    "Readdir",
    "Readlink",
    "Release",
    "Removemapping",
    "Removexattr",
    "Rename",
    "Rmdir",
    "Setattr",
    "Setupmapping",
    "Setxattr",
    "Statfs",
    "Statx",
    "Symlink",
    "Syncfs",
    "Tmpfile",
    "Unlink",
    "Write",
    "decode_header",
    "decoders",
    "security_context",
    "supplementary_group",
]

_new: Final = tuple.__new__

HEADER: Final = struct.Struct("=IIQQIIIH2x")
"""fuse_in_header, 40 bytes: the fields of `Header` and two bytes of padding."""


Decoder = Callable[[memoryview, Header], Any]
"""Turns a request's body (everything after its header) into the named tuple of its kind."""

_unpack_header: Final = HEADER.unpack_from


def decode_header(buffer: bytes | bytearray | memoryview) -> Header:
    """The header of the one message that `buffer` holds exactly; `Malformed` when lengths disagree."""
    try:
        header = _new(Header, _unpack_header(buffer))
    except struct.error:
        raise Malformed(f"message of {len(buffer)} bytes, shorter than its header") from None
    if header.length != len(buffer):
        raise Malformed(f"message of {len(buffer)} bytes says it has {header.length}")
    return header


_T = TypeVar("_T", bound=tuple[Any, ...])


def _fixed(kind: type[_T], layout: str) -> Callable[[memoryview, Header], _T]:
    """A decoder for a body that is one structure, whose fields are those of `kind` in the same order."""
    known = struct.Struct(layout)
    unpack = known.unpack_from

    def decode(body: memoryview, header: Header) -> _T:
        try:
            return _new(kind, unpack(body))
        except struct.error:
            raise Malformed(f"{kind.__name__} has {len(body)} bytes, not {known.size}") from None

    return decode


def _named(kind: type[_T]) -> Callable[[memoryview, Header], _T]:
    """A decoder for a body that is one name."""

    def decode(body: memoryview, header: Header) -> _T:
        return _new(kind, (_last_name(body),))

    return decode


# Bytes are tested for by their numbers: `b"/" in name` takes several times as long as `47 in name`.
_NUL: Final = 0
_SLASH: Final = ord("/")


def _last_string(body: memoryview) -> bytes:
    """The string that `body` consists of: at least one byte, then the first and only NUL."""
    raw = body.tobytes()
    string = raw[:-1]
    if not string or raw[-1] or _NUL in string:
        raise Malformed(f"not a string: {raw[:300]!r}")
    return string


def _last_name(body: memoryview) -> bytes:
    """The file name that `body` consists of: a string without slash."""
    raw = body.tobytes()
    name = raw[:-1]
    if not name or raw[-1] or _NUL in name or _SLASH in name:
        raise Malformed(f"not a name: {raw[:300]!r}")
    return name


_MKNOD: Final = struct.Struct("=III4x")
_TWO_WORDS: Final = struct.Struct("=II")
_ID: Final = struct.Struct("=Q")
_RENAME2: Final = struct.Struct("=QI4x")
_CREATE: Final = struct.Struct("=IIII")
_WRITE: Final = struct.Struct("=QQIIQI4x")
_SIZE: Final = struct.Struct("=I4x")
_SETXATTR: Final = struct.Struct("=II")
_SETXATTR_EXT: Final = struct.Struct("=III4x")
_INIT: Final = struct.Struct("=IIII")
_WORD: Final = struct.Struct("=I")
_IOCTL: Final = struct.Struct("=QIIQII")
_RETRIEVED: Final = struct.Struct("=8xQI20x")
_PAIR: Final = struct.Struct("=QQ")


def decode_batch_forget(body: memoryview, header: Header) -> BatchForget:
    """fuse_batch_forget_in (count), then `count` pairs of fuse_forget_one."""
    cursor = Cursor(body)
    (count,) = cursor.take(_SIZE)
    return BatchForget(_pairs(cursor, count))


def _pairs(cursor: Cursor, count: int) -> tuple[tuple[int, int], ...]:
    if count * _PAIR.size > len(cursor):
        raise Malformed(f"{count} pairs expected in {len(cursor)} bytes")
    return tuple(_PAIR.iter_unpack(cursor.rest()[: count * _PAIR.size]))


def decode_symlink(body: memoryview, header: Header) -> Symlink:
    """The name, the target, extensions."""
    body, extensions = split_extensions(body, header.total_extlen)
    cursor = Cursor(body)
    return Symlink(cursor.name(), cursor.string(), extensions)


def decode_mknod(body: memoryview, header: Header) -> Mknod:
    """fuse_mknod_in, the name, extensions."""
    body, extensions = split_extensions(body, header.total_extlen)
    mode, rdev, umask = _fields(_MKNOD, body)
    return _new(Mknod, (mode, rdev, umask, _last_name(body[16:]), extensions))


def decode_mkdir(body: memoryview, header: Header) -> Mkdir:
    """fuse_mkdir_in, the name, extensions."""
    body, extensions = split_extensions(body, header.total_extlen)
    mode, umask = _fields(_TWO_WORDS, body)
    return _new(Mkdir, (mode, umask, _last_name(body[8:]), extensions))


def _fields(layout: struct.Struct, body: memoryview) -> tuple[Any, ...]:
    try:
        return layout.unpack_from(body)
    except struct.error:
        raise Malformed(f"{len(body)} bytes, shorter than the fixed part of {layout.size}") from None


def decode_rename(body: memoryview, header: Header) -> Rename:
    """fuse_rename_in, the old name, the new name."""
    cursor = Cursor(body)
    (newdir,) = cursor.take(_ID)
    return Rename(newdir, 0, cursor.name(), cursor.name())


def decode_rename2(body: memoryview, header: Header) -> Rename:
    """fuse_rename2_in, the old name, the new name."""
    cursor = Cursor(body)
    newdir, flags = cursor.take(_RENAME2)
    return Rename(newdir, flags, cursor.name(), cursor.name())


def decode_link(body: memoryview, header: Header) -> Link:
    """fuse_link_in, the new name."""
    (oldnodeid,) = _fields(_ID, body)
    return Link(oldnodeid, _last_name(body[8:]))


def decode_write(body: memoryview, header: Header) -> Write:
    """fuse_write_in, 40 bytes, then `size` bytes of data."""
    fields = _fields(_WRITE, body)
    return _new(Write, (*fields, _payload(body, 40, fields[2])))


def _payload(body: memoryview, start: int, size: int) -> memoryview:
    data = body[start : start + size]
    if len(data) != size:
        raise Malformed(f"{size} bytes of data expected, {len(data)} there")
    return data


def decode_setxattr(body: memoryview, header: Header) -> Setxattr:
    """fuse_setxattr_in (16 bytes, as negotiated with SETXATTR_EXT), the name, the value."""
    cursor = Cursor(body)
    size, flags, setxattr_flags = cursor.take(_SETXATTR_EXT)
    return Setxattr(cursor.string(), cursor.bytes(size), flags, setxattr_flags)


def decode_setxattr_compat(body: memoryview, header: Header) -> Setxattr:
    """fuse_setxattr_in without SETXATTR_EXT (8 bytes), the name, the value."""
    cursor = Cursor(body)
    size, flags = cursor.take(_SETXATTR)
    return Setxattr(cursor.string(), cursor.bytes(size), flags, 0)


def decode_getxattr(body: memoryview, header: Header) -> Getxattr:
    """fuse_getxattr_in, the name."""
    (size,) = _fields(_SIZE, body)
    return _new(Getxattr, (_last_string(body[8:]), size))


def decode_removexattr(body: memoryview, header: Header) -> Removexattr:
    """The name."""
    return Removexattr(_last_string(body))


def decode_init(body: memoryview, header: Header) -> Init:
    """fuse_init_in: 64 bytes, 16 from a kernel older than 7.36, 8 from one older than 7.6."""
    if len(body) == _TWO_WORDS.size:
        major, minor = _TWO_WORDS.unpack(body)
        return Init(major, minor, 0, 0)
    major, minor, max_readahead, flags = _fields(_INIT, body)
    if flags & INIT_EXT and len(body) > _INIT.size:
        (flags2,) = _fields(_WORD, body[_INIT.size :])
        flags |= flags2 << 32
    return Init(major, minor, max_readahead, flags)


def decode_create(body: memoryview, header: Header) -> Create:
    """fuse_create_in, the name, extensions."""
    body, extensions = split_extensions(body, header.total_extlen)
    flags, mode, umask, open_flags = _fields(_CREATE, body)
    return _new(Create, (flags, mode, umask, open_flags, _last_name(body[16:]), extensions))


def decode_tmpfile(body: memoryview, header: Header) -> Tmpfile:
    """fuse_create_in, a NUL-terminated name that may be anything, extensions."""
    body, extensions = split_extensions(body, header.total_extlen)
    flags, mode, umask, open_flags = _fields(_CREATE, body)
    name = body[16:].tobytes()
    if name.find(0) != len(name) - 1 or not name:
        raise Malformed(f"not a name: {name[:300]!r}")
    return _new(Tmpfile, (flags, mode, umask, open_flags, name[:-1], extensions))


def decode_ioctl(body: memoryview, header: Header) -> Ioctl:
    """fuse_ioctl_in, 32 bytes, then `in_size` bytes."""
    fields = _fields(_IOCTL, body)
    return _new(Ioctl, (*fields, _payload(body, 32, fields[4]).tobytes()))


def decode_notify_reply(body: memoryview, header: Header) -> NotifyReply:
    """fuse_notify_retrieve_in, 40 bytes, then `size` bytes of data."""
    offset, size = _fields(_RETRIEVED, body)
    return NotifyReply(offset, size, _payload(body, 40, size))


def decode_removemapping(body: memoryview, header: Header) -> Removemapping:
    """fuse_removemapping_in (count), then `count` pairs of fuse_removemapping_one."""
    cursor = Cursor(body)
    (count,) = cursor.take(_WORD)
    return Removemapping(_pairs(cursor, count))


decode_lookup: Final = _named(Lookup)
decode_unlink: Final = _named(Unlink)
decode_rmdir: Final = _named(Rmdir)
decode_forget: Final = _fixed(Forget, "=Q")
decode_getattr: Final = _fixed(Getattr, "=I4xQ")
decode_setattr: Final = _fixed(Setattr, "=I4xQQQqqqIIII4xII4x")
decode_readlink: Final = _fixed(Readlink, "=")
decode_open: Final = _fixed(Open, "=II")
decode_read: Final = _fixed(Read, "=QQIIQI4x")
decode_statfs: Final = _fixed(Statfs, "=")
decode_release: Final = _fixed(Release, "=QIIQ")
decode_fsync: Final = _fixed(Fsync, "=QI4x")
decode_listxattr: Final = _fixed(Listxattr, "=I4x")
decode_flush: Final = _fixed(Flush, "=Q8xQ")
decode_opendir: Final = _fixed(Opendir, "=II")
decode_readdir: Final = _fixed(Readdir, "=QQI20x")
decode_lk: Final = _fixed(Lk, "=QQQQIII4x")
decode_access: Final = _fixed(Access, "=I4x")
decode_interrupt: Final = _fixed(Interrupt, "=Q")
decode_bmap: Final = _fixed(Bmap, "=QI4x")
decode_destroy: Final = _fixed(Destroy, "=")
decode_poll: Final = _fixed(Poll, "=QQII")
decode_fallocate: Final = _fixed(Fallocate, "=QQQI4x")
decode_lseek: Final = _fixed(Lseek, "=QqI4x")
decode_copy_file_range: Final = _fixed(CopyFileRange, "=7Q")
decode_setupmapping: Final = _fixed(Setupmapping, "=5Q")
decode_syncfs: Final = _fixed(Syncfs, "=8x")
decode_statx: Final = _fixed(Statx, "=I4xQII")
decode_cuse_init: Final = _fixed(CuseInit, "=II4xI")

_BY_OPCODE: Final[dict[Opcode, Decoder]] = {
    Opcode.LOOKUP: decode_lookup,
    Opcode.FORGET: decode_forget,
    Opcode.GETATTR: decode_getattr,
    Opcode.SETATTR: decode_setattr,
    Opcode.READLINK: decode_readlink,
    Opcode.SYMLINK: decode_symlink,
    Opcode.MKNOD: decode_mknod,
    Opcode.MKDIR: decode_mkdir,
    Opcode.UNLINK: decode_unlink,
    Opcode.RMDIR: decode_rmdir,
    Opcode.RENAME: decode_rename,
    Opcode.LINK: decode_link,
    Opcode.OPEN: decode_open,
    Opcode.READ: decode_read,
    Opcode.WRITE: decode_write,
    Opcode.STATFS: decode_statfs,
    Opcode.RELEASE: decode_release,
    Opcode.FSYNC: decode_fsync,
    Opcode.SETXATTR: decode_setxattr,
    Opcode.GETXATTR: decode_getxattr,
    Opcode.LISTXATTR: decode_listxattr,
    Opcode.REMOVEXATTR: decode_removexattr,
    Opcode.FLUSH: decode_flush,
    Opcode.INIT: decode_init,
    Opcode.OPENDIR: decode_opendir,
    Opcode.READDIR: decode_readdir,
    Opcode.RELEASEDIR: decode_release,
    Opcode.FSYNCDIR: decode_fsync,
    Opcode.GETLK: decode_lk,
    Opcode.SETLK: decode_lk,
    Opcode.SETLKW: decode_lk,
    Opcode.ACCESS: decode_access,
    Opcode.CREATE: decode_create,
    Opcode.INTERRUPT: decode_interrupt,
    Opcode.BMAP: decode_bmap,
    Opcode.DESTROY: decode_destroy,
    Opcode.IOCTL: decode_ioctl,
    Opcode.POLL: decode_poll,
    Opcode.NOTIFY_REPLY: decode_notify_reply,
    Opcode.BATCH_FORGET: decode_batch_forget,
    Opcode.FALLOCATE: decode_fallocate,
    Opcode.READDIRPLUS: decode_readdir,
    Opcode.RENAME2: decode_rename2,
    Opcode.LSEEK: decode_lseek,
    Opcode.COPY_FILE_RANGE: decode_copy_file_range,
    Opcode.SETUPMAPPING: decode_setupmapping,
    Opcode.REMOVEMAPPING: decode_removemapping,
    Opcode.SYNCFS: decode_syncfs,
    Opcode.TMPFILE: decode_tmpfile,
    Opcode.STATX: decode_statx,
    Opcode.COPY_FILE_RANGE_64: decode_copy_file_range,
    Opcode.CUSE_INIT: decode_cuse_init,
}

# Plain integers as keys: found faster than members of an enumeration.
DECODERS: Final[dict[int, Decoder]] = {int(opcode): decode for opcode, decode in _BY_OPCODE.items()}
"""The decoder of every operation of 7.46; SETXATTR as with SETXATTR_EXT."""

_COMPAT_DECODERS: Final[dict[int, Decoder]] = {**DECODERS, int(Opcode.SETXATTR): decode_setxattr_compat}


def decoders(setxattr_ext: bool) -> dict[int, Decoder]:
    """The table to decode with: `DECODERS` if SETXATTR_EXT was negotiated, else with the shorter fuse_setxattr_in."""
    return DECODERS if setxattr_ext else _COMPAT_DECODERS
