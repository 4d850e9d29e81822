"""Is the next file staged while one after the other is copied up, and is nothing left of one that nobody wants?"""

from __future__ import annotations

import os

import pytest

from tests.overlay.conftest import OpenUnion, opened
from tests.overlay.test_lookup import node_of
from tests.support.mounts import Layers
from unionfs.overlay import attrs, copyup, merge, remove, rename
from unionfs.overlay.config import Fsync
from unionfs.overlay.errors import CopyUpNeeded
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union

NAMES = [f"file{number}" for number in range(8)]


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A lower layer of files, each with data, owner, times and an xattr of its own."""
    for number, name in enumerate(NAMES):
        path = layers.lowers[0] / name
        path.write_bytes(name.encode() * 1000)
        path.chmod(0o600 + number)
        os.setxattr(path, "user.name", name.encode())
        os.chown(path, 1000 + number, 2000)
        os.utime(path, ns=(10**18 + number, 10**18 + 2 * number))
    return layers


def listed(union: Union) -> list[Node]:
    """The files in the order of a listing, known as after one."""
    found = [node_of(union, os.fsdecode(name)) for name, _ in merge.index_of(union, union.root).after(2)]
    return [node for node in found if node is not None]


def touch(union: Union, node: Node) -> bool:
    """Change the file's mode, and then have time; whether the next one was staged in it."""
    attrs.chmod(union, node, 0o640)
    return union.copies_ahead.make()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("fsync", [Fsync.AUTO, Fsync.STRICT, Fsync.VOLATILE])
def test_one_after_the_other(filled: Layers, fsync: Fsync) -> None:
    """From the third on each was staged; and each is what it was, but for what was changed."""
    with opened(filled, fsync=fsync) as union:
        nodes = listed(union)
        assert [touch(union, node) for node in nodes] == [False, *[True] * 6, False]
        assert all(node.data_upper for node in nodes)
    for number, name in enumerate(NAMES):
        above, below = filled.top / name, filled.lowers[0] / name
        now, before = above.stat(), below.stat()
        assert above.read_bytes() == below.read_bytes()
        assert (now.st_mode, now.st_uid, now.st_gid) == (0o100640, 1000 + number, 2000)
        assert (now.st_atime_ns, now.st_mtime_ns) == (before.st_atime_ns, before.st_mtime_ns)
        assert os.getxattr(above, "user.name") == name.encode()
        assert os.getxattr(above, "trusted.overlay.origin")


def test_in_another_order(filled: Layers, open_union: OpenUnion) -> None:
    union = open_union(filled)
    assert not any(touch(union, node) for node in reversed(listed(union)))


def test_not_wanted(filled: Layers) -> None:
    """One that nobody asks for leaves nothing; the more are in vain, the surer the next guess must be."""
    with opened(filled) as union:
        nodes = listed(union)
        before = descriptors()
        assert not touch(union, nodes[0])
        assert touch(union, nodes[1])
        assert descriptors() > before
        union.copies_ahead.drop()
        assert descriptors() == before
        assert touch(union, nodes[2])
        # Nodes 3 is staged and 4 copied up: in vain.
        assert not touch(union, nodes[4])
        assert not touch(union, nodes[5])
        assert touch(union, nodes[6])
    assert sorted(path.name for path in filled.top.iterdir()) == sorted(
        os.fsdecode(nodes[number].name) for number in (0, 1, 2, 4, 5, 6)
    )
    assert filled.work is not None
    assert list((filled.work / "work").iterdir()) == []


def test_what_happens_to_it_meanwhile(filled: Layers, open_union: OpenUnion) -> None:
    """Renamed, removed, emptied: the staged copy has no part in it, or is shown under the new name."""
    union = open_union(filled)
    nodes = listed(union)
    names = [os.fsdecode(node.name) for node in nodes]
    touch(union, nodes[0])
    assert touch(union, nodes[1])
    rename.rename(union, union.root, nodes[2].name, union.root, b"renamed", 0)
    assert (filled.top / "renamed").read_bytes() == names[2].encode() * 1000
    touch(union, nodes[3])
    assert touch(union, nodes[4])
    remove.unlink(union, union.root, nodes[5].name)
    assert not (filled.top / names[5]).is_file()
    touch(union, nodes[6])
    copyup.ensure_upper(union, nodes[7], 0)
    assert (filled.top / names[7]).read_bytes() == b""


def test_what_is_not_copied_at_once(filled: Layers, open_union: OpenUnion) -> None:
    """A large file is left to a worker thread, and a directory is passed over."""
    first, second, third, fourth, fifth, *_ = (entry.name for entry in os.scandir(filled.lowers[0]))
    lower = filled.lowers[0]
    with open(lower / third, "ab") as file:
        file.truncate(copyup.INLINE_LIMIT + 1)
    (lower / fourth).unlink()
    (lower / fourth).mkdir()
    union = open_union(filled)
    assert [entry.name for entry in os.scandir(lower)].index(fourth) == 3
    nodes = {os.fsdecode(node.name): node for node in listed(union)}
    assert not touch(union, nodes[first])
    assert not touch(union, nodes[second])
    with pytest.raises(CopyUpNeeded):
        attrs.chmod(union, nodes[third], 0o640)
    job = copyup.job(union, nodes[third])
    job.run()
    union.copies_ahead.note(nodes[third])
    assert union.copies_ahead.make()
    attrs.chmod(union, nodes[fifth], 0o640)
    assert (filled.top / fifth).read_bytes() == fifth.encode() * 1000
