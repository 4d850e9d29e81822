"""Are a file's data those that its metadata were copied from?  fs-verity digests in metacopy marks.

The mark is empty or `u8 version 0 | u8 length of all | u8 flags 0 | u8 algorithm | digest`, the algorithm as fs-verity numbers
them (1 SHA-256, 2 SHA-512; 0 with no digest), the digest of at most 64 bytes (struct ovl_metacopy in fs/overlayfs/overlayfs.h;
overlayfs.rst, "fs-verity support").
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final, NamedTuple

from unionfs.linux import at, fs
from unionfs.overlay.config import Verity

_HEAD: Final = struct.Struct("=BBBB")
HEAD_SIZE: Final = _HEAD.size
_LONGEST: Final = 64


class Digest(NamedTuple):
    """fs-verity's number of the hash algorithm, and the digest."""

    algorithm: int
    value: bytes


def encode(algorithm: int, value: bytes) -> bytes:
    """The metacopy mark for data with that digest."""
    return _HEAD.pack(0, HEAD_SIZE + len(value), 0, algorithm) + value


def decode(mark: bytes) -> Digest | None:
    """The digest in a metacopy mark, None when there is none.

    Raises EIO for a damaged one, ERANGE for one that is longer than any can be, as overlayfs does.
    """
    if not mark:
        return None
    if len(mark) > HEAD_SIZE + _LONGEST:
        raise OSError(errno.ERANGE, "metacopy mark is too long")
    if len(mark) < HEAD_SIZE:
        raise OSError(errno.EIO, "metacopy mark is too short")
    version, length, _, algorithm = _HEAD.unpack_from(mark)
    if version != 0 or length != len(mark):
        raise OSError(errno.EIO, "damaged metacopy mark")
    return Digest(algorithm, mark[HEAD_SIZE:]) if algorithm else None


def verify(verity: Verity, mark: bytes, data: tuple[int, bytes]) -> None:
    """Compare the digest in the mark with that of the file at `data` (descriptor, name).

    Raises EIO when they differ, when the file has none, or when the mark has none and has to.
    """
    # A mark that is its head alone says as little as an empty one, and is not looked at either.
    wanted = decode(mark) if len(mark) > HEAD_SIZE else None
    if wanted is None:
        if verity is Verity.REQUIRE:
            raise OSError(errno.EIO, "the metadata say no digest, and verity=require")
        return
    fd = at.open_at(*data, os.O_RDONLY | os.O_NONBLOCK)
    try:
        measured = fs.measure_verity(fd)
    finally:
        os.close(fd)
    if measured != wanted:
        raise OSError(errno.EIO, "the data have another digest than the metadata say")
