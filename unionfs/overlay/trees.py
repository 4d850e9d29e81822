"""How does a whole tree go away?  Without following anything, whoever made it."""

from __future__ import annotations

import os
from typing import Final

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
        for entry in os.listdir(b"/proc/self/fd/%d" % inner):
            remove_tree(inner, entry)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=dir_fd)
