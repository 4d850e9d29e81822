"""Are inode numbers unique, stable, and the same however an object is seen?"""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion, opened
from tests.overlay.test_lookup import directory_of, node_of
from tests.support.lowers import changes_meant
from tests.support.mounts import Layers
from tests.support.trees import snapshot
from unionfs.overlay import attrs, copyup, merge, remove
from unionfs.overlay.create import make_directory
from unionfs.overlay.creator import SERVER
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union


@pytest.fixture
def spread(layers: Layers, scratch: Path) -> Iterator[Layers]:
    """Layers on three filesystems, two of which give the same inode numbers."""
    places = [scratch / "tmpfs1", scratch / "tmpfs2"]
    for place in places:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    lowers = (*layers.lowers, *(place / place.name for place in places))
    for place in (*lowers, layers.top):
        place.mkdir(exist_ok=True)
        for number in range(30):
            (place / f"{place.name}-{number}").write_bytes(b"")
        (place / "merged").mkdir()
    yield Layers(lowers, layers.upper, layers.work, layers.mnt)
    for place in places:
        subprocess.run(["umount", place], check=True)


def all_nodes(union: Union) -> dict[str, Node]:
    """Every name of the root, looked up."""
    names = [os.fsdecode(name) for name in merge.build(union, union.root).names]
    return {name: node for name in names if (node := node_of(union, name)) is not None}


def test_unique_over_several_filesystems(spread: Layers, open_union: OpenUnion) -> None:
    nodes = all_nodes(open_union(spread))
    assert len(nodes) == 4 * 30 + 1
    numbers = [node.ino for node in nodes.values()]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 1 << 63 for number in numbers)
    real = [os.stat(place / name).st_ino for place in (spread.top, *spread.lowers) for name in os.listdir(place)]
    assert len(set(real)) < len(real), "the layers' own numbers are not unique: the test shows something"


def test_the_layers_own_where_there_is_one_filesystem(layers: Layers, open_union: OpenUnion) -> None:
    (layers.lowers[0] / "below").write_bytes(b"")
    (layers.top / "above").write_bytes(b"")
    nodes = all_nodes(open_union(layers))
    assert nodes["below"].ino == (layers.lowers[0] / "below").stat().st_ino
    assert nodes["above"].ino == (layers.top / "above").stat().st_ino


@pytest.mark.parametrize("kind", ["same", "spread"])
def test_a_copy_up_and_a_new_mount_keep_it(kind: str, request: pytest.FixtureRequest) -> None:
    layers: Layers = request.getfixturevalue("layers" if kind == "same" else "spread")
    for lower in layers.lowers:
        (lower / f"own {lower.name}").mkdir()
        (lower / f"own {lower.name}" / "file").write_bytes(b"data")
        (lower / f"symlink {lower.name}").symlink_to("x")
        os.mkfifo(lower / f"fifo {lower.name}")
    names = [f"{what} {lower.name}" for lower in layers.lowers for what in ("own", "symlink", "fifo")]

    def numbers(union: Union) -> dict[str, int]:
        found = {name: node.ino for name, node in all_nodes(union).items()}
        for lower in layers.lowers:
            inner = node_of(union, "file", directory_of(union, f"own {lower.name}"))
            assert inner is not None
            found[f"file {lower.name}"] = inner.ino
        return found

    with opened(layers) as union:
        before = numbers(union)
        for name in names:
            node = node_of(union, name)
            assert node is not None
            copyup.ensure_upper(union, node)
        for lower in layers.lowers:
            inner = node_of(union, "file", directory_of(union, f"own {lower.name}"))
            assert inner is not None
            copyup.ensure_upper(union, inner)
        assert numbers(union) == before
    with opened(layers) as union:
        assert numbers(union) == before


def test_one_of_several_links_becomes_another_inode(layers: Layers, open_union: OpenUnion) -> None:
    """Only that one is copied up; the other goes on being the lower file."""
    (layers.lowers[0] / "a").write_bytes(b"")
    os.link(layers.lowers[0] / "a", layers.lowers[0] / "b")
    union = open_union(layers)
    one, other = node_of(union, "a"), node_of(union, "b")
    assert one is not None
    assert other is not None
    copyup.ensure_upper(union, one)
    assert one.ino == (layers.top / "a").stat().st_ino
    assert other.ino == (layers.lowers[0] / "b").stat().st_ino


