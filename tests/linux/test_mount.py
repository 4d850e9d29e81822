"""Is a private clone of a mount apart from it: read-only, uncovered, unreachable?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import is_mounted
from unionfs.linux import at, libc, mount, stat


@pytest.fixture
def original(scratch: Path) -> Iterator[Path]:
    """A directory with a file, and a directory with something mounted on it."""
    base = scratch / "base"
    (base / "point").mkdir(parents=True)
    (base / "point" / "covered").write_bytes(b"below the mount")
    (base / "file").write_bytes(b"data")
    mount.mount(b"tmpfs", os.fsencode(base / "point"), b"tmpfs", 0, b"")
    (base / "point" / "covering").write_bytes(b"")
    yield base
    mount.unmount(os.fsencode(base / "point"))


@pytest.fixture
def clone(original: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A private clone of it, read-only if not said otherwise."""
    fd = os.open(original, os.O_PATH)
    cloned = mount.private_clone(fd, read_only=getattr(request, "param", True))
    os.close(fd)
    yield cloned
    os.close(cloned)


def test_reads(clone: int, original: Path) -> None:
    fd = at.open_at(clone, b"file", os.O_RDONLY)
    assert os.read(fd, 9) == b"data"
    assert not os.get_inheritable(clone)
    os.close(fd)
    here = os.open(original, os.O_PATH)
    assert stat.stat(clone, b"file").ino == stat.stat(here, b"file").ino
    assert stat.stat(clone).mnt_id != stat.stat(here).mnt_id
    os.close(here)


def test_every_write_is_refused(clone: int, original: Path) -> None:
    before = os.stat(original / "file")
    path_fd = at.open_at(clone, b"file", os.O_PATH)
    attempts: list[Callable[[], object]] = [
        lambda: at.open_at(clone, b"file", os.O_WRONLY),
        lambda: at.open_at(clone, b"file", os.O_RDONLY | os.O_TRUNC),
        lambda: at.open_at(path_fd, b"", os.O_RDWR),
        lambda: at.open_at(clone, b"new", os.O_CREAT | os.O_WRONLY),
        lambda: at.chmod(clone, b"file", 0),
        lambda: at.chmod(path_fd, b"", 0),
        lambda: at.chown(clone, b"file", 1, 1),
        lambda: at.utimens(clone, b"file", (0, 0), (0, 0)),
        lambda: at.rename(clone, b"file", clone, b"other"),
        lambda: at.link(clone, b"file", clone, b"other"),
        lambda: os.unlink(b"file", dir_fd=clone),
        lambda: os.mkdir(b"other", dir_fd=clone),
        lambda: os.setxattr(at.path(clone, b"file"), "user.a", b""),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Errno") as failed:
            attempt()
        assert failed.value.errno == errno.EROFS
    os.close(path_fd)
    fd = at.open_at(clone, b"file", os.O_RDONLY)
    assert os.read(fd, 9) == b"data"
    os.close(fd)
    after = os.stat(original / "file")
    assert (after.st_ctime_ns, after.st_atime_ns) == (before.st_ctime_ns, before.st_atime_ns)


@pytest.mark.parametrize("clone", [False], indirect=True)
def test_a_writable_clone(clone: int, original: Path) -> None:
    fd = at.open_at(clone, b"new", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, b"written")
    os.close(fd)
    assert (original / "new").read_bytes() == b"written"


def test_nothing_mounted_below_shows(clone: int) -> None:
    assert os.listdir(b"/proc/self/fd/%d/point" % clone) == [b"covered"]


def test_covering_the_original_hides_nothing(clone: int, original: Path) -> None:
    mount.mount(b"tmpfs", os.fsencode(original), b"tmpfs", 0, b"")
    try:
        assert os.listdir(original) == []
        assert sorted(os.listdir(b"/proc/self/fd/%d" % clone)) == [b"file", b"point"]
    finally:
        mount.unmount(os.fsencode(original))


def test_clone_of_no_directory_of_a_mount() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="Errno") as failed:
        mount.private_clone(reader, read_only=True)
    assert failed.value.errno == errno.EINVAL
    os.close(reader)
    os.close(writer)


def test_a_clone_that_fails_leaves_no_descriptor(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(original, os.O_PATH)
    before = os.listdir("/proc/self/fd")
    monkeypatch.setitem(libc.NUMBERS, "mount_setattr", 100_000)
    with pytest.raises(OSError, match="Errno") as failed:
        mount.private_clone(fd, read_only=True)
    assert failed.value.errno == errno.ENOSYS
    assert os.listdir("/proc/self/fd") == before
    os.close(fd)


def test_mount_and_unmount(scratch: Path) -> None:
    point = scratch / "point"
    point.mkdir()
    mount.mount(b"name of it", os.fsencode(point), b"tmpfs", mount.MS_NOEXEC | mount.MS_RDONLY, b"size=64k,mode=0700")
    assert is_mounted(point)
    found = os.statvfs(point)
    assert found.f_flag & os.ST_RDONLY
    assert found.f_flag & os.ST_NOEXEC
    assert found.f_blocks * found.f_frsize == 65536
    fd = os.open(point, os.O_RDONLY)
    with pytest.raises(OSError, match="Errno") as failed:
        mount.unmount(os.fsencode(point))
    assert failed.value.errno == errno.EBUSY
    mount.unmount(os.fsencode(point), mount.MNT_DETACH)
    assert not is_mounted(point)
    os.close(fd)
    with pytest.raises(OSError, match="Errno") as failed:
        mount.unmount(os.fsencode(point))
    assert failed.value.errno == errno.EINVAL


def test_mount_fails(scratch: Path) -> None:
    with pytest.raises(OSError, match="Errno") as failed:
        mount.mount(b"x", os.fsencode(scratch / "absent"), b"tmpfs", 0, b"")
    assert failed.value.errno == errno.ENOENT
    with pytest.raises(OSError, match="Errno") as failed:
        mount.mount(b"x", os.fsencode(scratch), b"no such type", 0, b"")
    assert failed.value.errno == errno.ENODEV


def test_unmount_follows_no_symlink(scratch: Path) -> None:
    point, symlink = scratch / "point", scratch / "symlink"
    point.mkdir()
    symlink.symlink_to(point)
    mount.mount(b"tmpfs", os.fsencode(point), b"tmpfs", 0, b"")
    with pytest.raises(OSError, match="Errno") as failed:
        mount.unmount(os.fsencode(symlink), mount.UMOUNT_NOFOLLOW)
    assert failed.value.errno == errno.EINVAL
    mount.unmount(os.fsencode(point))
