"""Does every change of the upper layer appear in one step, and leave nothing behind?"""

from __future__ import annotations

import errno
import os
import stat as modes
from pathlib import Path

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion
from tests.support.mounts import Layers
from unionfs.linux import at
from unionfs.overlay import remove
from unionfs.overlay.config import Fsync
from unionfs.overlay.errors import LayerError
from unionfs.overlay.staging import Staging
from unionfs.overlay.union import Union


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """Files in the lower layer, and files and directories over them in the upper one."""
    for number in range(5):
        (layers.lowers[0] / f"file{number}").write_bytes(b"below")
    for name in ("d", "full"):
        (layers.lowers[0] / name).mkdir()
        (layers.top / name).mkdir()
    os.mknod(layers.top / "full" / "hidden", modes.S_IFCHR, 0)
    (layers.top / "file0").write_bytes(b"above")
    return layers


@pytest.fixture
def area(filled: Layers, open_union: OpenUnion) -> Staging:
    """The staging area of a union of `filled`."""
    return open_union(filled).staging_area()


def work(layers: Layers) -> Path:
    assert layers.work is not None
    return layers.work / "work"


def is_whiteout(path: Path) -> bool:
    """A character device 0:0 of mode 0."""
    found = path.lstat()
    return (found.st_mode, found.st_rdev) == (modes.S_IFCHR, 0)


