"""How are extended attributes read and written by (directory descriptor, name)?  Through /proc, symlinks not followed.

An empty name means the object of the descriptor, which may be opened with O_PATH; None means the same of one that is not,
which spares the way through /proc.
"""

import errno
import os
from typing import Final

from unionfs.linux.at import path

XATTR_CREATE: Final = os.XATTR_CREATE
XATTR_REPLACE: Final = os.XATTR_REPLACE
_NOTHING: Final = frozenset((errno.ENODATA, errno.EOPNOTSUPP))


def _place(dir_fd: int, name: bytes | None) -> bytes | int:
    return dir_fd if name is None else path(dir_fd, name)


def read(dir_fd: int, name: bytes | None, attribute: str) -> bytes:
    """The attribute's value.  Raises ENODATA, EOPNOTSUPP, ERANGE, ..."""
    return os.getxattr(_place(dir_fd, name), attribute, follow_symlinks=not name)


def find(dir_fd: int, name: bytes | None, attribute: str) -> bytes | None:
    """The attribute's value; None when it is absent or the filesystem knows no such attributes."""
    try:
        return os.getxattr(_place(dir_fd, name), attribute, follow_symlinks=not name)
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise


def names(dir_fd: int, name: bytes | None) -> list[str]:
    """The attributes' names; empty when the filesystem has none."""
    try:
        return os.listxattr(_place(dir_fd, name), follow_symlinks=not name)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def write(dir_fd: int, name: bytes | None, attribute: str, value: bytes, flags: int = 0) -> None:
    """setxattr(2)."""
    os.setxattr(_place(dir_fd, name), attribute, value, flags, follow_symlinks=not name)


def remove(dir_fd: int, name: bytes | None, attribute: str) -> None:
    """removexattr(2).  Raises ENODATA when it is absent."""
    os.removexattr(_place(dir_fd, name), attribute, follow_symlinks=not name)
