"""Is a directory already the upper layer or the work directory of a live mount?  Locks that end with their holder.

A mount of this program holds flock(2) on both, which every process sees, in whatever container, and which is gone when the
server is, however it ended.  A kernel overlay is known by its options in the table of this mount namespace.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

from unionfs.linux import mountinfo, procfs
from unionfs.linux.fd import Fd
from unionfs.overlay.errors import LayerError
from unionfs.overlay.layer import Layer

_log: Final = logging.getLogger("unionfs")
#: Characters of each word of a command line that are shown, but for the last: where it is mounted.
_SHOWN: Final = 60

#: (st_dev, st_ino) of a directory that a kernel overlay writes to, and where that is mounted.
Overlays = Mapping[tuple[int, int], str]


def lock_directory(dir_fd: int, option: str, path: bytes, overlays: Overlays) -> Fd:
    """Lock the directory for this process and its children; the descriptor that holds the lock.

    Raises LayerError that names the holder: another unionfs (flock(2)), or a mounted overlayfs, which only warns of its like;
    what two mounts wrote to one upper layer at once would be neither's.
    """
    lock = Fd(os.open(procfs.fd_path(dir_fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    fd = lock.fileno()
    shown = f"{option}: {os.fsdecode(path)}"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = _flock_holder(fd)
        lock.close()
        raise LayerError(f"{shown} is in use by {holder}; unmount that first or choose another directory") from None
    found = os.fstat(fd)
    if taken := overlays.get((found.st_dev, found.st_ino)):
        lock.close()
        raise LayerError(f"{shown} is in use by the overlay mounted on {taken}; unmount that first")
    return lock


def warn_of_users(layers: Iterable[Layer], overlays: Overlays) -> None:
    """Log each lower layer that a live mount writes to: what changes there shows late, or not at all."""
    locked = _locked_directories()
    for layer in layers:
        if layer.is_upper:
            continue
        user = overlays.get((layer.dev, layer.ino))
        if user is None and _lock_name(layer.dev, layer.ino) in locked and layer.readable is not None:
            user = _flock_holder(layer.readable.fileno())
        if user is not None:
            _log.warning(
                "lowerdir: %s is the upper layer or work directory of a live mount (%s); its changes make this mount undefined",
                os.fsdecode(layer.path), user,
            )  # fmt: skip


def _lock_name(dev: int, ino: int) -> bytes:
    """The inode as proc(5) writes it in a line on a lock."""
    return f"{os.major(dev):02x}:{os.minor(dev):02x}:{ino}".encode()


def _locked_directories() -> set[bytes]:
    """What is locked for writing by flock(2), whatever it is, as far as /proc/locks shows it."""
    try:
        with open("/proc/locks", "rb") as table:
            return {fields[5] for fields in map(bytes.split, table) if len(fields) > 5 and fields[1:4:2] == [b"FLOCK", b"WRITE"]}
    except OSError:
        return set()


def _flock_holder(fd: int) -> str:
    """Who holds the lock now: the process that took it has since sent its child to the background (proc(5), fdinfo)."""
    found = os.fstat(fd)
    wanted = _lock_name(found.st_dev, found.st_ino)
    for process in filter(str.isdecimal, os.listdir("/proc")):
        if int(process) == os.getpid():
            continue
        try:
            for number in os.listdir(f"/proc/{process}/fdinfo"):
                with open(f"/proc/{process}/fdinfo/{number}", "rb") as info:
                    if any(b"FLOCK" in line and wanted in line.split() for line in info):
                        return _process(process)
        except OSError:
            continue
    return "another unionfs mount"


def _process(process: str) -> str:
    with open(f"/proc/{process}/cmdline", "rb") as cmdline:
        *words, last = os.fsdecode(cmdline.read().rstrip(b"\0")).split("\0")
    short = (word if len(word) <= _SHOWN else word[:_SHOWN] + "..." for word in words)
    return f"process {process} ({' '.join([*short, last])})"


def mounted_overlays() -> dict[tuple[int, int], str]:
    """The upper and work directories of the kernel overlays of this mount namespace, as far as their paths still lead there."""
    found: dict[tuple[int, int], str] = {}
    for entry in mountinfo.entries():
        if entry.kind != b"overlay":
            continue
        for option in entry.options:
            name, _, path = option.partition(b"=")
            if name in (b"upperdir", b"workdir"):
                with suppress(OSError):
                    other = os.stat(mountinfo.unescaped(path))
                    found.setdefault((other.st_dev, other.st_ino), os.fsdecode(entry.point))
    return found
