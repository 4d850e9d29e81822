"""Do the calls on files and filesystems do what their manual pages say?"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.support.trees import data_extents
from unionfs.linux import fs


@pytest.mark.parametrize(
    ("scratch", "magic"),
    [("ext4", fs.EXT4_SUPER_MAGIC), ("xfs", fs.XFS_SUPER_MAGIC), ("btrfs", 0x9123683E)],
    indirect=["scratch"],
)
def test_statfs(scratch: Path, directory: int, magic: int) -> None:
    found, expected = fs.statfs(directory), os.statvfs(scratch)
    assert found.type == magic
    assert (found.bsize, found.blocks, found.files) == (expected.f_bsize, expected.f_blocks, expected.f_files)
    assert (found.namelen, found.frsize) == (expected.f_namemax, expected.f_frsize)
    assert abs(found.bfree - expected.f_bfree) < 10_000
    assert found.bavail <= found.bfree <= found.blocks


def test_statfs_fails(scratch: Path) -> None:
    fd = os.open(scratch, os.O_PATH)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.statfs(fd)


def test_syncfs(scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY)
    fs.syncfs(fd)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.syncfs(fd)


def test_write_out_leaves_nothing_delayed(scratch: Path) -> None:
    """ext4 gives a file its blocks when its data are written out, not before."""
    with open(scratch / "file", "w+b", buffering=0) as file:
        file.write(b"x" * (4 << 20))
        assert delayed_extents(file.fileno()) == 1
        fs.write_out(file.fileno())
        assert delayed_extents(file.fileno()) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.write_out(999_999)


def test_start_write_out_can_be_followed_by_a_wait(scratch: Path) -> None:
    with open(scratch / "file", "w+b", buffering=0) as file:
        file.write(b"x" * (4 << 20))
        fs.start_write_out(file.fileno())
        fs.write_out(file.fileno())
        assert delayed_extents(file.fileno()) == 0


def delayed_extents(fd: int) -> int:
    """How many of the file's extents have no place on the device yet (ioctl FS_IOC_FIEMAP, FIEMAP_EXTENT_DELALLOC)."""
    head, extent = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
    count = 64
    buffer = bytearray(head.size + count * extent.size)
    head.pack_into(buffer, 0, 0, (1 << 64) - 1, 0, 0, count, 0)
    fcntl.ioctl(fd, 0xC020660B, buffer, True)
    mapped = head.unpack_from(buffer)[3]
    flags = [extent.unpack_from(buffer, head.size + number * extent.size)[5] for number in range(mapped)]
    assert mapped > 0
    return sum(1 for flag in flags if flag & 0x4)


@pytest.mark.parametrize("scratch", ["xfs", "btrfs"], indirect=True)
def test_reflink(scratch: Path) -> None:
    data = os.urandom(1 << 20)
    (scratch / "source").write_bytes(data)
    with open(scratch / "source", "rb") as source, open(scratch / "target", "wb") as target:
        fs.reflink(target.fileno(), source.fileno())
    assert (scratch / "target").read_bytes() == data


@pytest.mark.parametrize("other", ["ext4", "xfs"])
def test_reflink_refused(other: str, scratch: Path, disks: Callable[[str], Path]) -> None:
    """ext4 has none, and between filesystems there is none."""
    (scratch / "source").write_bytes(b"data")
    path = disks(other) / "reflink target"
    with open(scratch / "source", "rb") as source, open(path, "wb") as target:
        with pytest.raises(OSError, match="Errno") as failed:
            fs.reflink(target.fileno(), source.fileno())
        assert failed.value.errno in (errno.EOPNOTSUPP, errno.EXDEV)
    path.unlink()


def test_inode_flags(scratch: Path) -> None:
    with open(scratch / "file", "wb") as file:
        before = fs.inode_flags(file.fileno())
        try:
            fs.set_inode_flags(file.fileno(), before | fs.FS_APPEND_FL | fs.FS_NOATIME_FL | fs.FS_SYNC_FL)
            assert fs.inode_flags(file.fileno()) == before | fs.FS_APPEND_FL | fs.FS_NOATIME_FL | fs.FS_SYNC_FL
            with pytest.raises(PermissionError):
                os.open(scratch / "file", os.O_RDWR)
            fs.set_inode_flags(file.fileno(), before | fs.FS_IMMUTABLE_FL)
            with pytest.raises(PermissionError):
                (scratch / "file").unlink()
        finally:
            fs.set_inode_flags(file.fileno(), before)
        assert fs.inode_flags(file.fileno()) == before


def test_fsxattr(scratch: Path) -> None:
    with open(scratch / "file", "wb") as file:
        before = fs.fsxattr(file.fileno())
        assert len(before) == 28
        flags, rest = int.from_bytes(before[:4], "little"), before[4:]
        try:
            fs.set_fsxattr(file.fileno(), (flags | fs.FS_XFLAG_APPEND | fs.FS_XFLAG_IMMUTABLE).to_bytes(4, "little") + rest)
            assert fs.inode_flags(file.fileno()) & (fs.FS_APPEND_FL | fs.FS_IMMUTABLE_FL) == fs.FS_APPEND_FL | fs.FS_IMMUTABLE_FL
            assert int.from_bytes(fs.fsxattr(file.fileno())[:4], "little") & fs.FS_XFLAG_APPEND
        finally:
            fs.set_fsxattr(file.fileno(), before)
        assert fs.fsxattr(file.fileno()) == before


def test_a_file_without_inode_flags() -> None:
    with open("/proc/self/status", "rb") as file:
        with pytest.raises(OSError, match="Errno") as failed:
            fs.inode_flags(file.fileno())
        assert failed.value.errno in (errno.ENOTTY, errno.EOPNOTSUPP)


class TestFallocate:
    """fallocate(2)."""

    def test_modes(self, scratch: Path) -> None:
        path = scratch / "file"
        with open(path, "w+b", buffering=0) as file:
            fd = file.fileno()
            file.write(b"x" * 65536)
            fs.fallocate(fd, 0, 0, 131072)
            assert os.fstat(fd).st_size == 131072
            fs.fallocate(fd, FALLOC_FL_KEEP_SIZE, 131072, 65536)
            assert (os.fstat(fd).st_size, os.fstat(fd).st_blocks) >= (131072, 384)
            fs.fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096)
            assert os.pread(fd, 4097, 0) == bytes(4096) + b"x"
            fs.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 16384)
            os.ftruncate(fd, 65536)
        assert data_extents(os.fspath(path))[-1] == (24576, 65536)

    def test_far_offsets(self, scratch: Path) -> None:
        with open(scratch / "file", "w+b") as file:
            fs.fallocate(file.fileno(), 0, 5 << 40, 4096)
            assert os.fstat(file.fileno()).st_size == (5 << 40) + 4096

    def test_errors(self, scratch: Path) -> None:
        with open(scratch / "file", "w+b") as file:
            for mode, length, code in ((0, 0, errno.EINVAL), (0x4000, 1, errno.EOPNOTSUPP), (0, 1 << 50, errno.EFBIG)):
                with pytest.raises(OSError, match="Errno") as failed:
                    fs.fallocate(file.fileno(), mode, 0, length)
                assert failed.value.errno == code
            with pytest.raises(OSError, match="No space"):
                fs.fallocate(file.fileno(), FALLOC_FL_KEEP_SIZE, 0, 1 << 40)
