"""Does statx say what stat(2) says, and what that leaves out?"""

from __future__ import annotations

import errno
import os
import socket
import stat as modes
import threading
from pathlib import Path

import pytest

from tests.support import syscalls
from unionfs.linux import fs, stat


def expected(path: Path) -> tuple[int, ...]:
    """What os.lstat says, in the order of `shown`."""
    found = os.lstat(path)
    return (
        found.st_mode, found.st_ino, found.st_dev, found.st_nlink, found.st_uid, found.st_gid, found.st_size, found.st_blocks,
        found.st_blksize, found.st_rdev, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip


def shown(found: stat.Stat) -> tuple[int, ...]:
    """The same fields of a Stat."""
    return (
        found.mode, found.ino, found.dev, found.nlink, found.uid, found.gid, found.size, found.blocks, found.blksize,
        found.rdev, found.atime_ns, found.mtime_ns, found.ctime * 1_000_000_000 + found.ctime_nsec,
    )  # fmt: skip


def populate(scratch: Path) -> list[str]:
    """One object of every type; their names."""
    (scratch / "file").write_bytes(b"x" * 5000)
    os.link(scratch / "file", scratch / "link")
    os.chown(scratch / "file", 70_000, 80_000)
    os.chmod(scratch / "file", 0o6711)
    os.utime(scratch / "file", ns=(1_234_567_890_123_456_789, -1_000_000_001))
    (scratch / "dir" / "inner").mkdir(parents=True)
    (scratch / "symlink").symlink_to("nowhere")
    os.mkfifo(scratch / "fifo")
    os.mknod(scratch / "char", modes.S_IFCHR | 0o600, os.makedev(10, 229))
    os.mknod(scratch / "block", modes.S_IFBLK | 0o600, os.makedev(4095, 1_048_575))
    os.mknod(scratch / "whiteout", modes.S_IFCHR, 0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scratch / "socket"))
    return os.listdir(scratch)


def test_every_type(scratch: Path, directory: int) -> None:
    names = populate(scratch)
    assert len(names) == 9
    for name in names:
        found = stat.stat(directory, name.encode())
        assert shown(found) == expected(scratch / name), name
        assert stat.find(directory, name.encode()) == found
        fd = os.open(scratch / name, os.O_PATH | os.O_NOFOLLOW)
        assert stat.stat(fd) == found
        os.close(fd)


def test_birth_time(scratch: Path, directory: int) -> None:
    (scratch / "file").write_bytes(b"")
    found = stat.stat(directory, b"file")
    assert found.mask & stat.STATX_BTIME
    assert (found.btime, found.btime_nsec) == syscalls.statx(str(scratch / "file")).btime
    assert (found.btime, found.btime_nsec) <= (found.mtime, found.mtime_nsec)


def test_attributes(scratch: Path, directory: int) -> None:
    (scratch / "file").write_bytes(b"")
    assert not stat.stat(directory, b"file").attributes & (stat.STATX_ATTR_IMMUTABLE | stat.STATX_ATTR_APPEND)
    fd = os.open(scratch / "file", os.O_RDONLY)
    try:
        fs.set_inode_flags(fd, fs.FS_IMMUTABLE_FL | fs.FS_APPEND_FL)
        found = stat.stat(directory, b"file")
        assert found.attributes & stat.STATX_ATTR_IMMUTABLE
        assert found.attributes & stat.STATX_ATTR_APPEND
        assert found.attributes_mask & stat.STATX_ATTR_IMMUTABLE
    finally:
        fs.set_inode_flags(fd, 0)
        os.close(fd)


def test_mounts_differ(scratch: Path, directory: int) -> None:
    above = os.open("/", os.O_PATH)
    assert stat.stat(above).mnt_id != stat.stat(directory).mnt_id
    os.close(above)


@pytest.mark.parametrize(
    ("name", "code"), [(b"absent", errno.ENOENT), (b"file/inner", errno.ENOTDIR), (b"n" * 256, errno.ENAMETOOLONG)]
)
def test_absent(name: bytes, code: int, scratch: Path, directory: int) -> None:
    (scratch / "file").write_bytes(b"")
    assert stat.find(directory, name) is None
    with pytest.raises(OSError, match="Errno") as failed:
        stat.stat(directory, name)
    assert failed.value.errno == code


def test_other_errors_are_raised(scratch: Path) -> None:
    fd = os.open(scratch, os.O_PATH)
    os.close(fd)
    for call in (stat.find, stat.stat):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(fd, b"name")


def test_threads_do_not_share_the_buffer(scratch: Path, directory: int) -> None:
    for number in range(4):
        (scratch / f"file{number}").write_bytes(b"x" * number)
    wrong: list[int] = []

    def look(number: int) -> None:
        name = b"file%d" % number
        wrong.extend(found for _ in range(500) if (found := stat.stat(directory, name).size) != number)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
