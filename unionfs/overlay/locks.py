"""Is a directory already the upper layer or the work directory of a live mount?  Locks that end with their holder."""

from __future__ import annotations

import fcntl
import os
import re

from unionfs.linux.fd import Fd
from unionfs.overlay.errors import LayerError


def lock_directory(dir_fd: int, option: str, path: bytes) -> Fd:
    """Lock the directory for this process and its children; the descriptor that holds the lock.

    Raises LayerError that names the holder: another unionfs (flock(2)), or a mounted overlayfs (its mount options).
    """
    lock = Fd(os.open(b"/proc/self/fd/%d" % dir_fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    fd = lock.fileno()
    shown = f"{option}: {os.fsdecode(path)}"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = _flock_holder(fd)
        lock.close()
        raise LayerError(f"{shown} is in use by {holder}; unmount that first or choose another directory") from None
    if taken := _overlay_mount(fd):
        lock.close()
        raise LayerError(f"{shown} is in use by the overlay mounted on {taken}; unmount that first")
    return lock


def _flock_holder(fd: int) -> str:
    """Who holds the lock now: the process that took it has since sent its child to the background (proc(5), fdinfo)."""
    found = os.fstat(fd)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}".encode()
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
        words = cmdline.read().rstrip(b"\0").split(b"\0")
    return f"process {process} ({os.fsdecode(b' '.join(words))})"


def _overlay_mount(fd: int) -> str | None:
    """The mount point of a kernel overlay that has this directory as its upper or work directory, as far as can be seen."""
    found = os.fstat(fd)
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            before, _, after = line.partition(b" - ")
            kind, _, options = after.strip().split(b" ", 2)
            if kind != b"overlay":
                continue
            for match in re.finditer(rb"(?:^|,)(?:upperdir|workdir)=((?:[^,\\]|\\.)*)", options):
                path = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), match[1])
                try:
                    other = os.stat(path)
                except OSError:
                    continue
                if (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino):
                    return os.fsdecode(before.split()[4])
    return None
