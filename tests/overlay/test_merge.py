"""Does every name of a merged index keep its position, and are new ones found without an end?"""

from __future__ import annotations

import errno
import os
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion
from tests.support.mounts import Layers
from unionfs.overlay import merge
from unionfs.overlay import union as union_module
from unionfs.overlay.lookup import lookup
from unionfs.overlay.merge import MergedIndex
from unionfs.overlay.node import DirNode
from unionfs.overlay.union import Union

REGULAR, DIRECTORY = 0o100000, 0o40000
NAMES = st.integers(0, 12).map(lambda number: b"name%d" % number)


class Listing:
    """A listing under way: where it is, what it has seen, and which names have been there all the time since it began."""

    def __init__(self, present: set[bytes]) -> None:
        self.position = 2
        self.seen: list[bytes] = []
        self.stayed = set(present)


class IndexMachine(RuleBasedStateMachine):
    """Any order of changes and of steps of several listings."""

    def __init__(self) -> None:
        super().__init__()
        self.index = MergedIndex()
        self.present: dict[bytes, int] = {}
        self.listings: list[Listing] = []

    @initialize(names=st.lists(NAMES, unique=True))
    def scan(self, names: list[bytes]) -> None:
        for name in names:
            self.index.add_scanned(name, REGULAR, 1, ())
            self.present[name] = REGULAR

    @rule(name=NAMES, kind=st.sampled_from([REGULAR, DIRECTORY]))
    def put(self, name: bytes, kind: int) -> None:
        self.index.put(name, kind, 7, ())
        self.present[name] = kind

    @rule(name=NAMES)
    def discard(self, name: bytes) -> None:
        self.index.discard(name)
        self.present.pop(name, None)
        for listing in self.listings:
            listing.stayed.discard(name)

    @rule()
    def begin(self) -> None:
        self.listings.append(Listing(set(self.present)))

    @rule(which=st.integers(0, 5), count=st.integers(1, 4))
    def go_on(self, which: int, count: int) -> None:
        if not self.listings:
            return
        listing = self.listings[which % len(self.listings)]
        for (name, entry), _ in zip(self.index.after(listing.position), range(count), strict=False):
            assert entry.cookie > listing.position
            listing.position = entry.cookie
            listing.seen.append(name)

    @invariant()
    def is_what_it_should_be(self) -> None:
        assert {name: entry.kind for name, entry in self.index.names.items()} == self.present
        listed = list(self.index.after(0))
        assert {name for name, _ in listed} == self.present.keys()
        assert len(listed) == len(self.present)
        cookies = [entry.cookie for _, entry in listed]
        assert cookies == sorted(set(cookies))
        assert all(2 < cookie < 1 << 31 for cookie in cookies)
        for name, entry in listed:
            assert [other for other, _ in self.index.after(entry.cookie)] == [
                other for other, found in listed if found.cookie > entry.cookie
            ]
            assert self.index.names[name] is entry

    def teardown(self) -> None:
        for listing in self.listings:
            listing.seen += [name for name, _ in self.index.after(listing.position)]
            assert listing.stayed <= set(listing.seen), "lost"
            assert all(listing.seen.count(name) == 1 for name in listing.stayed), "twice"


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=100, stateful_step_count=40)


def test_a_listing_ends_however_many_names_are_made() -> None:
    index = MergedIndex()
    for number in range(10):
        index.add_scanned(b"%d" % number, REGULAR, 1, ())
    position, seen = 2, 0
    while rest := list(index.after(position))[:1]:
        position, seen = rest[0][1].cookie, seen + 1
        index.put(b"new%d" % seen, REGULAR, 1, ())
    assert seen == 10


def test_a_directory_that_is_emptied_name_by_name_is_not_searched_anew_each_time() -> None:
    """As a program does that takes the first name, removes it, and begins again."""
    index = MergedIndex()
    for number in range(20_000):
        index.add_scanned(b"%d" % number, REGULAR, 1, ())
    began = time.monotonic()
    for number in range(20_000):
        name, _ = next(index.after(0))
        assert name == b"%d" % number
        index.discard(name)
    assert list(index.after(0)) == []
    assert time.monotonic() - began < 5


def test_positions_run_out_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_LOWEST", merge._MIDDLE - 2)
    index = MergedIndex()
    index.put(b"a", REGULAR, 1, ())
    index.put(b"b", REGULAR, 1, ())
    with pytest.raises(OSError, match="Errno") as failed:
        index.put(b"c", REGULAR, 1, ())
    assert failed.value.errno == errno.ENOSPC
    index.put(b"a", DIRECTORY, 2, ())
    assert index.names[b"a"][1:3] == (DIRECTORY, 2)


def test_what_an_index_knows_of_a_name(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    layers = make_layers(lowers=2)
    for place in (layers.top, *layers.lowers):
        (place / "d").mkdir()
    (layers.lowers[0] / "file").write_bytes(b"")
    (layers.lowers[1] / "file").write_bytes(b"")
    (layers.lowers[1] / "link").symlink_to("x")
    os.mkfifo(layers.top / "fifo")
    union = open_union(layers)
    names = merge.index_of(union, union.root).names
    assert {name: (entry.kind >> 12, [real.layer.number for real in entry.reals]) for name, entry in names.items()} == {
        b"d": (4, [0, 1, 2]),
        b"file": (8, [1]),
        b"link": (10, [2]),
        b"fifo": (1, [0]),
    }
    assert names[b"file"].ino == (layers.lowers[0] / "file").stat().st_ino
    assert names[b"fifo"].ino == 0, "may have an origin: the node has to say"


def directory(union: Union, name: bytes) -> DirNode:
    """The node of a directory in the root."""
    found = lookup(union, union.root, name)
    assert found is not None
    assert isinstance(found[0], DirNode)
    return found[0]


def test_the_oldest_indexes_go_when_memory_is_short(
    layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        for name in range(10):
            (layers.lowers[0] / f"d{number}").mkdir(exist_ok=True)
            (layers.lowers[0] / f"d{number}" / f"{name}").write_bytes(b"")
    monkeypatch.setattr(union_module, "_MOST_NAMES", 45)
    monkeypatch.setattr(merge, "_LISTING_SECONDS", -1.0)
    union = open_union(layers)
    nodes = [directory(union, b"d%d" % number) for number in range(10)]
    for node in nodes:
        assert len(merge.index_of(union, node).names) == 10
    assert [node.index is not None for node in nodes] == [False] * 6 + [True] * 4
    for node in nodes:
        union.forget(node.nodeid, 0)
    assert union._indexed == 0


def test_an_index_in_use_stays(layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (layers.lowers[0] / f"d{number}" / "inner").mkdir(parents=True)
    monkeypatch.setattr(union_module, "_MOST_NAMES", 2)
    union = open_union(layers)
    nodes = [directory(union, b"d%d" % number) for number in range(5)]
    for node in nodes:
        assert [name for name, _ in merge.index_of(union, node).after(0)] == [b"inner"]
    assert all(node.index is not None for node in nodes), "its positions would not be the same again"
