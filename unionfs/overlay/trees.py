"""How does a whole tree go away?  Without following anything, whoever made it."""

from __future__ import annotations

import os
from typing import Final

from unionfs.linux import at, procfs

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(dir_fd: int, name: bytes) -> None:
    """Remove an object and everything below it; one that is missing is no error."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except IsADirectoryError:
        pass
    except FileNotFoundError:
        return
    inner = os.open(name, _OPEN, dir_fd=dir_fd)
    try:
        try:
            _empty(inner)
        except PermissionError:
            # Its mode may deny its owner, who is served without privilege.
            at.chmod(inner, b"", 0o700)
            _empty(inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=dir_fd)


def _empty(fd: int) -> None:
    for entry in os.listdir(procfs.fd_path(fd)):
        remove_tree(fd, entry)
