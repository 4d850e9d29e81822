"""Does a scan in slices find what a scan at once finds, whatever changes meanwhile?"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion
from tests.overlay.test_lookup import directory_of, node_of
from tests.support.mounts import Layers
from unionfs.overlay import copyup, create, merge, remove, rename, scan
from unionfs.overlay.creator import SERVER
from unionfs.overlay.errors import ScanNeeded
from unionfs.overlay.merge import MergedIndex, PartialIndex
from unionfs.overlay.node import DirNode
from unionfs.overlay.scan import Scan
from unionfs.overlay.union import Union


def fill(layers: Layers, count: int = 60) -> None:
    """A directory `d` in two layers, with files, directories that merge, hidden names and both kinds of mark."""
    for place, part in ((layers.lowers[0], 0), (layers.top, 1)):
        (place / "d").mkdir()
        for number in range(count):
            if number % 3 == 2 or number % 3 == part:
                (place / "d" / f"f{number}").write_bytes(b"%d" % part)
        for number in range(4):
            (place / "d" / f"merged{number}").mkdir()
            (place / "d" / f"merged{number}" / f"in{part}").write_bytes(b"")
        (place / "d" / f"only{part}").mkdir()
    for number in range(0, 30, 6):
        os.mknod(layers.top / "d" / f"f{number}", 0o20000, 0)
    (layers.top / "d" / ".wh.f33").write_bytes(b"")


def content(index: MergedIndex) -> dict[bytes, tuple[int, int, list[int]]]:
    """What an index says of each name: type, number, and the layers that have it."""
    return {
        name: (entry.kind, entry.ino, [real.layer.number for real in entry.reals]) for name, entry in index.names.items()
    }


def scanned(running: Scan) -> None:
    """The rest of a scan."""
    while running.open_layers():
        while pieces := running.read():
            for piece in pieces:
                running.take(piece)
    running.finish()
    running.close()


def test_a_scan_in_slices_finds_the_same(layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(layers)
    union = open_union(layers)
    node = directory_of(union, "d")
    at_once = content(merge.build(union, node))
    monkeypatch.setattr(merge, "INLINE_NAMES", 40)
    monkeypatch.setattr(scan, "SLICE", 7)
    with pytest.raises(ScanNeeded) as needed:
        merge.index_of(union, node)
    assert needed.value.node is node
    assert node.index is None
    running = Scan(union, node)
    with pytest.raises(ScanNeeded):
        merge.index_of(union, node)
    scanned(running)
    assert content(merge.index_of(union, node)) == at_once
    assert b"f0" not in at_once
    assert b"f33" not in at_once


Change = tuple[str, str, str]


def change(union: Union, node: DirNode, what: Change) -> None:
    """One change of a directory that is being scanned."""
    kind, name, other = (what[0], what[1].encode(), what[2].encode())
    there = node_of(union, what[1], node)
    if kind == "create":
        if there is None:
            os.close(create.create_file(union, node, name, 0o644, SERVER)[2])
    elif kind == "mkdir":
        if there is None:
            create.make_directory(union, node, name, 0o755, SERVER)
    elif there is None:
        return
    elif kind == "copy up":
        copyup.ensure_upper(union, there)
    elif kind == "remove" and not there.is_dir:
        remove.unlink(union, node, name)
    elif kind == "rename" and not there.is_dir:
        target = node_of(union, what[2], node)
        if target is None or not target.is_dir:
            rename.rename(union, node, name, node, other, 0)


@pytest.mark.parametrize("seed", range(12))
def test_changes_during_a_scan(seed: int, layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(layers)
    union = open_union(layers)
    node = directory_of(union, "d")
    monkeypatch.setattr(scan, "SLICE", 7)
    chance = random.Random(seed)
    names = [*(f"f{number}" for number in range(60)), *(f"new{number}" for number in range(8)), "merged0", "only0"]
    running = Scan(union, node)
    while running.open_layers():
        while pieces := running.read():
            for piece in pieces:
                for _ in range(3):
                    kind = chance.choice(["create", "mkdir", "copy up", "remove", "rename"])
                    change(union, node, (kind, chance.choice(names), chance.choice(names)))
                running.take(piece)
    assert isinstance(node.index, PartialIndex)
    running.finish()
    running.close()
    found = {name: (kind, layers_) for name, (kind, _, layers_) in content(merge.index_of(union, node)).items()}
    fresh = {name: (kind, layers_) for name, (kind, _, layers_) in content(merge.build(union, node)).items()}
    assert found == fresh
    # Whatever the index has not settled, nodes tell.
    for name, entry in merge.index_of(union, node).names.items():
        known = node_of(union, os.fsdecode(name), node)
        assert known is not None
        assert entry.ino in (0, known.ino)


def test_a_scan_that_is_given_up_leaves_nothing(layers: Layers, open_union: OpenUnion) -> None:
    fill(layers)
    union = open_union(layers)
    node = directory_of(union, "d")
    assert node.reals[0].fd() >= 0
    before = len(os.listdir("/proc/self/fd"))
    running = Scan(union, node)
    running.open_layers()
    running.read()
    running.close()
    assert node.index is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert merge.index_of(union, node).names


def test_a_directory_that_went_meanwhile(layers: Layers, open_union: OpenUnion) -> None:
    (layers.lowers[0] / "d").mkdir()
    union = open_union(layers)
    node = directory_of(union, "d")
    running = Scan(union, node)
    node.index = None
    remove.rmdir(union, union.root, b"d")
    scanned(running)
    assert node.index is None


def test_many_small_layers_are_read_in_one_go(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    layers = make_layers(lowers=100)
    for number, lower in enumerate(layers.lowers):
        (lower / f"file{number}").write_bytes(b"")
    union = open_union(layers)
    running = Scan(union, union.root)
    visits = 0
    while running.open_layers():
        while pieces := running.read():
            visits += 1
            for piece in pieces:
                running.take(piece)
    running.finish()
    running.close()
    assert visits <= 3
    assert len(merge.index_of(union, union.root).names) == 100


def test_the_first_search_of_many_layers_scans_them(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    """It would have to read them for `.wh.` files anyway; what it found of those is not read again."""
    layers = make_layers(lowers=6)
    for lower in layers.lowers:
        (lower / "d").mkdir()
    (layers.lowers[1] / ".wh.hidden").write_bytes(b"")
    (layers.lowers[2] / "hidden").write_bytes(b"")
    union = open_union(layers)
    assert node_of(union, "missing") is None
    assert union.root.index is not None
    assert node_of(union, "hidden") is None
    assert [real.has_marker(b"hidden") for real in union.root.reals[1:3]] == [False, True]
    assert len(directory_of(union, "d").reals) == 6


def test_the_first_search_of_few_layers_does_not(layers: Layers, open_union: OpenUnion) -> None:
    union = open_union(layers)
    assert node_of(union, "missing") is None
    assert union.root.index is None


def test_nothing_of_a_large_directory_is_read_in_vain(
    layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size alone says that it will be read in slices."""
    (layers.lowers[0] / "d").mkdir()
    for number in range(1200):
        os.mknod(layers.lowers[0] / "d" / f"{number:0200}", 0o100644)
    union = open_union(layers)
    node = directory_of(union, "d")
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("read"))
    with pytest.raises(ScanNeeded):
        merge.index_of(union, node)


def test_of_many_layers_few_are_read_in_vain(
    make_layers: LayersFactory, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = make_layers(lowers=60)
    for number, lower in enumerate(layers.lowers):
        for which in range(5):
            (lower / f"file{number}-{which}").write_bytes(b"")
    union = open_union(layers)
    monkeypatch.setattr(merge, "INLINE_NAMES", 100)
    layer = merge.LayerScan
    read: list[object] = []

    def counted(*where: Any) -> merge.LayerScan:
        read.append(where)
        return layer(*where)

    monkeypatch.setattr(merge, "LayerScan", counted)
    with pytest.raises(ScanNeeded) as needed:
        merge.index_of(union, union.root)
    assert needed.value.shows_something
    assert len(read) < 20
    scanned(Scan(union, union.root))
    assert len(merge.index_of(union, union.root).names) == 300
