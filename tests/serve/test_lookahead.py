"""Is an answer made ahead ever a wrong one, and does the kernel's count of lookups hold with it?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.serve.fake_kernel import PATIENCE, ROOT, FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from tests.wire.answers import Dirent
from unionfs.linux import stat
from unionfs.overlay.node import Node
from unionfs.serve.directories import Directories

FILES = 60
SIZE = 2000
"""Bytes of a part: some ten entries."""


@pytest.fixture
def many(layers: Layers) -> Iterator[FakeKernel]:
    """A server of a directory of files, every third of them an upper one."""
    for number in range(FILES):
        (layers.top if number % 3 == 0 else layers.lowers[0]).joinpath(f"file{number}").write_bytes(b"four")
    with fake_kernel(layers) as connection:
        yield connection


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the server does by itself."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_ready(connection: FakeKernel) -> bool:
    """Is there an answer made ahead?"""
    return connection.session._ahead.ready


def part(connection: FakeKernel, offset: int = 0) -> list[Dirent]:
    """A part of the listing that ends before the end; the next one has been made when this returns."""
    entries = connection.page(ROOT, offset, SIZE, plus=True)
    until(lambda: is_ready(connection))
    return entries


def settled(connection: FakeKernel) -> bool:
    """Has the server made nothing ahead, though it had the time?  It answers twice with nothing to do in between."""
    for _ in range(2):
        connection.settle()
        time.sleep(0.02)
    return not is_ready(connection)


def nodes_of(entries: list[Dirent]) -> list[tuple[str, answers.Node]]:
    """The entries that name a node."""
    return [(os.fsdecode(entry.name), entry.node) for entry in entries if entry.node is not None and entry.node.nodeid]


def test_the_next_part_costs_nothing_any_more(many: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it was asked of the layers before; attributes and places are those of a listing without."""
    asked = 0
    true_stat = stat.stat

    def counting(*where: object) -> stat.Stat:
        nonlocal asked
        asked += 1
        return true_stat(*where)  # type: ignore[arg-type]

    expected = many.listing(ROOT, SIZE, plus=True)
    first = part(many)
    monkeypatch.setattr(Directories, "make_ahead", lambda self: False)
    monkeypatch.setattr(stat, "stat", counting)
    monkeypatch.setattr(stat, "find", counting)
    second = many.page(ROOT, first[-1].off, SIZE, plus=True)
    assert asked == 0
    monkeypatch.undo()
    for entry, same in zip(second, expected[len(first) :], strict=False):
        assert (entry.name, entry.ino, entry.off) == (same.name, same.ino, same.off)
    for name, node in nodes_of(second):
        assert many.lookup(name) == node


def test_every_node_counts_once_a_time_it_was_named(many: FakeKernel) -> None:
    """Also those of a part that was made in vain."""
    named: list[int] = []
    for again in range(3):
        offset = 0
        while entries := many.page(ROOT, offset, SIZE, plus=True):
            named += [node.nodeid for _, node in nodes_of(entries)]
            offset = entries[-1].off
            if again:
                time.sleep(0.002)
    assert len(named) == 3 * FILES
    first = part(many)
    named += [node.nodeid for _, node in nodes_of(first)]
    many.send(kernel.batch_forget([(nodeid, 1) for nodeid in named]))
    many.settle()
    assert set(many.union.inodes.by_id) == {ROOT}


def change_mode(connection: FakeKernel, nodeid: int) -> None:
    connection.ok(kernel.setattr_(nodeid, 1, mode=0o600))


def remove(connection: FakeKernel, nodeid: int) -> None:
    connection.ok(kernel.unlink(ROOT, _name(connection, nodeid)))


def rename(connection: FakeKernel, nodeid: int) -> None:
    connection.ok(kernel.rename(ROOT, _name(connection, nodeid), ROOT, b"renamed"))


def truncate(connection: FakeKernel, nodeid: int) -> None:
    connection.ok(kernel.open_(nodeid, os.O_WRONLY | os.O_TRUNC))


def link(connection: FakeKernel, nodeid: int) -> None:
    connection.ok(kernel.link(ROOT, b"second name", nodeid))


def _name(connection: FakeKernel, nodeid: int) -> bytes:
    node = connection.union.inodes.by_id[nodeid]
    assert isinstance(node, Node)
    return node.name


@pytest.mark.parametrize("change", [change_mode, remove, rename, truncate, link])
@pytest.mark.parametrize("which", ["upper", "lower"])
def test_a_change_counts(change: Callable[[FakeKernel, int], None], which: str, many: FakeKernel) -> None:
    """What was made ahead before it is not used."""
    names = [entry.name for entry in many.listing(ROOT, SIZE)]
    seen = part(many)
    while not (fitting := [name for name in names[len(seen) :][:5] if (int(name[4:]) % 3 == 0) == (which == "upper")]):
        seen += part(many, seen[-1].off)
    name = fitting[0]
    nodeid = many.lookup(os.fsdecode(name)).nodeid
    assert is_ready(many)
    change(many, nodeid)
    second = dict(nodes_of(many.page(ROOT, seen[-1].off, SIZE, plus=True)))
    if change in (remove, rename):
        assert os.fsdecode(name) not in second
    else:
        assert second[os.fsdecode(name)] == many.lookup(os.fsdecode(name))


def test_nothing_is_made_while_a_file_is_open_for_writing(many: FakeKernel, layers: Layers) -> None:
    """The kernel writes without a word: attributes are asked for at the last moment."""
    node = many.lookup("file0")
    fh = answers.opened(many.ok(kernel.open_(node.nodeid, os.O_WRONLY))).fh
    offset, found = 0, dict[str, answers.Node]()
    while "file0" not in found:
        with open(layers.top / "file0", "ab") as behind_the_back:
            behind_the_back.write(b"more")
        entries = many.page(ROOT, offset, SIZE, plus=True)
        assert settled(many)
        found, offset = dict(nodes_of(entries)), entries[-1].off
    assert found["file0"].attr.size == (layers.top / "file0").stat().st_size
    many.ok(kernel.release(node.nodeid, fh, os.O_WRONLY))
    part(many)


def test_who_reads_files_meanwhile_gets_it_less_and_less(many: FakeKernel) -> None:
    """An OPEN makes every part made ahead a vain one: soon none is made any more, but for a trial now and then."""
    node = many.lookup("file0")
    made = 0
    for _ in range(70):
        many.page(ROOT, 0, SIZE, plus=True)
        many.settle()
        time.sleep(0.002)
        made += is_ready(many)
        fh = answers.opened(many.ok(kernel.open_(node.nodeid, os.O_RDONLY))).fh
        many.ok(kernel.release(node.nodeid, fh, os.O_RDONLY))
    assert 1 <= made <= 10
