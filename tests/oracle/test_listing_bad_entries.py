"""Does one entry that cannot be looked up leave the others of its directory in sight?"""

from __future__ import annotations

import os

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers

STRICT = {"redirect_dir": "nofollow"}


def redirect(b: Builder) -> None:
    """A merged directory that says its lower one has another name."""
    b.upper.dir("bad")
    b.lower().dir("bad")
    b.upper.xattr("bad", "trusted.overlay.redirect", b"old")


def redirect_of_the_middle(b: Builder) -> None:
    """As `redirect`, said by a lower layer."""
    for number in (0, 1):
        b.lower(number).dir("bad")
    b.lower(0).xattr("bad", "trusted.overlay.redirect", b"old")


def metacopy(b: Builder) -> None:
    """A file whose data lie elsewhere."""
    b.upper.sparse("bad", 100, {})
    b.upper.xattr("bad", "trusted.overlay.metacopy", b"")


BAD = {"redirect": redirect, "redirect of the middle": redirect_of_the_middle, "metacopy": metacopy}


def look(a: Actor) -> None:
    """List the directory, each way, and look at everything in it."""
    for _ in range(2):
        a(ops.ls)
        fd = a.fd(".", os.O_RDONLY | os.O_DIRECTORY)
        a(ops.ls_in_pieces, fd, 80)
        os.close(fd)
        a(ops.run, "ls", "-f", ".")
        for name in ("above", "below", "dir/inside", "bad"):
            a(ops.lstat, name)
    a(os.rename, "bad", "moved")
    a(ops.fails_or_not, os.unlink, "bad")
    a(ops.read, "below")
    a(ops.create, "new", b"x")
    a(ops.ls)


@pytest.mark.parametrize("kind", BAD)
def test_others_are_listed(kind: str, make_layers: LayersFactory, subject: Driver) -> None:
    def fill(layers: Layers, b: Builder) -> None:
        b.lower().file("below", b"below")
        b.lower().file("dir/inside")
        b.upper.file("above", b"above")
        BAD[kind](b)

    ours, kernel = both(make_layers, subject, fill, look_sorted, lowers=2, ours=STRICT, theirs=STRICT)
    assert ours == kernel
    assert ours[0] == "ls() -> ok = ['above', 'bad', 'below', 'dir']"


def look_sorted(a: Actor) -> None:
    """As `look`; the order in which `ls -f` prints is nobody's promise."""
    look(a)
    a.steps = [step for step in a.steps if not step.label.startswith("run(")] + [
        type(step)(step.label, step.outcome, sorted(bytes(step.value[1]).split(b"\n")))
        for step in a.steps
        if step.label.startswith("run(") and isinstance(step.value, tuple)
    ]


@pytest.mark.parametrize("kind", BAD)
def test_the_bad_entry_itself_is_refused(kind: str, make_layers: LayersFactory, subject: Driver) -> None:
    layers = make_layers(lowers=2)
    BAD[kind](Builder(layers, "."))
    with subject.mount(layers, STRICT) as mnt:
        assert os.listdir(mnt) == ["bad"]
        with pytest.raises(OSError, match="Errno"):
            os.lstat(mnt / "bad")
        assert [entry.name for entry in os.scandir(mnt)] == ["bad"]
