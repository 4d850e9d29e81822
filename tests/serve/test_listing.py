"""Does a listing in pieces show every name that stayed exactly once, whatever is made and removed meanwhile?"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LayersFactory
from tests.serve.fake_kernel import ROOT, FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from tests.wire.answers import Dirent
from unionfs.overlay import union as union_module

LOWER_NAMES = 120
FEW = 30
SMALLEST = 24 + 256
"""Bytes in which every entry fits; with its node, 128 more."""

fuzz = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def wide(layers: Layers) -> Iterator[FakeKernel]:
    """A server of a directory of many names in both layers."""
    for number in range(LOWER_NAMES):
        (layers.lowers[0] / name_of(number)).write_bytes(b"")
        if number % 5 == 0:
            (layers.top / f"own {name_of(number)}").write_bytes(b"")
    with fake_kernel(layers) as connection:
        yield connection


def name_of(number: int) -> str:
    """Names of many lengths."""
    return f"{number}-" + "x" * (number * 7 % 90)


def names(entries: list[Dirent]) -> list[str]:
    """All but `.` and `..`."""
    return [os.fsdecode(entry.name) for entry in entries if entry.name not in (b".", b"..")]


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [SMALLEST + 128, 500, 1000, 4096, 1 << 17])
def test_in_pieces_of_any_size(size: int, plus: bool, wide: FakeKernel) -> None:
    entries = wide.listing(ROOT, size, plus)
    assert [entry.name for entry in entries[:2]] == [b".", b".."]
    found = names(entries)
    assert len(found) == len(set(found)) == LOWER_NAMES + LOWER_NAMES // 5
    offsets = [entry.off for entry in entries]
    assert offsets == sorted(set(offsets)), "positions grow"
    assert offsets[-1] < 1 << 31


@pytest.mark.parametrize("plus", [False, True])
def test_any_position_leads_on(plus: bool, wide: FakeKernel) -> None:
    entries = wide.listing(ROOT, 4096, plus)
    for number in (0, 1, 2, 50, len(entries) - 2, len(entries) - 1):
        rest = wide.page(ROOT, entries[number].off, 1 << 17, plus)
        assert [entry.name for entry in rest] == [entry.name for entry in entries[number + 1 :]]
    assert names(wide.page(ROOT, (1 << 63) - 1, 4096, plus)) == []


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [0, 1, 23, 24, 31, 32, 63, 64, 152, 159, 160, 161])
def test_a_buffer_too_small_is_not_exceeded(size: int, plus: bool, wide: FakeKernel) -> None:
    assert len(wide.page(ROOT, 0, size, plus)) <= (size // 160 if plus else size // 32)


@pytest.mark.parametrize("plus", [False, True])
def test_types_and_numbers(plus: bool, connection: FakeKernel) -> None:
    kinds = {b"dir": 4, b"file": 8, b"large": 8, b"own": 8, b"symlink": 10, b".": 4, b"..": 4}
    entries = {entry.name: entry for entry in connection.listing(ROOT, plus=plus)}
    assert {name: entry.type for name, entry in entries.items()} == kinds
    for name in kinds.keys() - {b".", b".."}:
        node = connection.lookup(os.fsdecode(name))
        assert entries[name].ino == node.attr.ino
        if plus:
            assert entries[name].node == node
    assert entries[b"."].ino == entries[b".."].ino == answers.attributes(connection.ok(kernel.getattr_(ROOT)))[1].ino
    directory = connection.lookup("dir")
    inner = {entry.name: entry.ino for entry in connection.listing(directory.nodeid, plus=plus)}
    assert (inner[b"."], inner[b".."]) == (directory.attr.ino, entries[b"."].ino)


class Directory:
    """A directory of a fresh union that changes while it is listed.

    present: its names now.  stayed: those that were there all the time.  ever: all that were there at some time.
    """

    def __init__(self, connection: FakeKernel, nodeid: int) -> None:
        self._connection = connection
        self._nodeid = nodeid
        self._made = 0
        self.present = {name_of(number) for number in range(FEW)}
        self.stayed = set(self.present)
        self.ever = set(self.present)

    def change(self, what: str, number: int, other: int) -> None:
        """Make one change, if it can be made; the numbers choose names."""
        if len(self.present) < 2:
            return
        one, two = (sorted(self.present)[place % len(self.present)] for place in (number, other))
        match what:
            case "make":
                self._make(self._new_name())
            case "remove":
                self._ok(kernel.unlink(self._nodeid, os.fsencode(one)))
                self._gone(one)
            case "remake":
                self._ok(kernel.unlink(self._nodeid, os.fsencode(one)))
                self._gone(one)
                self._make(one)
            case "rename":
                new = self._new_name()
                self._ok(kernel.rename(self._nodeid, os.fsencode(one), self._nodeid, os.fsencode(new)))
                self._gone(one)
                self._there(new)
            case "replace" if not self._same(one, two):
                # As an editor saves: the name is there all the time (rename(2)).
                self._ok(kernel.rename(self._nodeid, os.fsencode(one), self._nodeid, os.fsencode(two)))
                self._gone(one)
            case "exchange" if one != two:
                self._ok(kernel.rename2(self._nodeid, os.fsencode(one), self._nodeid, os.fsencode(two), 2))
            case "copy up":
                node = self._connection.lookup(one, self._nodeid)
                self._ok(kernel.setattr_(node.nodeid, 1, mode=0o100600))
            case "link":
                node, new = self._connection.lookup(one, self._nodeid), self._new_name()
                self._ok(kernel.link(self._nodeid, os.fsencode(new), node.nodeid))
                self._there(new)

    def _same(self, one: str, two: str) -> bool:
        """Are they names of one inode?  Then rename(2) does nothing, and the kernel does not even ask."""
        return self._connection.lookup(one, self._nodeid).nodeid == self._connection.lookup(two, self._nodeid).nodeid

    def _ok(self, message: bytes) -> None:
        self._connection.ok(message)

    def _new_name(self) -> str:
        self._made += 1
        return f"made{self._made}"

    def _make(self, name: str) -> None:
        self._ok(kernel.mknod(self._nodeid, os.fsencode(name), 0o100644))
        self._there(name)

    def _there(self, name: str) -> None:
        self.present.add(name)
        self.ever.add(name)

    def _gone(self, name: str) -> None:
        self.present.remove(name)
        self.stayed.discard(name)


WHAT = ["make", "remove", "remake", "rename", "replace", "exchange", "copy up", "link"]
PLACE = st.integers(0, FEW)
ROUNDS = st.lists(st.lists(st.tuples(st.sampled_from(WHAT), PLACE, PLACE), max_size=6), max_size=12)


@fuzz
@given(plus=st.booleans(), size=st.integers(SMALLEST + 128, 900), rounds=ROUNDS)
def test_changes_between_the_pieces(
    plus: bool, size: int, rounds: list[list[tuple[str, int, int]]], make_layers: LayersFactory
) -> None:
    layers = make_layers()
    for place, wanted in ((layers.lowers[0], 0), (layers.top, 1)):
        (place / "d").mkdir()
        for number in range(FEW):
            if number % 3 == wanted or (number % 3 == 2 and not wanted):
                (place / "d" / name_of(number)).write_bytes(b"")
    with fake_kernel(layers) as connection:
        here = connection.lookup("d").nodeid
        directory = Directory(connection, here)
        seen = connection.page(here, 0, size, plus)
        for changes in rounds:
            for change in changes:
                directory.change(*change)
            seen += connection.page(here, seen[-1].off, size, plus)
        while page := connection.page(here, seen[-1].off, size, plus):
            seen += page
        found = names(seen)
        assert directory.stayed - set(found) == set(), "lost"
        assert set(found) - directory.ever == set(), "never there"
        assert {name for name in directory.stayed if found.count(name) > 1} == set(), "twice"
        assert sorted(names(connection.listing(here, plus=plus))) == sorted(directory.present)


def test_making_files_while_listing_comes_to_an_end(wide: FakeKernel) -> None:
    """As many new names as are read: the listing ends all the same."""
    seen = wide.page(ROOT, 0, 600)
    for made in range(200):
        for number in range(10):
            wide.ok(kernel.mknod(ROOT, b"new%d-%d" % (made, number), 0o100644))
        if not (page := wide.page(ROOT, seen[-1].off, 600)):
            break
        seen += page
    assert made < 199


@pytest.mark.parametrize("plus", [False, True])
def test_removing_everything_piece_by_piece(plus: bool, wide: FakeKernel) -> None:
    """As `rm -r` does it."""
    offset = 0
    while page := wide.page(ROOT, offset, 700, plus):
        for name in names(page):
            wide.ok(kernel.unlink(ROOT, os.fsencode(name)))
        offset = page[-1].off
    assert names(wide.listing(ROOT)) == []


def test_an_index_that_was_dropped_meanwhile(wide: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With very many names in memory the oldest index goes; a listing under way must not lose a name by that."""
    monkeypatch.setattr(union_module, "_MOST_NAMES", 1)
    wide.ok(kernel.mkdir(ROOT, b"d", 0o755))
    directory = wide.lookup("d").nodeid
    wide.ok(kernel.mknod(directory, b"in d", 0o100644))
    before = set(names(wide.listing(ROOT)))
    seen = wide.page(ROOT, 0, 2000)
    removed = [name for name in names(seen) if name != "d"][:5]
    for name in removed:
        wide.ok(kernel.unlink(ROOT, os.fsencode(name)))
    while True:
        wide.listing(directory)
        if not (page := wide.page(ROOT, seen[-1].off, 2000)):
            break
        seen += page
    assert before - set(names(seen)) == set()
    assert len(names(seen)) == len(set(names(seen)))


def test_what_is_no_directory(connection: FakeKernel) -> None:
    file = connection.lookup("file").nodeid
    for message in (kernel.readdir(file, 0, 0, 4096), kernel.readdirplus(file, 0, 0, 4096)):
        assert connection.error(message) == errno.ENOTDIR


@pytest.mark.parametrize("size", [0, 1, 4, 5, 6, 4096])
def test_no_answer_is_longer_than_asked_for(size: int, connection: FakeKernel) -> None:
    file = connection.lookup("file").nodeid
    fh = answers.opened(connection.ok(kernel.open_(file, os.O_RDONLY))).fh
    assert connection.ok(kernel.read(file, fh, 0, size)) == b"below"[:size]
    value = connection.ask(kernel.getxattr(file, b"user.colour", size))
    if size == 0:
        assert value.body == struct.pack("=II", 3, 0)
    else:
        assert (value.error, value.body) == ((0, b"red") if size >= 3 else (-errno.ERANGE, b""))
    listed = connection.ask(kernel.listxattr(file, size))
    if size == 0:
        assert listed.body == struct.pack("=II", 12, 0)
    else:
        assert (listed.error, listed.body) == ((0, b"user.colour\0") if size >= 12 else (-errno.ERANGE, b""))
