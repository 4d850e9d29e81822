"""Do xattrs reach the object itself, by name and through an O_PATH descriptor?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux import xattr

KINDS = ["file", "dir", "symlink", "fifo", "whiteout"]


@pytest.fixture(params=KINDS)
def named(request: pytest.FixtureRequest, scratch: Path) -> str:
    """The name of an object in `scratch`, of every type."""
    (scratch / "file").write_bytes(b"")
    (scratch / "dir").mkdir()
    (scratch / "symlink").symlink_to("file")
    os.mkfifo(scratch / "fifo")
    os.mknod(scratch / "whiteout", 0o20000, 0)
    kind: str = request.param
    return kind


@pytest.fixture(params=["by name", "by O_PATH descriptor"])
def place(request: pytest.FixtureRequest, named: str, directory: int) -> Iterator[tuple[int, bytes]]:
    """The object as (descriptor, name)."""
    if request.param == "by name":
        yield directory, named.encode()
        return
    fd = os.open(named, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
    yield fd, b""
    os.close(fd)


def test_round_trip(place: tuple[int, bytes], named: str, scratch: Path) -> None:
    assert xattr.names(*place) == []
    assert xattr.find(*place, "trusted.a") is None
    xattr.write(*place, "trusted.a", b"\0value")
    xattr.write(*place, "trusted.empty", b"")
    assert xattr.read(*place, "trusted.a") == b"\0value"
    assert xattr.find(*place, "trusted.empty") == b""
    assert sorted(xattr.names(*place)) == ["trusted.a", "trusted.empty"]
    assert os.getxattr(scratch / named, "trusted.a", follow_symlinks=False) == b"\0value"
    if named == "symlink":
        assert os.listxattr(scratch / "file") == []
    xattr.remove(*place, "trusted.a")
    assert xattr.names(*place) == ["trusted.empty"]


def test_flags(place: tuple[int, bytes]) -> None:
    with pytest.raises(OSError, match="Errno") as failed:
        xattr.write(*place, "trusted.a", b"1", xattr.XATTR_REPLACE)
    assert failed.value.errno == errno.ENODATA
    xattr.write(*place, "trusted.a", b"1", xattr.XATTR_CREATE)
    with pytest.raises(OSError, match="Errno") as failed:
        xattr.write(*place, "trusted.a", b"2", xattr.XATTR_CREATE)
    assert failed.value.errno == errno.EEXIST
    xattr.write(*place, "trusted.a", b"2", xattr.XATTR_REPLACE)
    assert xattr.read(*place, "trusted.a") == b"2"


def test_absent(place: tuple[int, bytes]) -> None:
    for call in (xattr.read, xattr.remove):
        with pytest.raises(OSError, match="Errno") as failed:
            call(*place, "trusted.absent")
        assert failed.value.errno == errno.ENODATA


def test_a_filesystem_without_xattrs() -> None:
    with open("/proc/self/status", "rb") as file:
        assert xattr.find(file.fileno(), b"", "user.a") is None
        assert xattr.names(file.fileno(), b"") == []
        with pytest.raises(OSError, match="Errno") as failed:
            xattr.read(file.fileno(), b"", "user.a")
        assert failed.value.errno == errno.EOPNOTSUPP


def test_an_object_that_is_not_there(directory: int) -> None:
    for call in (xattr.find, xattr.read):
        with pytest.raises(FileNotFoundError):
            call(directory, b"absent", "user.a")
    with pytest.raises(FileNotFoundError):
        xattr.names(directory, b"absent")
