"""Marks: what do whiteouts, opaque directories and other private attributes mean, whatever else is on them?

Only what the kernel's overlayfs does well is compared; where its listing and its lookup disagree, test_marks says what ours do.
"""

from __future__ import annotations

import os
import stat

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, LayerBuilder, Steps, Suite

MARKS = Suite("marks", lowers=3)
P = "trusted.overlay."
HIDDEN = ("unknown", "x", "nlink", "upper", "uuid", "whiteout", "impure", "a.b")


def _look(a: Actor, *paths: str) -> None:
    for path in paths:
        a(ops.lstat, path)
        a(ops.xattrs, path)
        a(ops.listing, path)


def _positions(b: Builder) -> dict[str, LayerBuilder]:
    return {"upper": b.upper, "top": b.lower(0), "middle": b.lower(1), "lowest": b.lower(2)}


@MARKS.case
def whiteouts_with_attributes(b: Builder) -> Steps:
    """A device 0:0 is a whiteout whatever its owner, mode and xattrs."""
    for position, layer in _positions(b).items():
        b.lower(2).file(f"{position}/kept", b"k")
        if position != "lowest":
            b.lower(2).file(f"{position}/gone", b"hidden")
        layer.node(f"{position}/gone", stat.S_IFCHR, (0, 0), 0o4755, (5, 6))
        for name, value in (("trusted.other", b"x" * 100), (P + "opaque", b"y"), (P + "redirect", b"kept"), (P + "origin", b"!")):
            layer.xattr(f"{position}/gone", name, value)

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle", "lowest"):
            _look(a, position)
            a(ops.lstat, f"{position}/gone")
            a(ops.create, f"{position}/gone", b"new")
            a(os.unlink, f"{position}/gone")
            a(os.mkdir, f"{position}/gone")
            a(ops.xattrs, f"{position}/gone")
            _look(a, position)

    return steps


