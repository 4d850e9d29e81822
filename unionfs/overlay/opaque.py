"""How is an upper directory marked as hiding all that lies below it?  By an xattr, or by a file where there are no xattrs.

`overlay.opaque=y` is overlayfs's mark.  `.wh..wh..opq` is that of AUFS and OCI images, which fuse-overlayfs writes and reads
as well; the kernel's overlayfs does not know it, but neither would it take such an upper layer for more than copies.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionfs.linux import at, stat
from unionfs.overlay import asowner, marks
from unionfs.overlay.creator import SERVER

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_MAKE = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def mark(union: Union, dir_fd: int, name: bytes) -> None:
    """Mark the directory `name` in `dir_fd`, or the one of the descriptor if the name is empty; its times stay."""
    if union.has_marks:
        asowner.write(dir_fd, name, union.prefix + "opaque", b"y")
        return
    union.identity.assume(SERVER)
    found = stat.stat(dir_fd, name)
    fd = at.open_at(dir_fd, name, os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(os.open(marks.OPAQUE_MARKER, _MAKE, 0o600, dir_fd=fd))
    finally:
        os.close(fd)
    at.utimens(dir_fd, name, (found.atime, found.atime_nsec), (found.mtime, found.mtime_nsec))