def test_an_origin_that_is_gone_or_of_another_kind(layers: Layers) -> None:
    (layers.lowers[0] / "file").write_bytes(b"")
    (layers.lowers[0] / "dir").mkdir()
    with opened(layers) as union:
        for name in ("file", "dir"):
            node = node_of(union, name)
            assert node is not None
            copyup.ensure_upper(union, node)
    origin = os.getxattr(layers.top / "file", "trusted.overlay.origin")
    (layers.top / "other").mkdir()
    os.setxattr(layers.top / "other", "trusted.overlay.origin", origin)
    (layers.lowers[0] / "file").unlink()
    changes_meant(*layers.lowers)
    with opened(layers) as union:
        assert all_nodes(union)["file"].ino == (layers.top / "file").stat().st_ino
        assert all_nodes(union)["other"].ino == (layers.top / "other").stat().st_ino


def test_the_number_of_a_merged_directory_is_the_topmost_lower_ones(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    layers = make_layers(lowers=3)
    for place in (layers.top, layers.lowers[1], layers.lowers[2]):
        (place / "d").mkdir()
    assert directory_of(open_union(layers), "d").ino == (layers.lowers[1] / "d").stat().st_ino


def test_link_counts(layers: Layers, open_union: OpenUnion) -> None:
    for place in (layers.top, layers.lowers[0]):
        (place / "merged" / "inner").mkdir(parents=True)
    (layers.top / "pure" / "inner").mkdir(parents=True)
    (layers.top / "file").write_bytes(b"")
    os.link(layers.top / "file", layers.top / "link")
    union = open_union(layers)
    counts = {name: attrs.link_count(node, attrs.real_stat(node)) for name, node in all_nodes(union).items()}
    assert counts == {"merged": 1, "pure": 3, "file": 2, "link": 2}
    node = node_of(union, "file")
    assert node is not None
    remove.unlink(union, union.root, b"file")
    assert attrs.link_count(node, attrs.real_stat(node)) == 1
    remove.unlink(union, union.root, b"link")
    assert attrs.link_count(node, attrs.real_stat(node)) == 0


class TestForgetting:
    """Nodes leave the table with the kernel's last reference."""

    def test_places_are_taken_over(self, layers: Layers, open_union: OpenUnion) -> None:
        """The directory of one of a file's names is forgotten: the other name leads to it."""
        for name in ("a", "b"):
            (layers.top / name).mkdir()
        (layers.top / "a" / "file").write_bytes(b"data")
        os.link(layers.top / "a" / "file", layers.top / "b" / "link")
        union = open_union(layers)
        one, two = directory_of(union, "a"), directory_of(union, "b")
        node = node_of(union, "file", one)
        assert node is not None
        assert node_of(union, "link", two) is node
        for directory in (one, two):
            directory.lookups = 1
        node.lookups = 2
        union.forget(one.nodeid, 1)
        assert (node.parent, node.name, node.fd) == (two, b"link", -1)
        assert attrs.real_stat(node).nlink == 2
        union.forget(two.nodeid, 1)
        assert node.fd >= 0, "no name is left: held by itself"
        assert attrs.real_stat(node).size == 4
        assert union.forget(node.nodeid, 1) is None
        assert union.forget(node.nodeid, 1) is node
        assert node.fd == -1
        assert union.inodes.hardlinks == {}

    def test_of_what_is_unknown(self, layers: Layers, open_union: OpenUnion) -> None:
        union = open_union(layers)
        assert union.forget(99, 1) is None
        assert union.forget(1, 10**9) is None
        assert union.node(1) is union.root
        with pytest.raises(OSError, match="Errno") as failed:
            union.node(99)
        assert failed.value.errno == 116

    def test_hundred_thousand_nodes_take_little(self, layers: Layers, open_union: OpenUnion) -> None:
        union = open_union(layers)
        made = make_directory(union, union.root, b"d", 0o755, SERVER)[0]
        assert isinstance(made, DirNode)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        count = 5000
        for number in range(count):
            node = Node(0o100000, number, made, b"some usual name %d" % number, made.upper_dir, True)
            union.inodes.enroll(node)
            made.children[node.name] = node
        taken = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        assert taken < 1000, "100 MB for 100,000"


def test_nothing_below_is_touched(spread: Layers) -> None:
    before = [snapshot(lower, leave_out=()) for lower in spread.lowers]
    with opened(spread) as union:
        for name, node in all_nodes(union).items():
            if not isinstance(node, DirNode):
                copyup.ensure_upper(union, node)
                attrs.chmod(union, node, 0o600)
                remove.unlink(union, union.root, name.encode())
    assert [snapshot(lower, leave_out=()) for lower in spread.lowers] == before