@MARKS.case
def devices_that_are_no_whiteouts(b: Builder) -> Steps:
    for position, layer in _positions(b).items():
        layer.node(f"{position}/null", stat.S_IFCHR, (1, 3))
        layer.node(f"{position}/minor", stat.S_IFCHR, (0, 1))
        layer.node(f"{position}/block", stat.S_IFBLK, (0, 0))
        layer.node(f"{position}/fifo", stat.S_IFIFO)

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle", "lowest"):
            _look(a, position)
            a(os.unlink, f"{position}/minor")
            a(ops.lchown, f"{position}/block", 7, 7)
            a(os.rename, f"{position}/null", f"{position}/moved")
            a(ops.listing, position)
        a(os.mknod, "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
        a(os.mknod, "device", stat.S_IFCHR | 0o600, os.makedev(0, 2))
        a(ops.listing)

    return steps


@MARKS.case
def opaque_values(b: Builder) -> Steps:
    """Only `y` hides what is below; nothing else does, however long."""
    values = {
        "y": b"y", "n": b"n", "yes": b"yes", "empty": b"", "capital": b"Y", "zero": b"0", "nul": b"y\0", "space": b" y",
        "long": b"y" * 2000,
    }  # fmt: skip
    for position in ("upper", "top", "middle"):
        layer = _positions(b)[position]
        for name, value in values.items():
            b.lower(2).file(f"{position}/{name}/below", b"b")
            layer.file(f"{position}/{name}/above", b"a")
            layer.xattr(f"{position}/{name}", P + "opaque", value)

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle"):
            for name in values:
                a(ops.ls, f"{position}/{name}")
                a(ops.xattrs, f"{position}/{name}")
                a(os.rename, f"{position}/{name}", f"{position}/{name}-moved")
                a(ops.ls, f"{position}/{name}-moved")

    return steps


@MARKS.case
def private_names(b: Builder) -> Steps:
    """Anything below the prefix is hidden, known or not, and can't be reached; one level deeper it is a user's."""
    for position, layer in _positions(b).items():
        layer.file(f"{position}", b"data")
        for name in (*HIDDEN, "overlay.opaque", "overlay.overlay.deep"):
            layer.xattr(position, P + name, b"value of " + name.encode())
        layer.xattr(position, "user.overlay.opaque", b"y")
        layer.xattr(position, "user.plain", b"1")
        layer.xattr(position, "trusted.overlayx", b"2")

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle", "lowest"):
            a(ops.xattrs, position)
            for name in ("unknown", "x", "opaque", "overlay.deep", "overlay.overlay.none", "new", ""):
                a(os.getxattr, position, P + name)
                a(ops.setxattr, position, P + name, b"set")
                a(os.getxattr, position, P + name)
                a(os.removexattr, position, P + name)
            a(ops.setxattr, position, P + "n" * 230, b"too long once it is escaped")
            a(ops.setxattr, position, P + "n" * 200, b"not too long")
            a(ops.xattrs, position)

    return steps


@MARKS.case
def enormous_private_values(b: Builder) -> Steps:
    for position, layer in _positions(b).items():
        for name in ("opaque", "origin", "impure", "protattr", "nlink", "upper", "uuid", "unknown"):
            layer.file(f"{position}/{name}/inside", b"i")
            layer.xattr(f"{position}/{name}", P + name, b"i" * 2500)
            layer.file(f"{position}/{name}.file", b"f")
            layer.xattr(f"{position}/{name}.file", P + name, b"i" * 2500)
        layer.dir(position)

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle", "lowest"):
            for name in ("opaque", "origin", "impure", "protattr", "nlink", "upper", "uuid", "unknown"):
                a(ops.xattrs, f"{position}/{name}")
                a(ops.ls, f"{position}/{name}")
                a(ops.create, f"{position}/{name}/new", b"n")
                a(ops.write, f"{position}/{name}.file", b"changed")
                a(os.rename, f"{position}/{name}.file", f"{position}/{name}.moved")
                a(ops.xattrs, f"{position}/{name}.moved")

    return steps


@MARKS.case
def protected_by_the_mark(b: Builder) -> Steps:
    """`protattr` on an upper object stands for chattr(1)'s flags, unless there is a letter that nobody knows."""
    values = {name: name.encode() for name in ("i", "a", "ai", "ia", "x", "ix", "xi")}
    values |= {"empty": b"", "long": b"i" * 33}
    for name, value in values.items():
        b.lower(2).file(name, b"below")
        b.upper.file(name, b"above")
        b.upper.xattr(name, P + "protattr", value)
        b.lower(1).file(f"lower-{name}", b"below")
        b.lower(1).xattr(f"lower-{name}", P + "protattr", value)

    def steps(a: Actor) -> None:
        for name in [*values, *(f"lower-{name}" for name in values)]:
            a(ops.write, name, b"+", os.O_WRONLY | os.O_APPEND)
            a(ops.write, name, b"over")
            a(os.chmod, name, 0o600)
            a(os.link, name, f"{name}-link")
            a(os.unlink, name)
            a(ops.read, name)

    return steps


@MARKS.case
def directories_made_again(b: Builder) -> Steps:
    """Removed and made again, moved away and made again, at every depth: nothing old shows."""
    for path in ("d", "d/e", "d/e/f", "moved"):
        for number in range(3):
            b.lower(number).file(f"{path}/old{number}", b"old")

    def steps(a: Actor) -> None:
        for path in ("d/e/f", "d/e", "d"):
            for number in range(3):
                a(os.unlink, f"{path}/old{number}")
            a(os.rmdir, path)
            a(os.mkdir, path)
            a(ops.listing, path)
            a(ops.create, f"{path}/new", b"n")
            a(os.unlink, f"{path}/new")
            a(os.rmdir, path)
            a(os.rmdir, path)
        a(os.mkdir, "d")
        a(os.mkdir, "d/e")
        a(ops.listing, "d/e")
        a(os.rename, "moved", "d/e/f")
        a(os.mkdir, "moved")
        a(ops.listing, "moved")
        a(ops.listing, "d/e/f")
        a(os.rename, "moved", "d/moved")
        a(ops.listing, "d")

    return steps


@MARKS.case
def directories_of_whiteouts_alone(b: Builder) -> Steps:
    """One that shows nothing can be removed and replaced, wherever its whiteouts are."""
    for position in ("upper", "top", "middle"):
        layer = _positions(b)[position]
        for name in ("removed", "replaced", "filled"):
            for number in range(5):
                b.lower(2).file(f"{position}/{name}/f{number}", b"x")
                layer.whiteout(f"{position}/{name}/f{number}")
        b.lower(2).file(f"{position}/source/content", b"c")
        b.lower(0).file(f"{position}/own/content", b"c")

    def steps(a: Actor) -> None:
        for position in ("upper", "top", "middle"):
            a(ops.listing, f"{position}/removed")
            a(os.rmdir, f"{position}/removed")
            a(os.rename, f"{position}/source", f"{position}/replaced")
            a(ops.listing, f"{position}/replaced")
            a(ops.create, f"{position}/filled/f2", b"again")
            a(os.rmdir, f"{position}/filled")
            a(ops.listing, f"{position}/filled")
            a(os.unlink, f"{position}/filled/f2")
            a(os.rename, f"{position}/own", f"{position}/filled")
            a(ops.listing, f"{position}/filled")
            a(ops.listing, position)

    return steps
