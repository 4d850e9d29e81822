"""Do the helpers of the tests themselves tell the truth?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Kernel, Layers, MountFailed, escape, is_mounted
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
def test_disks(layers: Layers, lower_guard: Callable[[Layers], None]) -> None:
    (layers.lowers[0] / "file").write_bytes(b"below")
    lower_guard(layers)
    with Kernel().mount(layers) as mnt:
        (mnt / "file").write_bytes(b"above")
    assert (layers.top / "file").read_bytes() == b"above"
