"""Is a node that was split one file under several nodeids, until the kernel has forgotten the last of them?"""

from __future__ import annotations

import pytest

from tests.overlay.conftest import OpenUnion
from tests.overlay.test_lookup import node_of
from tests.support.mounts import Layers
from unionfs.overlay import attrs, remove
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union


@pytest.fixture
def union(layers: Layers, open_union: OpenUnion) -> Union:
    (layers.lowers[0] / "file").write_bytes(b"data")
    return open_union(layers)


@pytest.fixture
def node(union: Union) -> Node:
    """A file that the kernel has looked up three times, and to which something is attached."""
    found = node_of(union, "file")
    assert found is not None
    found.lookups = 3
    found.attachment = "first"
    return found


def test_both_nodeids_are_the_file(union: Union, node: Node) -> None:
    old = node.nodeid
    union.inodes.split(node)
    assert node.nodeid != old
    assert union.node(old) is node
    assert union.node(node.nodeid) is node
    assert node.former_ids == (old,)
    assert node_of(union, "file") is node


def test_each_has_its_own_attachment(union: Union, node: Node) -> None:
    old = node.nodeid
    union.inodes.split(node)
    node.attachment = "second"
    assert union.inodes.attachment(node, old) == "first"
    assert union.inodes.attachment(node, node.nodeid) == "second"


@pytest.mark.parametrize("order", ["old first", "new first"])
def test_it_goes_with_the_last_lookup_of_both(order: str, union: Union, node: Node) -> None:
    old = node.nodeid
    union.inodes.split(node)
    new = node.nodeid
    node.lookups = 1
    steps = [(old, 2), (old, 1), (new, 1)] if order == "old first" else [(new, 1), (old, 2), (old, 1)]
    for number, (nodeid, lookups) in enumerate(steps):
        assert set(union.inodes.by_id) & {old, new} != set(), number
        union.forget(nodeid, lookups)
    assert not set(union.inodes.by_id) & {old, new}
    assert not union.inodes.formers
    assert b"file" not in union.root.children


def test_what_was_forgotten_says_what_to_release(union: Union, node: Node) -> None:
    old = node.nodeid
    union.inodes.split(node)
    node.attachment = "second"
    node.lookups = 1
    assert union.forget(old, 2) is None
    gone = union.forget(old, 1)
    assert gone is not None
    assert gone.attachment == "first"
    assert node.former_ids == ()
    assert union.forget(node.nodeid, 1) is node


def test_a_new_nodeid_nobody_ever_looked_up(union: Union, node: Node) -> None:
    """The caller that was told to look again never did."""
    old, inode = node.nodeid, node.ino
    union.inodes.split(node)
    union.forget(old, 3)
    assert set(union.inodes.by_id) == {union.root.nodeid}
    again = node_of(union, "file")
    assert again is not None
    assert again is not node
    assert again.ino == inode


def test_split_again_and_again(union: Union, node: Node) -> None:
    ids = {node.nodeid}
    for _ in range(4):
        union.inodes.split(node)
        node.lookups = 1
        ids.add(node.nodeid)
    assert len(ids) == 5
    assert all(union.node(nodeid) is node for nodeid in ids)
    for nodeid in sorted(ids):
        union.forget(nodeid, 3)
    assert not ids & set(union.inodes.by_id)


def test_removal_is_seen_by_all(union: Union, node: Node) -> None:
    old = node.nodeid
    union.inodes.split(node)
    remove.unlink(union, union.root, b"file")
    assert union.node(old).unlinked
    assert attrs.link_count(union.node(old), attrs.real_stat(node)) == 0
