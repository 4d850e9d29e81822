"""Names of one lower inode: one node before and after its copy-up, whatever the kernel forgets meanwhile."""

from __future__ import annotations

import errno
import os

import pytest

from tests.overlay.conftest import OpenUnion, opened
from tests.overlay.test_lookup import node_of
from tests.support.lowers import changes_meant
from tests.support.mounts import Layers
from unionfs.linux import at, stat
from unionfs.overlay import attrs, copyup, links, remove, rename
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union


@pytest.fixture
def linked(layers: Layers) -> Layers:
    lower = layers.lowers[0]
    (lower / "dir").mkdir()
    (lower / "a").write_bytes(b"lower")
    os.link(lower / "a", lower / "b")
    os.link(lower / "a", lower / "dir/c")
    return layers


def known(union: Union, path: str) -> Node:
    """The node of a path, as if the kernel had looked it up once more."""
    node: Node | None = union.root
    for name in path.split("/"):
        assert isinstance(node, DirNode)
        node = node_of(union, name, node)
    assert node is not None
    node.lookups += 1
    return node


def count(node: Node) -> int:
    return attrs.link_count(node, attrs.real_stat(node))


def nlink_mark(layers: Layers) -> bytes:
    assert layers.work is not None
    (entry,) = (layers.work / "index").iterdir()
    return os.getxattr(entry, "trusted.overlay.nlink")


def test_one_node(linked: Layers, open_union: OpenUnion) -> None:
    union = open_union(linked, index=True)
    node = known(union, "a")
    assert known(union, "b") is node
    assert count(node) == 3
    copyup.ensure_upper(union, node)
    assert known(union, "dir/c") is node
    assert count(node) == 3
    assert sorted(os.listdir(linked.top)) == ["a"]
    assert nlink_mark(linked) == b"U+1"


def test_without_the_index_names_part(linked: Layers, open_union: OpenUnion) -> None:
    union = open_union(linked)
    node = known(union, "a")
    assert known(union, "b") is not node
    assert union.relisted == []
    copyup.ensure_upper(union, node)
    assert union.relisted == [union.root]
    assert linked.work is not None
    assert not (linked.work / "index").exists()


def test_the_directory_of_the_known_name_is_forgotten(linked: Layers, open_union: OpenUnion) -> None:
    """Nothing is left of its names; the copy-up goes to the index alone, as one by a file handle does in the kernel."""
    union = open_union(linked, index=True)
    directory, node = known(union, "dir"), known(union, "dir/c")
    union.forget(directory.nodeid, 1)
    assert node.parent is None
    copyup.ensure_upper(union, node)
    assert node.upper
    assert os.listdir(linked.top) == []
    assert nlink_mark(linked) == b"U+2"
    assert count(node) == 3
    assert known(union, "b") is node
    assert known(union, "dir/c") is node
    copyup.ensure_upper(union, node)
    assert os.listdir(linked.top) == ["b"]


def test_forgotten_and_found_by_another_name(linked: Layers, open_union: OpenUnion) -> None:
    union = open_union(linked, index=True)
    node = known(union, "a")
    copyup.ensure_upper(union, node)
    at.chmod(*node.at(), 0o600)
    union.forget(node.nodeid, 1)
    assert union.inodes.by_origin == {}
    again = known(union, "b")
    assert again is not node
    assert attrs.real_stat(again).mode & 0o777 == 0o600
    assert again.ino == node.ino
    assert count(again) == 3


@pytest.mark.parametrize("step", ["link", "write_extra"])
def test_a_failure_on_the_way_up(step: str, linked: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails after the entry was made, the count is right at once and at the next mount."""
    with opened(linked, index=True) as union:
        node = known(union, "a")
        calls = 0

        def failing(*arguments: object) -> None:
            nonlocal calls
            calls += 1
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(links, "link_up", failing)
        with pytest.raises(OSError, match="full"):
            copyup.ensure_upper(union, node)
        monkeypatch.undo()
        assert calls == 1
        assert count(node) == 3
        if step == "write_extra":
            # As if it had crashed between the link and the last mark.
            links.link_up(union, node, union.root, b"a")
            assert union.origins is not None
            assert node.links is not None
            union.origins.write_extra(node.links, attrs.real_stat(node).nlink, by_lower=True)
            assert nlink_mark(linked) == b"L+0"
    with opened(linked, index=True) as union:
        node = known(union, "b")
        assert node.upper
        assert count(node) == 3
        for name in (b"a", b"b"):
            remove.unlink(union, union.root, name)
        assert count(node) == 1


def test_a_lower_name_made_meanwhile(linked: Layers, open_union: OpenUnion) -> None:
    """The count would reach 0 before the names are gone: the entry stays until they are."""
    union = open_union(linked, index=True)
    node = known(union, "a")
    copyup.ensure_upper(union, node)
    os.link(linked.lowers[0] / "a", linked.lowers[0] / "new")
    changes_meant(*linked.lowers)
    assert known(union, "new") is node
    rename.rename(union, union.root, b"new", union.root, b"newer", 0)
    directory = known(union, "dir")
    assert isinstance(directory, DirNode)
    assert known(union, "dir/c") is node
    remove.forget_name(union, node, union.root, b"newer", last=False)
    for parent, name in ((union.root, b"a"), (union.root, b"b"), (directory, b"c")):
        assert not node.unlinked
        remove.unlink(union, parent, name)
    assert not node.unlinked
    assert known(union, "newer") is node
    assert count(node) == 1
    remove.unlink(union, union.root, b"newer")
    assert linked.work is not None
    assert os.listdir(linked.work / "index") == []


def test_marks_of_a_foreign_mount(linked: Layers, open_union: OpenUnion) -> None:
    """The inode numbers of the entry and of what lies on the upper layer under a name part: the entry does not count."""
    with opened(linked, index=True) as union:
        copyup.ensure_upper(union, known(union, "a"))
    (linked.top / "a").unlink()
    (linked.top / "a").write_bytes(b"another")
    union = open_union(linked, index=True)
    assert known(union, "a") is not known(union, "b")
    found = stat.stat(*known(union, "b").at())
    assert found.nlink == 1
