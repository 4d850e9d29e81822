"""Does a file handle lead back to its inode, and to nothing once that is gone?"""

from __future__ import annotations

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux import handle, stat
from unionfs.linux.handle import Handle


@pytest.fixture
def mount_fd(scratch: Path) -> Iterator[int]:
    """A readable descriptor on the filesystem of `scratch`."""
    fd = os.open(scratch, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("scratch", ["ext4", "xfs", "btrfs"], indirect=True)
def test_round_trip(scratch: Path, directory: int, mount_fd: int) -> None:
    (scratch / "file").write_bytes(b"data")
    (scratch / "dir").mkdir()
    (scratch / "symlink").symlink_to("file")
    for name in (b"file", b"dir", b"symlink"):
        found = handle.encode(directory, name)
        assert found is not None
        assert 0 < len(found.opaque) <= handle.MAX_HANDLE_SZ
        os.rename(name, b"moved", src_dir_fd=directory, dst_dir_fd=directory)
        fd = handle.open_handle(mount_fd, found, os.O_PATH)
        assert stat.stat(fd) == stat.stat(directory, b"moved")
        assert not os.get_inheritable(fd)
        assert handle.encode(fd, b"") == found
        os.close(fd)
        os.rename(b"moved", name, src_dir_fd=directory, dst_dir_fd=directory)


@pytest.mark.parametrize("scratch", ["ext4", "xfs", "btrfs"], indirect=True)
def test_a_removed_inode_is_stale(scratch: Path, directory: int, mount_fd: int) -> None:
    (scratch / "file").write_bytes(b"data")
    found = handle.encode(directory, b"file")
    assert found is not None
    (scratch / "file").unlink()
    (scratch / "file").write_bytes(b"perhaps the same inode number")
    with pytest.raises(OSError, match="Errno") as failed:
        handle.open_handle(mount_fd, found, os.O_PATH)
    assert failed.value.errno == errno.ESTALE


def test_a_forged_handle_opens_nothing(mount_fd: int) -> None:
    with pytest.raises(OSError, match="Errno") as failed:
        handle.open_handle(mount_fd, Handle(1, b"\xff" * 8), os.O_PATH)
    assert failed.value.errno == errno.ESTALE
    with pytest.raises(OSError, match="Errno") as failed:
        handle.open_handle(mount_fd, Handle(1, b"x" * 200), os.O_PATH)
    assert failed.value.errno == errno.EINVAL


def test_the_kernel_takes_no_path_descriptor_for_the_mount(scratch: Path, directory: int) -> None:
    (scratch / "file").write_bytes(b"")
    found = handle.encode(directory, b"file")
    assert found is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        handle.open_handle(directory, found, os.O_PATH)


def test_a_filesystem_without_handles() -> None:
    fd = os.open("/proc/self", os.O_PATH)
    assert handle.encode(fd, b"status") is None
    os.close(fd)


def test_absent(directory: int) -> None:
    with pytest.raises(FileNotFoundError):
        handle.encode(directory, b"absent")


def mkfs(kind: str, wanted: uuid.UUID) -> list[str]:
    """The command that makes a filesystem with this UUID."""
    return {
        "ext4": ["mkfs.ext4", "-q", "-F", "-U", str(wanted)],
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", f"uuid={wanted}"],
        "btrfs": ["mkfs.btrfs", "-q", "-f", "-U", str(wanted)],
    }[kind]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_uuid_of_a_filesystem(kind: str, scratch: Path) -> None:
    wanted = uuid.uuid4()
    image, place = scratch / "image", scratch / "place"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    subprocess.run([*mkfs(kind, wanted), image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        fd = os.open(place, os.O_RDONLY)
        assert handle.filesystem_uuid(fd) == wanted.bytes
        os.close(fd)
    finally:
        subprocess.run(["umount", place], check=True)


def test_no_uuid() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert handle.filesystem_uuid(fd) == bytes(16)
    os.close(fd)
