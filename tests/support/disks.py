"""Disks: which other filesystems can a test put its layers on, and are their loop devices gone afterwards?"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

SIZE = 6 << 30
"""Bytes of a disk image; sparse, so it takes only what is written. Over 4 GiB for the tests of large files."""

MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 2 << 30
"""Free bytes that /dev/shm must have for images to go there; in memory, creating a file is many times faster than on most
disks.
"""

MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-I", "1024"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


def loop_disk(kind: str, mountpoint: Path) -> Path:
    """Makes a filesystem of `kind` (ext4, xfs, btrfs, tmpfs) in an image of its own and mounts it on `mountpoint`, which is
    made.

    The loop device detaches by itself at unmounting; the image has no name any more once it is mounted, so nothing is left even
    if the tests are killed.
    """
    mountpoint.mkdir(parents=True)
    if kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0755", "tmpfs", os.fspath(mountpoint))
        return mountpoint
    image = _image_directory(mountpoint) / f"unionfs-test-{os.getpid()}-{time.monotonic_ns():x}-{kind}.img"
    try:
        with open(image, "wb") as file:
            file.truncate(SIZE)
        _run(*MKFS[kind], os.fspath(image))
        _run("mount", "-t", kind, "-o", "loop,noatime", os.fspath(image), os.fspath(mountpoint))
    finally:
        image.unlink(missing_ok=True)
    mountpoint.chmod(0o755)
    return mountpoint


def _image_directory(mountpoint: Path) -> Path:
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        return MEMORY
    return mountpoint.parent


def remove_disk(mountpoint: Path) -> None:
    """Unmounts what `loop_disk` made; a disk that is busy for 10 s is unmounted lazily, and that is an error."""
    deadline = time.monotonic() + 10
    while (done := _umount(mountpoint)).returncode != 0:
        if time.monotonic() > deadline:
            subprocess.run(["umount", "-l", os.fspath(mountpoint)], check=False)
            raise AssertionError(f"{mountpoint} stayed busy: {done.stderr.strip()}")
        time.sleep(0.1)
    mountpoint.rmdir()


def _umount(mountpoint: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["umount", os.fspath(mountpoint)], capture_output=True, text=True, check=False)


def attached_loops(below: Path) -> list[str]:
    """Loop devices whose image lies, or lay, in a directory below `below`, or that still hold an image of this process."""
    mine = f"unionfs-test-{os.getpid()}-"
    found: list[str] = []
    for device in Path("/sys/block").glob("loop*"):
        try:
            backing = (device / "loop/backing_file").read_text().strip()
        except OSError:  # not attached
            continue
        if backing.startswith(f"{below}/") or mine in backing:
            found.append(f"{device.name} ({backing})")
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
