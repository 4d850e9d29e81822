"""Where does this process find /proc, whatever becomes of its root directory?

pivot_root(2) gives every process of the mount namespace the new root, also the server of the union that is that root.  A
path that begins with `/` would then lead the server through its own mount, where it would wait for itself.  After
`anchor` the paths are relative, and the current directory is a /proc of the process's own.
"""

from __future__ import annotations

import os

from unionfs.linux import mount

_FDS = b"/proc/self/fd/"
_TOP = "/proc/"


def fd_path(fd: int, name: bytes = b"") -> bytes:
    """A path to what the descriptor refers to, a symlink (proc(5)), or to `name` in it, for the calls that take only paths."""
    return b"%s%d/%s" % (_FDS, fd, name) if name else b"%s%d" % (_FDS, fd)


def path(name: str) -> str:
    """The path of `name` in /proc, `self/mountinfo`."""
    return _TOP + name


def anchor() -> None:
    """Leave the current directory: for a private clone of /proc, or for `/` where none can be had.

    Private, so that nobody who unmounts the original finds it busy.  For the server's process only, once it has opened
    everything that the user named by a relative path.
    """
    global _FDS, _TOP
    try:
        fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        os.chdir("/")
        return
    try:
        clone = mount.private_clone(fd, read_only=False)
    except OSError:
        os.chdir("/")
        return
    finally:
        os.close(fd)
    try:
        os.fchdir(clone)
    finally:
        os.close(clone)
    if os.path.exists("self/fd"):
        _FDS, _TOP = b"self/fd/", ""
    else:
        os.chdir("/")
