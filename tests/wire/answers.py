"""What does the kernel make of an answer? Replies and notifications taken apart, without using unionfs.wire."""

import struct
from typing import NamedTuple


class Answer(NamedTuple):
    """fuse_out_header and what follows it; for notifications `error` is their code and `unique` 0."""

    error: int
    unique: int
    body: bytes


class Attributes(NamedTuple):
    """fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Node(NamedTuple):
    """fuse_entry_out."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    attr: Attributes


class Node2(NamedTuple):
    """fuse_entry2_out, and of its fuse_statx what tests look at."""

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    backing_id: int
    flags: int
    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int


class Opened(NamedTuple):
    """fuse_open_out."""

    fh: int
    open_flags: int
    backing_id: int


class Dirent(NamedTuple):
    """fuse_dirent, with its node in a listing of READDIRPLUS."""

    ino: int
    off: int
    type: int
    name: bytes
    node: Node | None = None


def answer(message: bytes) -> Answer:
    """Splits a message as the kernel does, which refuses one whose length is not the one written."""
    length, error, unique = struct.unpack_from("=IiQ", message)
    assert length == len(message), "the kernel answers EINVAL to such a write"
    return Answer(error, unique, message[16:])


def attributes(body: bytes) -> tuple[int, Attributes]:
    """fuse_attr_out: seconds of validity and the attributes."""
    (valid,) = struct.unpack_from("=Q", body)
    return valid, _attributes(body, 16)


def _attributes(body: bytes, at: int) -> Attributes:
    return Attributes(*struct.unpack_from("=QQQqqqIIIIIIIIII", body, at))


def node(body: bytes, at: int = 0) -> Node:
    """fuse_entry_out at the offset `at`."""
    fields = struct.unpack_from("=QQQQII", body, at)
    return Node._make((*fields, _attributes(body, at + 40)))


def node2(body: bytes) -> Node2:
    """fuse_entry2_out, 312 bytes."""
    fields = struct.unpack_from("=QQQQIIiI", body)
    nlink, uid, gid, mode, ino, size = struct.unpack_from("=IIIH2xQQ", body, 56 + 16)
    return Node2._make((*fields, ino, mode, nlink, uid, gid, size))


def opened(body: bytes, at: int = 0) -> Opened:
    """fuse_open_out at the offset `at`, which is 128 in a reply to CREATE (312 after fuse_entry2_out)."""
    return Opened(*struct.unpack_from("=QIi", body, at))


def listing(body: bytes, plus: bool = False) -> list[Dirent]:
    """The entries of a READDIR or READDIRPLUS reply, read as fs/fuse/readdir.c does."""
    entries = []
    at = 0
    while at < len(body):
        found = node(body, at) if plus else None
        at += 128 if plus else 0
        ino, off, namelen, kind = struct.unpack_from("=QQII", body, at)
        at += 24
        entries.append(Dirent(ino, off, kind, body[at : at + namelen], found))
        assert len(entries[-1].name) == namelen > 0, "the kernel reports EIO for such a listing"
        at += (namelen + 7) // 8 * 8
    assert at == len(body), "the last record is cut off"
    return entries