class TestWhiteouts:
    """The kernel's form."""

    def test_all_are_one_inode(self, filled: Layers, open_union: OpenUnion) -> None:
        union = open_union(filled)
        for number in range(5):
            remove.unlink(union, union.root, b"file%d" % number)
        whiteouts = [filled.top / f"file{number}" for number in range(5)]
        assert all(is_whiteout(path) for path in whiteouts)
        assert len({path.lstat().st_ino for path in whiteouts}) == 1
        assert whiteouts[0].lstat().st_nlink == 6
        union.close()
        assert os.listdir(work(filled)) == []

    @pytest.mark.parametrize("code", [errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP])
    def test_where_no_more_links_can_be_made(
        self, code: int, filled: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        union = open_union(filled)
        link, left = at.link, [2]

        def limited(*arguments: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(code, "too many")
            link(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(at, "link", limited)
        for number in range(5):
            remove.unlink(union, union.root, b"file%d" % number)
        assert all(is_whiteout(filled.top / f"file{number}") for number in range(5))
        union.close()
        assert os.listdir(work(filled)) == []

    def test_another_failure_is_told_and_the_file_stays(
        self, filled: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        union = open_union(filled)
        monkeypatch.setattr(at, "link", full)
        for name in (b"file1", b"file0"):
            with pytest.raises(OSError, match="full"):
                remove.unlink(union, union.root, name)
        assert (filled.top / "file0").read_bytes() == b"above"
        assert not (filled.top / "file1").exists()

    def test_over_a_directory(self, filled: Layers, open_union: OpenUnion) -> None:
        union = open_union(filled)
        for name in ("d", "full"):
            remove.rmdir(union, union.root, name.encode())
            assert is_whiteout(filled.top / name)
        union.close()
        assert os.listdir(work(filled)) == []


class TestMarkerFiles:
    """`.wh.` files, where devices can't be made or are not wanted."""

    @pytest.fixture
    def union(self, filled: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> Union:
        monkeypatch.setenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "1")
        return open_union(filled)

    def test_files(self, union: Union, filled: Layers) -> None:
        for number in range(3):
            remove.unlink(union, union.root, b"file%d" % number)
        assert {name for name in os.listdir(filled.top) if "file" in name} == {".wh.file0", ".wh.file1", ".wh.file2"}
        assert (filled.top / ".wh.file0").stat().st_size == 0

    def test_directories(self, union: Union, filled: Layers) -> None:
        for name in ("d", "full"):
            remove.rmdir(union, union.root, name.encode())
            assert (filled.top / f".wh.{name}").is_file()
            assert not (filled.top / name).exists()
        union.close()
        assert os.listdir(work(filled)) == []

    def test_chosen_where_devices_are_refused(
        self, filled: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "no devices")

        monkeypatch.delenv("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", raising=False)
        monkeypatch.setattr(os, "mknod", refuse)
        union = open_union(filled)
        remove.unlink(union, union.root, b"file1")
        assert (filled.top / ".wh.file1").is_file()


def test_names_of_staged_objects(area: Staging) -> None:
    names = [area.temporary() for _ in range(40)]
    assert len(set(names)) == 40
    assert all(name.startswith(b"#") and int(name[1:], 16) > 0 for name in names)


@pytest.mark.parametrize("mode", [0, 0o644, 0o777])
def test_a_file_without_a_name(mode: int, area: Staging, filled: Layers) -> None:
    fd, name = area.open_file(mode)
    found = os.fstat(fd)
    assert (name, modes.S_IMODE(found.st_mode), found.st_nlink, found.st_size) == (b"", mode, 0, 0)
    os.close(fd)


def test_a_filesystem_without_unnamed_files(area: Staging, filled: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    open_, refused = os.open, []

    def without(path: bytes, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            refused.append(path)
            raise OSError(errno.EOPNOTSUPP, "no O_TMPFILE")
        return open_(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", without)
    for _ in range(2):
        fd, name = area.open_file(0o640)
        assert name.startswith(b"#")
        assert modes.S_IMODE(os.fstat(fd).st_mode) == 0o640
        os.close(fd)
        area.discard(name)
    assert len(refused) == 1, "it is asked once"


def test_discard_takes_everything(area: Staging, filled: Layers) -> None:
    (work(filled) / "#77" / "inner" / "deep").mkdir(parents=True)
    (work(filled) / "#77" / "file").write_bytes(b"")
    (work(filled) / "#77" / "inner" / "outside").symlink_to(filled.lowers[0])
    os.mknod(work(filled) / "#77" / "whiteout", modes.S_IFCHR, 0)
    area.discard(b"#77")
    assert not (work(filled) / "#77").exists()
    assert (filled.lowers[0] / "file0").exists()
    area.discard(b"#absent")


class TestPreparing:
    """workdir/work at the beginning of a mount."""

    def test_what_a_crash_left_is_removed(self, filled: Layers, open_union: OpenUnion) -> None:
        left = work(filled) / "#1" / "inner"
        left.mkdir(parents=True)
        (left / "file").write_bytes(b"")
        work(filled).chmod(0)
        union = open_union(filled)
        union.close()
        assert os.listdir(work(filled)) == []
        assert modes.S_IMODE(work(filled).stat().st_mode) == 0

    def test_it_gives_nothing_on(self, filled: Layers, open_union: OpenUnion) -> None:
        """A work directory with a default ACL or a setgid bit would show in everything that is staged there."""
        assert filled.work is not None
        os.system(f"setfacl -d -m u:7:rwx,m::rwx {filled.work}")
        os.chown(filled.work, 0, 99)
        filled.work.chmod(0o2755)
        area = open_union(filled).staging_area()
        fd, _ = area.open_file(0o600)
        assert (os.fstat(fd).st_gid, modes.S_IMODE(os.fstat(fd).st_mode), os.listxattr(fd)) == (0, 0o600, [])
        os.close(fd)

    @pytest.mark.parametrize("name", ["foreign", "#1", "works", ".hidden"])
    def test_foreign_content_is_left_alone(self, name: str, filled: Layers, open_union: OpenUnion) -> None:
        assert filled.work is not None
        (filled.work / name).write_bytes(b"precious")
        with pytest.raises(LayerError, match="not ours"):
            open_union(filled)
        assert os.listdir(filled.work) == [name]

    def test_the_kernels_index_is_known(self, filled: Layers, open_union: OpenUnion) -> None:
        assert filled.work is not None
        (filled.work / "index").mkdir()
        open_union(filled)
        assert sorted(os.listdir(filled.work)) == ["index", "work"]

    def test_a_volatile_mount_leaves_its_mark(self, filled: Layers, open_union: OpenUnion) -> None:
        open_union(filled, fsync=Fsync.VOLATILE).close()
        assert (work(filled) / "incompat" / "volatile" / "dirty").exists()
        with pytest.raises(LayerError, match="volatile"):
            open_union(filled)

    def test_work_is_a_file(self, filled: Layers, open_union: OpenUnion) -> None:
        work(filled).write_bytes(b"")
        with pytest.raises(LayerError, match="not a directory"):
            open_union(filled)


def test_a_real_limit_of_links(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    """ext4 allows 65,000 links to an inode; the whiteouts after that are links of another."""
    layers = make_layers()
    (layers.lowers[0] / "file").write_bytes(b"")
    union = open_union(layers)
    area = union.staging_area()
    shared = area._shared_whiteout()
    (layers.mnt.parent / "links").mkdir()
    for number in range(64_999):
        os.link(work(layers) / os.fsdecode(shared), layers.mnt.parent / "links" / str(number))
    remove.unlink(union, union.root, b"file")
    assert is_whiteout(layers.top / "file")
    assert (layers.top / "file").lstat().st_nlink <= 2
