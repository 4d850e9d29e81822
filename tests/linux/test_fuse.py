"""Which backing files does the FUSE device take?"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from unionfs.linux import fuse, mount
from unionfs.wire import abi


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDONLY, os.O_RDWR])
def test_open_and_close(flags: int, device: int, scratch: Path) -> None:
    (scratch / "file").write_bytes(b"data")
    fd = os.open(scratch / "file", flags)
    first, second = fuse.backing_open(device, fd), fuse.backing_open(device, fd)
    os.close(fd)
    assert 0 < first != second > 0
    fuse.backing_close(device, first)
    fuse.backing_close(device, second)


def test_an_unknown_id(device: int) -> None:
    for backing_id in (1, 0x7FFFFFFF):
        with pytest.raises(OSError, match="Errno") as failed:
            fuse.backing_close(device, backing_id)
        assert failed.value.errno == errno.ENOENT


@pytest.mark.parametrize(
    ("path", "code"), [("/", errno.EISDIR), ("/dev/null", errno.EINVAL), ("/proc/self/status", errno.ELOOP)]
)
def test_not_a_file_of_a_disk(path: str, code: int, device: int) -> None:
    """procfs counts as stacked as deep as can be, so that nothing is ever stacked on it."""
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="Errno") as failed:
        fuse.backing_open(device, fd)
    os.close(fd)
    assert failed.value.errno == code


@pytest.mark.parametrize("path", ["file", "."])
def test_operations_on_inodes_are_unknown_to_released_kernels(path: str, device: int, scratch: Path) -> None:
    """The mask of the draft lies where they have padding."""
    (scratch / "file").write_bytes(b"data")
    fd = os.open(scratch / path, os.O_PATH)
    with pytest.raises(OSError, match="Errno") as failed:
        fuse.backing_open(device, fd, abi.INODE_PASSTHROUGH_DRAFT.getattr)
    os.close(fd)
    assert failed.value.errno == errno.EINVAL


def test_a_closed_descriptor(device: int) -> None:
    with pytest.raises(OSError, match="Errno") as failed:
        fuse.backing_open(device, 999_999)
    assert failed.value.errno == errno.EBADF


def test_a_stacked_file(device: int, scratch: Path) -> None:
    """A mount of stack depth 1 takes no file of an overlay."""
    for name in ("lower", "upper", "work", "overlay"):
        (scratch / name).mkdir()
    (scratch / "lower" / "file").write_bytes(b"data")
    options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    mount.mount(b"overlay", os.fsencode(scratch / "overlay"), b"overlay", 0, os.fsencode(options))
    try:
        fd = os.open(scratch / "overlay" / "file", os.O_RDONLY)
        with pytest.raises(OSError, match="Errno") as failed:
            fuse.backing_open(device, fd)
        assert failed.value.errno == errno.ELOOP
        os.close(fd)
    finally:
        mount.unmount(os.fsencode(scratch / "overlay"))


def test_nothing_negotiated(scratch: Path) -> None:
    (scratch / "file").write_bytes(b"data")
    device, fd = os.open("/dev/fuse", os.O_RDWR), os.open(scratch / "file", os.O_RDONLY)
    with pytest.raises(OSError, match="Errno") as failed:
        fuse.backing_open(device, fd)
    assert failed.value.errno == errno.EPERM
    os.close(device)
    os.close(fd)

