"""How do a file's data get from one file to another?  Shared where the filesystem can, else copied with its holes kept."""

from __future__ import annotations

import errno
import os
from typing import Final

from unionfs.linux import fs

_CHUNK: Final = 8 << 20
_NO_COPY_RANGE: Final = frozenset((errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF))
#: Below this a reflink is not worth its system call.
_REFLINK_MIN: Final = 4096


class Cancelled:
    """A flag that one thread raises and another looks at."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = False


def copy_data(source: int, target: int, size: int, cancelled: Cancelled) -> None:
    """Give the empty file `target` the first `size` bytes of `source`, holes as holes.

    A source that ends earlier is no error: the rest reads as zeros (fs/overlayfs/copy_up.c).  Raises EINTR when
    cancelled, ENOSPC, EDQUOT, EIO.
    """
    if size == 0:
        return
    if size >= _REFLINK_MIN and _reflinked(source, target, size):
        return
    position = written = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        if start >= size or end <= start:
            break
        written = _copy_range(source, target, start, end, cancelled)
        position = end
    if written != size:
        os.ftruncate(target, size)


#: Pairs of filesystems (st_dev of source and target) that have refused a reflink as such: not asked again.
_no_reflinks: Final[set[tuple[int, int]]] = set()


def _reflinked(source: int, target: int, size: int) -> bool:
    pair = (os.fstat(source).st_dev, os.fstat(target).st_dev) if _no_reflinks else None
    if pair in _no_reflinks:
        return False
    try:
        fs.reflink(target, source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY):
            _no_reflinks.add((os.fstat(source).st_dev, os.fstat(target).st_dev))
        return False
    if os.fstat(target).st_size != size:
        os.ftruncate(target, size)
    return True


def _copy_range(source: int, target: int, start: int, end: int, cancelled: Cancelled) -> int:
    """Copy the bytes from `start` to `end`; where the copy ends, which is earlier if the source does."""
    position = start
    in_kernel = True
    while position < end:
        if cancelled.value:
            raise OSError(errno.EINTR, "copy-up was interrupted")
        count = min(_CHUNK, end - position)
        if in_kernel:
            try:
                done = os.copy_file_range(source, target, count, position, position)
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
                in_kernel = False
                continue
        else:
            os.lseek(target, position, os.SEEK_SET)
            done = os.sendfile(target, source, position, count)
        if done == 0:
            break
        position += done
    return position
