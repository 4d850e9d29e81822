"""What trails a creating request? Extension records: the label of the new object, the group its directory needs.

After the names of CREATE, MKNOD, MKDIR, SYMLINK and TMPFILE, without padding before them, `header.total_extlen` * 8
bytes of records follow. Each is `uint32 size, uint32 type` and a payload, `size` counting all of it, the next one
starting at a multiple of 8 (fuse_ext_header and fuse_secctx_header in <linux/fuse.h>; kernels from 7.38 on).
"""

import struct
from typing import Final

from unionfs.wire.abi import EXT_GROUPS, MAX_NR_SECCTX
from unionfs.wire.cursor import Cursor, Malformed

Extensions = tuple[tuple[int, bytes], ...]
"""Pairs (type, payload), in the order sent."""

_RECORD: Final = struct.Struct("=II")
_SECCTX: Final = struct.Struct("=I4x")
_COUNT: Final = struct.Struct("=I")
_ALIGNMENT: Final = 8


def split_extensions(body: memoryview, total_extlen: int) -> tuple[memoryview, Extensions]:
    """`body` without the extensions at its end, and those; `total_extlen` counts them in units of 8 bytes."""
    if not total_extlen:
        return body, ()
    start = len(body) - total_extlen * _ALIGNMENT
    if start < 0:
        raise Malformed(f"{total_extlen * _ALIGNMENT} bytes of extensions expected in {len(body)}")
    cursor = Cursor(body[start:])
    records = []
    while cursor:
        size, kind = cursor.take(_RECORD)
        if size < _RECORD.size:
            raise Malformed(f"extension of {size} bytes, shorter than its header")
        records.append((kind, cursor.bytes(size - _RECORD.size)))
        cursor.bytes(-size % _ALIGNMENT)
    return body[:start], tuple(records)


def supplementary_group(extensions: Extensions) -> int | None:
    """The caller's group that equals the group of the directory it creates in, if sent (CREATE_SUPP_GROUP).

    The kernel sends at most one, as fuse_supp_groups: `uint32 nr_groups, uint32 groups[]`. With it the server can
    tell that the caller may keep setgid on the new object though its fsgid is another.
    """
    for kind, payload in extensions:
        if kind == EXT_GROUPS:
            cursor = Cursor(payload)
            (count,) = cursor.take(_COUNT)
            return int(cursor.take(_COUNT)[0]) if count else None
    return None


def security_context(extensions: Extensions) -> tuple[tuple[bytes, bytes], ...]:
    """Pairs (attribute name, value) to set on the new object before it can be seen (SECURITY_CTX).

    The type of the record is their number; each is `uint32 size, uint32 padding`, the full attribute name with its NUL,
    `size` bytes of value, and padding to a multiple of 8.
    """
    contexts = []
    for kind, payload in extensions:
        if kind <= MAX_NR_SECCTX:
            cursor = Cursor(payload)
            for _ in range(kind):
                (size,) = cursor.take(_SECCTX)
                name = cursor.string()
                contexts.append((name, cursor.bytes(size)))
                cursor.bytes(-(_SECCTX.size + len(name) + 1 + size) % _ALIGNMENT)
    return tuple(contexts)
