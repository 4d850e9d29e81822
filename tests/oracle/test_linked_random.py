"""Do random changes of names and data of hard links come out as with the kernel's overlayfs, with the index on, and crosswise?"""

from __future__ import annotations

import os
import random

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor, perform
from tests.oracle.case import Builder, Steps
from tests.oracle.pair import LayersFactory
from tests.support.mounts import Driver, Kernel, Layers, Options
from tests.support.syscalls import RENAME_EXCHANGE, renameat2
from tests.support.trees import snapshot

NAMES = ("a", "b", "d/a", "d/b", "d/e/a", "d/e/b", "new", "d/new")
ROUNDS = 3
CHANGES = 14


def fill(b: Builder, chance: random.Random) -> None:
    """Some names of two files in two layers, and one file with one name."""
    for layer in (b.lower(0), b.lower(1)):
        layer.dir("d/e")
        names = chance.sample(NAMES[:6], 5)
        size = chance.choice((10, 400_000))
        layer.file(names[0], os.fsencode(names[0]) * size)
        layer.link(names[0], names[1])
        layer.link(names[0], names[2])
        layer.file(names[3], b"other")
        layer.link(names[3], names[4])


def changes(seed: int) -> Steps:
    """A sequence of random calls, the same for each who runs it."""

    def steps(a: Actor) -> None:
        chance = random.Random(seed)
        for number in range(CHANGES):
            one, other = chance.sample(NAMES, 2)
            kind = chance.randrange(9)
            if kind == 0:
                a(ops.write, one, b"by %d" % number)
            elif kind == 1:
                a(ops.write, one, b"cut %d" % number, os.O_WRONLY | os.O_TRUNC)
            elif kind == 2:
                a(os.chmod, one, 0o600 + number)
            elif kind in (3, 4):
                a(os.unlink, one)
            elif kind == 5:
                a(os.link, one, other)
            elif kind == 6:
                a(os.rename, one, other)
            elif kind == 7:
                a(renameat2, one, other, RENAME_EXCHANGE)
            else:
                a(ops.create, one, b"new %d" % number)
            for name in NAMES:
                a(ops.lstat, name)
            a(ops.listing, chance.choice((".", "d", "d/e")))

    return steps


@pytest.mark.parametrize("options", [{"index": "on"}, {"index": "on", "nfs_export": "on"}], ids=["index", "nfs_export"])
@pytest.mark.parametrize("seed", range(12))
def test_crosswise(seed: int, options: Options, make_layers: LayersFactory, subject: Driver) -> None:
    """Three mounts of one upper layer, each by another implementation, against three mounts by the kernel alone."""
    answers: list[list[str]] = []
    trees = []
    for name, drivers in (("ours", (subject, Kernel(), subject)), ("kernel", (Kernel(),) * 3)):
        layers = make_layers(2, name=name)
        fill(Builder(layers, "."), random.Random(seed))
        answers.append([])
        for number, driver in enumerate(drivers):
            answers[-1] += _one_mount(driver, layers, options, seed * ROUNDS + number)
        with Kernel().mount(layers, options) as mnt:
            trees.append({path: record.without(("mtime_ns", "nlink", "same")) for path, record in snapshot(mnt).items()})
    differing = [(ours, kernel) for ours, kernel in zip(*answers, strict=True) if ours != kernel]
    assert not differing, differing[:3]
    assert trees[0] == trees[1]


def _one_mount(driver: Driver, layers: Layers, options: Options, seed: int) -> list[str]:
    with driver.mount(layers, options) as mnt:
        return [str(step) for step in perform(changes(seed), mnt, mnt)]
