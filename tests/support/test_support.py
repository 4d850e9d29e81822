"""Do the helpers of the tests themselves tell the truth?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import unwatched
from tests.support import lowers
from tests.support.mounts import Kernel, Layers, MountFailed, escape, is_mounted, read_only, unmount
from tests.support.trees import diff, snapshot


def test_escape() -> None:
    assert escape("/a:b,c\\d") == "/a\\:b\\,c\\\\d"


def test_snapshot_and_diff(scratch: Path) -> None:
    (scratch / "d").mkdir()
    (scratch / "d/file").write_bytes(b"data")
    os.link(scratch / "d/file", scratch / "link")
    os.symlink("nowhere", scratch / "symlink")
    os.mkfifo(scratch / "fifo")
    before = snapshot(scratch)
    assert sorted(before) == [".", "d", "d/file", "fifo", "link", "symlink"]
    assert before["link"].same == before["d/file"].same != None  # noqa: E711
    assert diff(before, snapshot(scratch)) == []
    (scratch / "d/file").write_bytes(b"other")
    os.setxattr(scratch / "d", "user.colour", b"red")
    os.unlink(scratch / "fifo")
    lines = diff(before, snapshot(scratch), ("old", "new"))
    changed = {tuple(line.split(": ")[:2]) for line in lines}
    assert ("d", "xattrs") in changed
    assert ("d/file", "digest") in changed
    assert ("link", "size") in changed
    assert ("fifo", "only in old (fifo)") in changed


def test_holes_are_seen(scratch: Path) -> None:
    path = scratch / "sparse"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
        file.seek(1 << 20)
        file.write(b"x" * 4096)
    record = snapshot(scratch, leave_out=())["sparse"]
    assert record.size == 5 << 30
    assert record.holes == ((1 << 20, (1 << 20) + 4096),)


@pytest.mark.parametrize("name", ["plain", "a:b", "a,b", "a\\b", "with space"])
def test_kernel_driver_escapes(name: str, make_layers: Callable[..., Layers]) -> None:
    layers = make_layers(lowers=2, name=name)
    (layers.lowers[1] / "file").write_bytes(b"below")
    with Kernel().mount(layers) as mnt:
        (mnt / "file").write_bytes(b"above")
    assert not is_mounted(layers.mnt)
    assert (layers.top / "file").read_bytes() == b"above"


def test_mount_failed(make_layers: Callable[..., Layers]) -> None:
    layers = make_layers()
    os.rmdir(layers.lowers[0])
    with pytest.raises(MountFailed) as failed, Kernel().mount(layers):
        pass
    assert failed.value.returncode == 32
    assert not is_mounted(layers.mnt)


@pytest.mark.parametrize("scratch", ["ext4", "xfs", "btrfs", "tmpfs"], indirect=True)
def test_disks(layers: Layers) -> None:
    (layers.lowers[0] / "file").write_bytes(b"below")
    with Kernel().mount(layers) as mnt:
        (mnt / "file").write_bytes(b"above")
    assert (layers.top / "file").read_bytes() == b"above"


def grow(lower: Path) -> None:
    (lower / "file").write_bytes(b"longer than before")


def rewrite(lower: Path) -> None:
    """The same size and mtime: a change of content that stat(2) shows by ctime alone."""
    before = (lower / "file").stat()
    (lower / "file").write_bytes(b"BELOW")
    os.utime(lower / "file", ns=(before.st_atime_ns, before.st_mtime_ns))


def touch_mode(lower: Path) -> None:
    """There and back: nothing but ctime tells."""
    (lower / "file").chmod(0o600)
    (lower / "file").chmod(0o644)


def mark(lower: Path) -> None:
    os.setxattr(lower, "trusted.overlay.opaque", b"y")


def add(lower: Path) -> None:
    (lower / "new").touch()


@pytest.fixture
def with_file(layers: Layers) -> Layers:
    """Layers with a lower file."""
    (layers.lowers[0] / "file").write_bytes(b"below")
    (layers.lowers[0] / "file").chmod(0o644)
    return layers


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(
    ("change", "reported"),
    [(grow, "size"), (rewrite, "ctime_ns"), (touch_mode, "ctime_ns"), (mark, "ctime_ns"), (add, "new: only in after")],
)
class TestChangedLowers:
    """A lower that is changed is reported, whatever was changed, whether its contents are read or only lstat(2) is asked."""

    @pytest.fixture(autouse=True)
    def unread(self, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if size == "large":
            monkeypatch.setattr(lowers, "READ_NAMES", 0)

    def test_at_unmounting(self, change: Callable[[Path], None], reported: str, with_file: Layers) -> None:
        with pytest.raises(lowers.LowerChanged, match=reported), Kernel().mount(with_file):
            change(with_file.lowers[0])
        lowers.check(with_file.lowers)  # once is enough

    def test_at_the_end(self, change: Callable[[Path], None], reported: str, with_file: Layers) -> None:
        Kernel().start(with_file)
        unmount(with_file.mnt)
        change(with_file.lowers[0])
        with pytest.raises(lowers.LowerChanged, match=reported):
            lowers.check()

    def test_between_mounts(self, change: Callable[[Path], None], reported: str, with_file: Layers) -> None:
        with Kernel().mount(with_file):
            pass
        change(with_file.lowers[0])
        with pytest.raises(lowers.LowerChanged, match=reported), Kernel().mount(with_file):
            pass

    def test_if_not_meant(self, change: Callable[[Path], None], reported: str, with_file: Layers) -> None:
        with Kernel().mount(with_file):
            change(with_file.lowers[0])
            lowers.changes_meant(*with_file.lowers)
        with Kernel().mount(with_file):
            change(with_file.lowers[0])
            lowers.changes_meant(*with_file.lowers)


def test_a_lower_that_is_gone_has_changed(with_file: Layers, scratch: Path) -> None:
    with pytest.raises(lowers.LowerChanged, match="can't be read any more"), Kernel().mount(with_file):
        with_file.lowers[0].rename(scratch / "elsewhere")


@pytest.mark.parametrize("scratch", ["tmpfs"], indirect=True)
def test_looking_changes_nothing(with_file: Layers) -> None:
    """tmpfs is mounted so that reading sets access times that are older than the last change."""
    lower = with_file.lowers[0]
    names = (lower, lower / "file")
    for name in names:
        os.utime(name, ns=(1, 2))
    with Kernel().mount(with_file):
        pass
    assert [name.stat().st_atime_ns for name in names] == [1, 1]


def test_mounts_in_a_lower_do_not_count(with_file: Layers) -> None:
    inside = with_file.lowers[0] / "inside"
    inside.mkdir()
    with Kernel().mount(with_file):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
        (inside / "elsewhere").touch()
    subprocess.run(["umount", inside], check=True)


def test_a_mount_past_the_drivers_is_noticed(with_file: Layers) -> None:
    """As `make_layers` asks when the test ends."""
    options = f"lowerdir={with_file.lowers[0]},upperdir={with_file.upper},workdir={with_file.work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, with_file.mnt], check=True)
    unmount(with_file.mnt)
    assert unwatched([with_file]) == [with_file.work]
    lowers.watch(with_file.lowers, with_file.work)
    assert unwatched([with_file]) == []


def test_read_only_mounts(with_file: Layers) -> None:
    with read_only(with_file.lowers):
        with pytest.raises(OSError, match="Read-only"):
            (with_file.lowers[0] / "file").write_bytes(b"")
        with Kernel().mount(with_file) as mnt:
            (mnt / "file").write_bytes(b"above")
    (with_file.lowers[0] / "file").write_bytes(b"as before")
    lowers.changes_meant(*with_file.lowers)
