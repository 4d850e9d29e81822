"""Is a copy-up synced in the way that suits the upper's filesystem: by a journal that orders, or by fsync?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion, opened
from tests.overlay.test_lookup import node_of
from tests.support.disks import attached_loops
from tests.support.mounts import Layers
from unionfs.linux import fs
from unionfs.overlay import copyup
from unionfs.overlay.union import Union

IMAGE = 24 << 20
MADE = {
    "ext4": (["mkfs.ext4", "-q"], True),
    "ext3": (["mkfs.ext3", "-q"], True),
    "ext4 without a journal": (["mkfs.ext4", "-q", "-O", "^has_journal"], False),
    "ext2": (["mkfs.ext2", "-q"], False),
}


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Callable[[list[str]], Path]]:
    """`small_disk(mkfs)`: a filesystem of its own, unmounted when the test ends."""
    place, image = scratch / "disk", scratch / "image"
    before = attached_loops(scratch)

    def make(mkfs: list[str]) -> Path:
        with open(image, "wb") as file:
            file.truncate(IMAGE)
        subprocess.run([*mkfs, "-F", image], check=True, capture_output=True)
        place.mkdir()
        subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, place], check=True, capture_output=True)
        return place

    yield make
    if place.exists():
        subprocess.run(["umount", place], check=True)
    assert attached_loops(scratch) == before


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How files were written out, in order."""
    calls: list[str] = []
    fsync, write_out = os.fsync, fs.write_out

    def note_fsync(fd: int) -> None:
        calls.append("fsync")
        fsync(fd)

    def note_write_out(fd: int) -> None:
        calls.append("write out")
        write_out(fd)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(fs, "write_out", note_write_out)
    return calls


def copy_up(layers: Layers, union: Union) -> bool:
    """Copy `file` up; what the union thinks of its upper layer."""
    node = node_of(union, "file")
    assert node is not None
    assert union.upper is not None
    copyup.ensure_upper(union, node)
    assert (layers.top / "file").read_bytes() == b"data"
    return union.upper.ordered


@pytest.mark.parametrize("kind", MADE)
def test_by_the_journal(
    kind: str, make_layers: LayersFactory, small_disk: Callable[[list[str]], Path], synced: list[str]
) -> None:
    """All three share one magic number; only a journal keeps a name from being on the disk before the data."""
    mkfs, journal = MADE[kind]
    place = small_disk(mkfs)
    made = make_layers()
    layers = Layers(made.lowers, place / "upper", place / "work", made.mnt)
    for path in (place / "upper", place / "work"):
        path.mkdir()
    (layers.lowers[0] / "file").write_bytes(b"data")
    with opened(layers) as union:
        assert copy_up(layers, union) is journal
    assert synced == (["write out"] if journal else ["fsync"])


@pytest.mark.parametrize(("scratch", "expected"), [("xfs", "write out"), ("btrfs", "fsync")], indirect=["scratch"])
def test_other_filesystems(expected: str, layers: Layers, open_union: OpenUnion, synced: list[str]) -> None:
    (layers.lowers[0] / "file").write_bytes(b"data")
    assert copy_up(layers, open_union(layers)) is (expected == "write out")
    assert synced == [expected]
