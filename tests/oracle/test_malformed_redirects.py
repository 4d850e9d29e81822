"""Is a directory refused whose redirect is none, as overlayfs refuses it, and one that leads nowhere shown?"""

from __future__ import annotations

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers

MARKS = {
    "empty": b"", "slash inside": b"a/b", "slash at the end": b"/a/", "two slashes": b"/a//b", "root": b"/", "missing": b"gone",
    "nowhere": b"/no/such", "right": b"/right/place",
}  # fmt: skip


def fill(layers: Layers, b: Builder) -> None:
    """One directory for each mark, each with a file in the layer of the mark and in the one below."""
    for name, mark in MARKS.items():
        b.lower(0).file(f"{name}/above", b"x")
        b.lower(0).xattr(name, "trusted.overlay.redirect", mark)
        b.lower(1).file(f"{name}/below", b"y")
    b.lower(1).file("right/place/led here", b"z")


def look(a: Actor) -> None:
    """Every directory, and what is in it."""
    for name in MARKS:
        a(ops.lstat, name)
        a(ops.ls, name)
        for inside in ("above", "below", "led here"):
            a(ops.read, f"{name}/{inside}")


@pytest.mark.parametrize("follow", ["on", "follow", "nofollow"])
def test_as_overlayfs(follow: str, make_layers: LayersFactory, subject: Driver) -> None:
    options = {"redirect_dir": follow}
    ours, kernel = both(make_layers, subject, fill, look, lowers=2, ours=options, theirs=options)
    assert ours == kernel
