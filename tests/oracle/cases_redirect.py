"""Redirects: do directories of lower layers move, keep what is in them, and lead where the layers' own marks say?"""

from __future__ import annotations

import os

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Steps, Suite
from tests.support.syscalls import RENAME_EXCHANGE, renameat2

REDIRECT = Suite("redirect", lowers=3)
MARK = "trusted.overlay.redirect"


def _tree(b: Builder, path: str) -> None:
    """A directory that merges from all three lower layers, with one below it."""
    for number in range(3):
        b.lower(number).file(f"{path}/of{number}", b"%d" % number)
        b.lower(number).file(f"{path}/sub/of{number}", b"below %d" % number)


def _look(a: Actor, path: str) -> None:
    """Everything below a directory."""
    a(ops.lstat, path)
    a(ops.listing, path)
    a(ops.listing, f"{path}/sub")
    for number in range(3):
        a(ops.read, f"{path}/of{number}")
        a(ops.read, f"{path}/sub/of{number}")


@REDIRECT.case
def in_the_same_directory(b: Builder) -> Steps:
    _tree(b, "dir")

    def steps(a: Actor) -> None:
        a(os.rename, "dir", "first")
        _look(a, "first")
        a(os.rename, "first", "second")
        a(os.rename, "second/sub", "second/sub2")
        a(os.rename, "second/sub2", "second/sub")
        _look(a, "second")
        a(ops.lstat, "dir")

    return steps


@REDIRECT.case
def into_another_directory(b: Builder) -> Steps:
    _tree(b, "from/dir")
    b.lower(1).file("to/other", b"x")

    def steps(a: Actor) -> None:
        a(os.rename, "from/dir", "to/dir")
        _look(a, "to/dir")
        a(os.mkdir, "fresh")
        a(os.rename, "to/dir", "fresh/dir")
        _look(a, "fresh/dir")
        a(os.rename, "fresh", "renamed")
        a(os.rename, "renamed/dir/sub", "sub")
        a(ops.listing, "sub")
        a(os.rename, "sub", "renamed/dir/sub")
        _look(a, "renamed/dir")

    return steps


@REDIRECT.case
def below_a_moved_directory(b: Builder) -> Steps:
    _tree(b, "a/b")

    def steps(a: Actor) -> None:
        a(os.rename, "a", "x")
        a(os.rename, "x/b", "x/c")
        _look(a, "x/c")
        a(os.rename, "x/c/sub", "sub")
        a(ops.read, "sub/of1")
        a(os.rename, "x/c", "c")
        a(os.rename, "sub", "c/sub")
        _look(a, "c")
        a(os.unlink, "c/of1")
        a(ops.create, "c/new", b"n")
        a(ops.create, "c/of2", b"changed")
        a(ops.listing, "c")

    return steps


@REDIRECT.case
def another_in_its_place(b: Builder) -> Steps:
    _tree(b, "dir")

    def steps(a: Actor) -> None:
        a(os.rename, "dir", "moved")
        a(os.mkdir, "dir")
        a(ops.listing, "dir")
        a(ops.create, "dir/of0", b"another")
        _look(a, "moved")
        a(renameat2, "dir", "moved", RENAME_EXCHANGE)
        _look(a, "dir")
        a(ops.listing, "moved")
        a(ops.read, "moved/of0")

    return steps


@REDIRECT.case
def two_change_places(b: Builder) -> Steps:
    _tree(b, "one/dir")
    b.lower(2).file("two/of2", b"two")

    def steps(a: Actor) -> None:
        a(renameat2, "one/dir", "two", RENAME_EXCHANGE)
        _look(a, "two")
        a(ops.listing, "one/dir")
        a(ops.read, "one/dir/of2")

    return steps


@REDIRECT.case
def removed_after_it_moved(b: Builder) -> Steps:
    b.lower(0).file("dir/f", b"x")
    b.lower(1).dir("empty")
    b.lower(0).dir("name")

    def steps(a: Actor) -> None:
        a(os.rename, "dir", "moved")
        a(os.rmdir, "moved")
        a(os.unlink, "moved/f")
        a(os.rmdir, "moved")
        a(os.rename, "empty", "name")
        a(os.rmdir, "name")
        a(ops.listing)
        a(os.mkdir, "moved")
        a(ops.listing, "moved")

    return steps


@REDIRECT.case
def with_open_files(b: Builder) -> Steps:
    _tree(b, "dir")

    def steps(a: Actor) -> None:
        fd = a.fd("dir/sub/of0", os.O_RDWR)
        a(os.rename, "dir", "moved")
        a(ops.write_fd, fd, b"written")
        a(ops.read, "moved/sub/of0")
        a(os.chmod, "moved/sub/of1", 0o600)
        _look(a, "moved")

    return steps


@REDIRECT.case
def a_path_too_long_to_be_marked(b: Builder) -> Steps:
    name = "n" * 120
    b.lower(0).file(f"{name}/{name}/{name}/f", b"deep")

    def steps(a: Actor) -> None:
        a(os.rename, f"{name}/{name}/{name}", "away")
        a(os.rename, f"{name}/{name}/{name}", f"{name}/{name}/short")
        a(ops.read, f"{name}/{name}/short/f")

    return steps


@REDIRECT.case
def marks_of_lower_layers(b: Builder) -> Steps:
    """Each layer's mark counts for the layers below it: by name, by path, and one after the other."""
    for number in (1, 2):
        b.lower(number).file(f"old/of{number}", b"%d" % number)
    b.lower(0).file("new/of0", b"0")
    b.lower(0).xattr("new", MARK, b"old")
    b.lower(2).file("deepest/of2", b"deep")
    b.lower(1).file("middle/of1", b"mid")
    b.lower(1).xattr("middle", MARK, b"deepest")
    b.lower(0).file("top/of0", b"t")
    b.lower(0).xattr("top", MARK, b"middle")

    def steps(a: Actor) -> None:
        for name in ("new", "top", "middle", "old", "deepest"):
            a(ops.listing, name)
            a(ops.lstat, name)
        for name in ("new/of0", "new/of1", "new/of2", "top/of0", "top/of1", "top/of2"):
            a(ops.read, name)
        a(ops.create, "top/of1", b"changed")
        a(os.rename, "new", "newer")
        a(ops.listing, "newer")

    return steps
