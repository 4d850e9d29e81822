"""Does a long listing let others go on, and is it still whole and counted right?"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.serve.fake_kernel import ROOT, FakeKernel, fake_kernel
from tests.serve.test_lookahead import is_ready, nodes_of, until
from tests.support.mounts import Layers
from tests.wire import kernel
from unionfs.serve import directories

FILES = 300
AT_ONCE = 20
SIZE = 1 << 16
"""Bytes of a part: more than all entries take."""


class Others:
    """Stands for the device: says whether somebody waits."""

    def __init__(self) -> None:
        self.are_waiting = False
        self.looks = 0

    def poll(self, timeout: int) -> bool:
        self.looks += 1
        return self.are_waiting


@pytest.fixture
def many(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A server of a directory of files, on both layers, that looks for others after every 20 entries."""
    monkeypatch.setattr(directories, "_ENTRIES_AT_ONCE", AT_ONCE)
    for number in range(FILES):
        (layers.top if number % 3 == 0 else layers.lowers[0]).joinpath(f"file{number}").write_bytes(b"")
    with fake_kernel(layers) as connection:
        yield connection


@pytest.fixture
def others(many: FakeKernel) -> Others:
    """Whether others wait is what the test says."""
    server = many.session._server
    assert server is not None
    found = Others()
    server.directories._poll = found.poll  # type: ignore[assignment]
    return found


def forget_all(many: FakeKernel, named: list[int]) -> None:
    """The kernel forgets each node as often as it was told of it: then the server knows none of them any more."""
    many.send(kernel.batch_forget([(nodeid, 1) for nodeid in named]))
    many.settle()
    assert set(many.union.inodes.by_id) == {ROOT}


@pytest.mark.parametrize("plus", [False, True])
def test_a_part_ends_when_somebody_waits(plus: bool, many: FakeKernel, others: Others) -> None:
    others.are_waiting = True
    assert AT_ONCE - 2 <= len(many.page(ROOT, 0, SIZE, plus)) <= AT_ONCE + 2
    names = [entry.name for entry in many.listing(ROOT, SIZE, plus)]
    assert len(names) == len(set(names)) == FILES + 2


def test_a_part_is_whole_when_nobody_does(many: FakeKernel, others: Others) -> None:
    assert len(many.page(ROOT, 0, SIZE, plus=True)) == FILES + 2
    assert others.looks == FILES // AT_ONCE


def test_a_part_made_ahead_is_finished_when_it_is_asked_for(many: FakeKernel, others: Others) -> None:
    """As large as if nobody had interrupted, each node counted once."""
    others.are_waiting = True
    first = many.page(ROOT, 0, SIZE, plus=True)
    until(lambda: is_ready(many))
    others.are_waiting = False
    second = many.page(ROOT, first[-1].off, SIZE, plus=True)
    names = [entry.name for entry in (*first, *second)]
    assert len(names) == len(set(names)) == FILES + 2
    forget_all(many, [node.nodeid for _, node in nodes_of([*first, *second])])


def test_a_part_made_ahead_in_vain_is_not_counted(many: FakeKernel, others: Others) -> None:
    others.are_waiting = True
    first = many.page(ROOT, 0, SIZE, plus=True)
    until(lambda: is_ready(many))
    many.ok(kernel.unlink(ROOT, os.fsencode(first[-1].name)))
    forget_all(many, [node.nodeid for _, node in nodes_of(first)])


def test_names_that_have_gone_do_not_end_a_listing(many: FakeKernel, others: Others, layers: Layers) -> None:
    """An answer without entries would."""
    first = many.page(ROOT, 0, 200, plus=True)
    others.are_waiting = True
    listed = [entry.name for entry in many.listing(ROOT, SIZE)]
    for name in listed[2 : 2 + 2 * AT_ONCE]:
        # Behind the server's back, as by a mistake: the index still has them.
        (layers.top if int(name[4:]) % 3 == 0 else layers.lowers[0]).joinpath(os.fsdecode(name)).unlink()
    entries = many.page(ROOT, 2, SIZE, plus=True)
    assert first
    assert entries[0].name == listed[2 + 2 * AT_ONCE]
