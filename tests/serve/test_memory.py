"""Is dead memory given back, and are looks for cycles of dead objects kept short?"""

from __future__ import annotations

import gc

import pytest

from tests.overlay.conftest import OpenUnion, open_union
from tests.support.mounts import Layers
from unionfs.overlay.node import Node
from unionfs.serve import memory

__all__ = ["open_union"]

MANY = 40_000


def test_what_a_long_look_saw_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = list(gc.callbacks)
    monkeypatch.setattr(memory, "_LONGEST", 0)
    with memory.short_collections():
        before = gc.get_freeze_count()
        made: list[list[int]] = [[] for _ in range(1000)]
        gc.collect()
        assert gc.get_freeze_count() >= before + len(made)
    assert gc.get_freeze_count() == 0
    assert gc.callbacks == callbacks


def test_short_looks_are_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LONGEST", 1 << 60)
    with memory.short_collections():
        before = gc.get_freeze_count()
        assert before > 1000, "the modules"
        made: list[list[int]] = [[] for _ in range(1000)]
        gc.collect()
        assert gc.get_freeze_count() <= before
        assert len(made) == 1000


def test_the_table_shrinks_when_most_nodes_are_gone(
    layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[None] = []
    monkeypatch.setattr("unionfs.linux.memory.give_back", lambda: trims.append(None))
    union = open_union(layers)
    inodes = union.inodes
    for number in range(MANY):
        inodes.enroll(Node(0o100000, number, union.root, b"%d" % number, None, False))
    memory.give_back(union)
    assert not trims
    for nodeid in [nodeid for nodeid in inodes.by_id if nodeid > 10]:
        inodes.forget(nodeid, 1)
    memory.give_back(union)
    assert len(trims) == 1
    assert sorted(inodes.by_id) == list(range(1, 11))
    memory.give_back(union)
    assert len(trims) == 1
