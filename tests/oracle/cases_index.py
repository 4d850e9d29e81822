"""The index: do all names of a lower file stay one file, whatever happens to one of them, and are they counted right?

The name by which a file is changed first is the one by which it was looked up first: of several names that lead to one inode, a
FUSE server is not told which one was used, and only that name gets a link on the upper layer (see test_index.py).
"""

from __future__ import annotations

import os
import stat

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Steps, Suite
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

INDEX = Suite("index", lowers=2, options={"index": "on"})
EXPORT = Suite("index-of-all", lowers=2, options={"index": "on", "nfs_export": "on"})

BIG = 700_000
"""Bytes; more than is copied up inside the event loop."""


def _three(b: Builder, data: bytes = b"lower") -> None:
    """One file with three names, in two directories."""
    b.lower(0).file("a", data)
    b.lower(0).link("a", "b")
    b.lower(0).link("a", "dir/c")


def _look(a: Actor, *names: str) -> None:
    for name in names:
        a(ops.lstat, name)
        a(ops.read, name)
    a(ops.listing)


@INDEX.case
def changed_by_one_name(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        a(ops.write, "a", b"upper")
        _look(a, "a", "b", "dir/c")
        a(ops.same_inode, "a", "b")
        a(ops.same_inode, "b", "dir/c")
        a(os.chmod, "a", 0o600)
        _look(a, "b", "dir/c")

    return steps


@INDEX.case
def changed_after_all_were_seen(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        _look(a, "a", "b", "dir/c")
        a(ops.same_inode, "a", "dir/c")
        a(os.chmod, "a", 0o640)
        _look(a, "a", "b", "dir/c")

    return steps


@INDEX.case
def much_data(b: Builder) -> Steps:
    _three(b, os.urandom(16) * (BIG // 16))

    def steps(a: Actor) -> None:
        a(ops.lstat, "b")
        a(os.unlink, "b")
        a(ops.lstat, "a")
        a(ops.write, "a", b"upper")
        a(ops.digest, "a")
        a(ops.digest, "dir/c")
        a(ops.lstat, "dir/c")

    return steps


@INDEX.case
def truncated(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        fd = a.fd("a", os.O_WRONLY | os.O_TRUNC)
        _look(a, "b", "dir/c")
        a(ops.write_fd, fd, b"new")
        _look(a, "b", "dir/c")

    return steps


@INDEX.case
def unlinked_one_by_one(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        fd = a.fd("dir/c", os.O_RDONLY)
        for name in ("dir/c", "a", "b"):
            a(os.unlink, name)
            a(ops.fstat, fd)
            a(ops.listing)
        a(ops.read_fd, fd)
        a(ops.listing, "dir")

    return steps


@INDEX.case
def unlinked_in_part(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        a(ops.write, "a", b"upper")
        a(os.unlink, "b")
        _look(a, "a", "dir/c")
        a(os.unlink, "a")
        _look(a, "dir/c")
        a(ops.create, "a", b"another")
        _look(a, "a", "dir/c")

    return steps


@INDEX.case
def names_added(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        a(ops.lstat, "a")
        a(os.link, "a", "new")
        _look(a, "a", "b", "dir/c", "new")
        a(os.link, "new", "dir/new")
        a(os.unlink, "new")
        a(os.unlink, "a")
        _look(a, "b", "dir/c", "dir/new")
        a(os.unlink, "b")
        a(os.link, "dir/new", "b")
        _look(a, "b", "dir/c", "dir/new")

    return steps


@INDEX.case
def renamed(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        a(os.rename, "a", "x")
        _look(a, "x", "b", "dir/c")
        a(os.rename, "b", "dir/y")
        _look(a, "x", "dir/y", "dir/c")
        a(os.rename, "x", "dir/y")
        a(renameat2, "dir/c", "dir/y", RENAME_NOREPLACE)
        a(os.rename, "dir", "moved")
        _look(a, "x", "moved/y", "moved/c")
        a(os.unlink, "x")
        a(ops.lstat, "moved/c")

    return steps


@INDEX.case
def replaced(b: Builder) -> Steps:
    _three(b)
    b.lower(1).file("lower", b"other")

    def steps(a: Actor) -> None:
        a(ops.create, "upper", b"upper")
        a(os.rename, "upper", "a")
        _look(a, "a", "b", "dir/c")
        a(os.rename, "lower", "b")
        _look(a, "b", "dir/c")
        a(os.rename, "a", "dir/c")
        a(ops.listing, "dir")
        _look(a, "b", "dir/c")

    return steps


@INDEX.case
def exchanged(b: Builder) -> Steps:
    _three(b)
    b.lower(0).file("dir/other", b"other")
    b.lower(0).link("dir/other", "dir/again")

    def steps(a: Actor) -> None:
        a(renameat2, "a", "dir/other", RENAME_EXCHANGE)
        _look(a, "a", "b", "dir/c", "dir/other", "dir/again")
        a(os.unlink, "a")
        a(ops.lstat, "dir/again")
        a(os.unlink, "dir/again")
        _look(a, "b", "dir/c", "dir/other")

    return steps


@INDEX.case
def other_kinds(b: Builder) -> Steps:
    layer = b.lower(1)
    layer.symlink("symlink", "some/where")
    layer.node("fifo", stat.S_IFIFO, mode=0o624)
    layer.node("char", stat.S_IFCHR, (1, 3))
    kinds = ("symlink", "fifo", "char")
    for kind in kinds:
        layer.link(kind, f"dir/{kind}")

    def steps(a: Actor) -> None:
        for kind in kinds:
            a(ops.lchown, kind, 12, 34)
            a(ops.lstat, kind)
            a(ops.lstat, f"dir/{kind}")
            a(ops.same_inode, kind, f"dir/{kind}")
            a(os.unlink, kind)
            a(ops.lstat, f"dir/{kind}")
        a(ops.listing, "dir")

    return steps


@INDEX.case
def over_two_layers(b: Builder) -> Steps:
    """The same inode is in both lower layers, and another layer hides one of its names."""
    b.lower(1).file("a", b"lower")
    b.lower(1).link("a", "hidden")
    b.lower(1).link("a", "b")
    b.lower(0).dir("dir")
    os.link(b.lower(1).base / "a", b.lower(0).base / "dir/c")
    b.lower(0).file("hidden", b"another")

    def steps(a: Actor) -> None:
        a(ops.write, "dir/c", b"upper")
        _look(a, "a", "b", "dir/c", "hidden")
        a(os.unlink, "a")
        a(os.unlink, "dir/c")
        _look(a, "b")

    return steps


@INDEX.case
def open_meanwhile(b: Builder) -> Steps:
    _three(b)

    def steps(a: Actor) -> None:
        old = a.fd("b", os.O_RDONLY)
        a(ops.write, "b", b"upper")
        a(ops.read_fd, old)
        fd = a.fd("dir/c", os.O_RDONLY)
        a(os.unlink, "dir/c")
        a(ops.write, "b", b"again")
        a(ops.read_fd, fd)
        a(ops.fstat, fd)

    return steps


@INDEX.case
def with_one_name(b: Builder) -> Steps:
    """Files and directories without other names are not in the index."""
    b.lower(0).file("file", b"lower")
    b.lower(0).file("dir/file", b"lower")

    def steps(a: Actor) -> None:
        a(ops.write, "file", b"upper")
        a(os.chmod, "dir/file", 0o600)
        a(os.link, "file", "dir/link")
        _look(a, "file", "dir/link", "dir/file")
        a(os.unlink, "file")
        a(os.rename, "dir", "moved")
        _look(a, "moved/link", "moved/file")

    return steps


@EXPORT.case
def everything_is_indexed(b: Builder) -> Steps:
    _three(b)
    b.lower(0).file("file", b"lower")
    b.lower(0).file("gone", b"lower")
    b.lower(1).file("merged/below", b"lower")
    b.lower(0).file("merged/above", b"lower")
    b.lower(0).dir("empty")
    b.lower(1).symlink("symlink", "some/where")

    def steps(a: Actor) -> None:
        a(ops.write, "file", b"upper")
        a(ops.read, "file")
        a(os.chmod, "merged", 0o700)
        a(ops.listing, "merged")
        a(os.unlink, "gone")
        a(os.rmdir, "empty")
        a(os.unlink, "symlink")
        a(ops.write, "a", b"upper")
        a(os.unlink, "dir/c")
        _look(a, "a", "b")
        a(os.rename, "merged", "moved")
        a(ops.listing, "moved")

    return steps
