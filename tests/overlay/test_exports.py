"""Forgotten nodes are found again by their nodeids, and what is remembered of them goes with them."""

from __future__ import annotations

import errno
import os

import pytest

from tests.overlay.conftest import OpenUnion
from tests.overlay.test_lookup import node_of
from tests.support.mounts import Layers
from unionfs.overlay.create import make_tmpfile
from unionfs.overlay.creator import SERVER
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.remove import unlink
from unionfs.overlay.union import Union


@pytest.fixture
def union(layers: Layers, open_union: OpenUnion) -> Union:
    deep = layers.lowers[0] / "dir" / "deep"
    deep.mkdir(parents=True)
    for name in ("file", "other"):
        (deep / name).write_bytes(b"lower")
    return open_union(layers, index=True, nfs_export=True)


def looked_up(union: Union, path: str) -> list[Node]:
    """The nodes on the way to a path, each looked up once."""
    way: list[Node] = []
    node: Node | None = union.root
    for name in path.split("/"):
        assert isinstance(node, DirNode)
        node = node_of(union, name, node)
        assert node is not None
        node.lookups += 1
        way.append(node)
    return way


def is_stale(union: Union, nodeid: int) -> bool:
    assert union.exports is not None
    with pytest.raises(OSError, match=r"object|where") as raised:
        union.exports.find(union, nodeid)
    return raised.value.errno == errno.ESTALE


def test_in_any_order_of_forgetting(union: Union) -> None:
    """A directory that is forgotten before what is in it stays until that is, and no longer."""
    way = looked_up(union, "dir/deep/file")
    for node in way:
        union.forget(node.nodeid, 1)
    assert list(union.inodes.by_id) == [union.root.nodeid]
    assert union.exports is not None
    again = union.exports.find(union, way[-1].nodeid)
    assert again is not way[-1]
    assert (again.nodeid, again.ino) == (way[-1].nodeid, way[-1].ino)
    again.lookups += 1
    assert len(union.inodes.by_id) == 4
    union.forget(again.nodeid, 1)
    assert list(union.inodes.by_id) == [union.root.nodeid]


def test_nothing_is_left_of_what_was_removed(union: Union) -> None:
    *_, directory, file = looked_up(union, "dir/deep/file")
    assert isinstance(directory, DirNode)
    unlink(union, directory, b"file")
    union.forget(file.nodeid, 1)
    assert is_stale(union, file.nodeid)
    node, _, fd = make_tmpfile(union, union.root, 0o600, SERVER)
    os.close(fd)
    node.lookups += 1
    union.forget(node.nodeid, 1)
    assert is_stale(union, node.nodeid)
    assert is_stale(union, 12345)


def test_not_the_same_when_it_was_replaced(union: Union, layers: Layers) -> None:
    """Someone changed the layers meanwhile: another object of that name is not taken for the one it was."""
    way = looked_up(union, "dir/deep/file")
    for node in reversed(way):
        union.forget(node.nodeid, 1)
    (layers.top / "dir" / "deep").mkdir(parents=True)
    (layers.top / "dir" / "deep" / "file").write_bytes(b"another")
    assert is_stale(union, way[-1].nodeid)
