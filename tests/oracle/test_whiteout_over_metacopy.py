"""Can an object be changed above a lower one that itself can't be shown?"""

from __future__ import annotations

import os

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers

STRICT = {"redirect_dir": "nofollow"}
NAMES = ("removed", "away", "over", "exchanged", "replaced")


def fill(layers: Layers, b: Builder) -> None:
    """Upper files, each above a lower one of the same name whose data lie in a layer that is not there."""
    for name in NAMES:
        b.lower().sparse(name, 100, {})
        b.lower().xattr(name, "trusted.overlay.metacopy", b"")
        b.upper.file(name, name.encode())
    for name in ("source", "partner"):
        b.upper.file(name, name.encode())


def change(a: Actor) -> None:
    """Remove, rename away, rename over, remove and make again."""
    a(os.unlink, "removed")
    a(os.rename, "away", "gone-away")
    a(os.rename, "source", "over")
    a(os.rename, "exchanged", "partner")
    a(os.unlink, "replaced")
    a(ops.create, "replaced", b"again")
    a(ops.ls)
    for name in ("gone-away", "over", "partner", "replaced"):
        a(ops.read, name)
    for name in ("removed", "away"):
        a(ops.lstat, name)


def test_an_upper_object_above_a_metacopy(make_layers: LayersFactory, subject: Driver) -> None:
    ours, kernel = both(make_layers, subject, fill, change, ours=STRICT, theirs=STRICT)
    assert ours == kernel
    assert not any(line.endswith("EPERM") for line in ours)
