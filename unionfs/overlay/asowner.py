"""How does a server without privilege change what its owner may not write?  As the owner may: by the mode, for a moment.

Natively a mode of 0444 or 0555 keeps nobody with CAP_DAC_OVERRIDE from a copy-up.  Without, it refuses `user.` xattrs (xattr(7)),
and the rename of a directory to another one, which changes its `..` (rename(2)).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from unionfs.linux import at, stat, xattr

_OWNER_WRITES: Final = 0o200


def insist(call: Callable[[], None], *places: tuple[int, bytes]) -> None:
    """`call()`; and where it fails with EACCES once more, while the objects at `places` are writable for their owner.

    They are (descriptor, name), the name empty for the descriptor's own object.  Their modes are what they were afterwards.
    Raises what `call` raises, and EPERM for objects of another owner.
    """
    try:
        call()
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
    else:
        return
    changed: list[tuple[int, int]] = []
    try:
        for dir_fd, name in places:
            mode = stat.stat(dir_fd, name).mode & 0o7777
            if not mode & _OWNER_WRITES:
                changed.append((at.open_at(dir_fd, name, os.O_PATH), mode))
                at.chmod(changed[-1][0], b"", mode | _OWNER_WRITES)
        call()
    finally:
        for fd, mode in changed:
            try:
                at.chmod(fd, b"", mode)
            finally:
                os.close(fd)


def write(dir_fd: int, name: bytes | None, attribute: str, value: bytes) -> None:
    """setxattr(2) with the rights of the owner."""
    insist(lambda: xattr.write(dir_fd, name, attribute, value), (dir_fd, name or b""))
