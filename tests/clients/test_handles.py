"""Do file handles of a mount open again after the kernel has forgotten the file, as an NFS server needs it (nfs_export=on)?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.mounts import Layers, Options, Unionfs
from tests.support.syscalls import FileHandle, name_to_handle, open_by_handle

ON: Options = {"nfs_export": "on"}


def forget(mnt: Path) -> None:
    """Drops what nobody uses of the kernel's names and inodes; each is a FORGET.

    A file that was closed is used until its RELEASE has been answered, so something is asked after that.
    """
    os.sync()
    os.statvfs(mnt)
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


def read_by(mnt: Path, handle: FileHandle) -> bytes:
    with open(open_by_handle(os.fspath(mnt), handle), "rb") as file:
        return file.read()


def refused(mnt: Path, handle: FileHandle) -> int | None:
    """The errno with which a handle is refused."""
    try:
        os.close(open_by_handle(os.fspath(mnt), handle))
    except OSError as error:
        return error.errno
    return None


@pytest.fixture
def filled(layers: Layers) -> Layers:
    lower = layers.lowers[0]
    (lower / "dir/deep/deeper").mkdir(parents=True)
    (lower / "dir/deep/deeper/file").write_bytes(b"deep")
    (lower / "file").write_bytes(b"lower")
    (lower / "linked").write_bytes(b"linked")
    os.link(lower / "linked", lower / "dir/link")
    (lower / "symlink").symlink_to("file")
    return layers


@pytest.fixture
def mnt(filled: Layers) -> Iterator[Path]:
    with Unionfs().mount(filled, ON) as mnt:
        yield mnt


def test_of_everything(mnt: Path) -> None:
    (mnt / "new").write_bytes(b"new")
    handles = {}
    for above, directories, files in os.walk(mnt):
        for name in (*directories, *files):
            path = os.path.join(above, name)
            handles[path] = (name_to_handle(path), os.lstat(path).st_ino)
    assert len(handles) == 9
    forget(mnt)
    for path, (handle, number) in handles.items():
        flags = os.O_PATH if os.path.islink(path) else os.O_RDONLY
        fd = open_by_handle(os.fspath(mnt), handle, flags)
        try:
            assert os.fstat(fd).st_ino == number, path
            if os.path.isdir(path):
                assert os.listdir(fd) == os.listdir(path)
                assert os.readlink(f"/proc/self/fd/{fd}") == path
        finally:
            os.close(fd)
        assert name_to_handle(path) == handle


def test_changed_by_handle(mnt: Path, filled: Layers) -> None:
    handle = name_to_handle(os.fspath(mnt / "dir/deep/deeper/file"))
    forget(mnt)
    fd = open_by_handle(os.fspath(mnt), handle, os.O_WRONLY)
    os.write(fd, b"DE")
    os.close(fd)
    forget(mnt)
    assert read_by(mnt, handle) == b"DEep"
    assert (mnt / "dir/deep/deeper/file").read_bytes() == b"DEep"
    assert (filled.top / "dir/deep/deeper/file").read_bytes() == b"DEep"


def test_moved_meanwhile(mnt: Path) -> None:
    handle = name_to_handle(os.fspath(mnt / "dir/deep/deeper/file"))
    directory = name_to_handle(os.fspath(mnt / "dir/deep"))
    forget(mnt)
    (mnt / "dir").rename(mnt / "moved")
    forget(mnt)
    assert read_by(mnt, handle) == b"deep"
    (mnt / "moved/deep").rename(mnt / "deep")
    forget(mnt)
    (mnt / "deep/deeper/file").rename(mnt / "other")
    forget(mnt)
    assert read_by(mnt, handle) == b"deep"
    fd = open_by_handle(os.fspath(mnt), directory)
    assert os.listdir(fd) == ["deeper"]
    assert os.readlink(f"/proc/self/fd/{fd}") == os.fspath(mnt / "deep")
    os.close(fd)


@pytest.mark.parametrize("when", ["at once", "after it was forgotten"])
def test_removed(mnt: Path, when: str) -> None:
    (mnt / "new").write_bytes(b"new")
    handles = [name_to_handle(os.fspath(mnt / name)) for name in ("file", "new", "linked", "dir/deep/deeper")]
    if when != "at once":
        forget(mnt)
    (mnt / "file").unlink()
    (mnt / "new").unlink()
    (mnt / "linked").unlink()
    (mnt / "dir/deep/deeper/file").unlink()
    (mnt / "dir/deep/deeper").rmdir()
    forget(mnt)
    (mnt / "new").write_bytes(b"another")
    file, new, linked, directory = handles
    assert refused(mnt, file) == errno.ESTALE
    assert refused(mnt, new) == errno.ESTALE
    assert refused(mnt, directory) == errno.ESTALE
    assert read_by(mnt, linked) == b"linked"
    (mnt / "dir/link").unlink()
    forget(mnt)
    assert refused(mnt, linked) == errno.ESTALE


def test_of_another_name_of_a_new_file(mnt: Path) -> None:
    """The name by which it was known is gone, and no other was looked up since."""
    (mnt / "new").write_bytes(b"new")
    os.link(mnt / "new", mnt / "dir/other")
    handle = name_to_handle(os.fspath(mnt / "new"))
    forget(mnt)
    (mnt / "new").unlink()
    forget(mnt)
    assert read_by(mnt, handle) == b"new"
    assert (mnt / "dir/other").read_bytes() == b"new"
    assert name_to_handle(os.fspath(mnt / "dir/other")) == handle


def test_open_while_it_is_copied_up(mnt: Path) -> None:
    program = mnt / "file"
    program.chmod(0o755)
    handle = name_to_handle(os.fspath(mnt / "dir/deep/deeper/file"))
    with closing(open(mnt / "dir/deep/deeper/file", "rb")) as reader:
        (mnt / "dir/deep/deeper/file").write_bytes(b"changed")
        assert read_by(mnt, handle) == b"changed"
        assert reader.read() == b"changed"
    forget(mnt)
    assert read_by(mnt, handle) == b"changed"


def test_stale_after_a_remount(filled: Layers) -> None:
    with Unionfs().mount(filled, ON) as mnt:
        handles = [name_to_handle(os.fspath(mnt / name)) for name in ("file", "dir", "linked")]
        os.listdir(mnt)
    with Unionfs().mount(filled, ON) as mnt:
        os.listdir(mnt)
        assert {refused(mnt, handle) for handle in handles} == {errno.ESTALE}


def test_off(filled: Layers) -> None:
    with Unionfs().mount(filled) as mnt, pytest.raises(OSError, match="Operation not supported"):
        name_to_handle(os.fspath(mnt / "file"))


def test_read_only(filled: Layers) -> None:
    layers = Layers(filled.lowers, None, None, filled.mnt)
    with Unionfs().mount(layers, ON) as mnt:
        handle = name_to_handle(os.fspath(mnt / "dir/deep/deeper/file"))
        forget(mnt)
        assert read_by(mnt, handle) == b"deep"
