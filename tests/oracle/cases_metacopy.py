"""Metadata-only files: do their data stay below, come up when they are written, and are those of other layers followed?"""

from __future__ import annotations

import dataclasses
import os

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Steps, Suite
from tests.oracle.cases_access import ACCESS
from tests.oracle.cases_copyup import COPYUP
from tests.oracle.cases_files import FILES, UNLINKED
from tests.oracle.cases_index import INDEX
from tests.oracle.cases_redirect import REDIRECT
from tests.oracle.cases_rename import RENAME
from tests.support.syscalls import RENAME_EXCHANGE, renameat2

METACOPY = Suite("metacopy", lowers=3, options={"metacopy": "on"})
#: What every other suite of files does has to come out the same when metadata alone are copied up.
WITH_METACOPY = [
    dataclasses.replace(suite, name=f"{suite.name}-with-metacopy", options={**suite.options, "metacopy": "on"})
    for suite in (COPYUP, FILES, UNLINKED, ACCESS, RENAME, REDIRECT, INDEX)
]  # fmt: skip
MARK = "trusted.overlay.metacopy"
REDIRECT_MARK = "trusted.overlay.redirect"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
BIG = bytes(range(256)) * 4096


def _look(a: Actor, path: str) -> None:
    """Metadata, blocks and data of one file."""
    a(ops.lstat, path)
    a(ops.blocks, path)
    a(ops.read, path)
    a(ops.xattrs, path)


def shell(b: Builder, number: int, path: str, size: int, redirect: bytes | None = None, mark: bytes = b"") -> None:
    """A file without data in lower layer `number`, or with -1 in the upper one."""
    layer = b.upper if number < 0 else b.lower(number)
    layer.sparse(path, size, {})
    layer.xattr(path, MARK, mark)
    if redirect is not None:
        layer.xattr(path, REDIRECT_MARK, redirect)
    layer.xattr(os.path.dirname(path) or ".", "trusted.overlay.impure", b"y")


@METACOPY.case
def metadata_change(b: Builder) -> Steps:
    for name in ("mode", "owner", "times", "xattr", "no-xattr", "acl", "empty", "big", "hole"):
        b.lower(1).file(name, b"" if name == "empty" else BIG if name == "big" else name.encode())
    b.lower(1).sparse("hole", 1 << 20, {65536: b"x" * 4096})
    b.lower(1).xattr("no-xattr", "user.gone", b"1")

    def steps(a: Actor) -> None:
        a(os.chmod, "mode", 0o600)
        a(os.chown, "owner", 5, 6)
        a(ops.utime, "times", 1_000_000_000, 2_000_000_000)
        a(ops.setxattr, "xattr", "user.new", b"2")
        a(ops.removexattr, "no-xattr", "user.gone")
        a(ops.removexattr, "no-xattr", "user.gone")
        a(os.chmod, "empty", 0o4755)
        a(os.chmod, "big", 0o700)
        a(os.chmod, "hole", 0o700)
        for name in ("mode", "owner", "times", "xattr", "no-xattr", "empty", "big", "hole"):
            _look(a, name)
        a(ops.extents, "hole")
        a(ops.listing)

    return steps


@METACOPY.case
def data_follow(b: Builder) -> Steps:
    for name in ("written", "appended", "cut", "grown", "emptied", "opened", "by-fd", "untouched"):
        b.lower(0).file(name, BIG if name in ("written", "cut") else name.encode() * 100, mode=0o644)

    def steps(a: Actor) -> None:
        for name in ("written", "appended", "cut", "grown", "emptied", "opened", "by-fd", "untouched"):
            a(os.chmod, name, 0o640)
        a(ops.write, "written", b"new")
        a(ops.write, "appended", b"new", os.O_WRONLY | os.O_APPEND)
        a(os.truncate, "cut", 5000)
        a(os.truncate, "grown", 5000)
        a(ops.write, "emptied", b"new", os.O_WRONLY | os.O_TRUNC)
        a(ops.write_fd, a.fd("opened", os.O_WRONLY), b"")
        a(ops.utime, "opened", 1, 2)
        fd = a.fd("by-fd", os.O_RDWR)
        a(os.fchmod, fd, 0o600)
        a(os.ftruncate, fd, 7)
        a(ops.read_fd, fd)
        for name in ("written", "appended", "cut", "grown", "emptied", "by-fd", "untouched"):
            _look(a, name)
        a(ops.read, "opened")

    return steps


@METACOPY.case
def capabilities_and_set_ids_when_data_follow(b: Builder) -> Steps:
    for name in ("cap", "suid", "opened"):
        b.lower(0).file(name, b"program" * 1000, mode=0o755)
    b.lower(0).xattr("cap", "security.capability", CAPABILITY)
    b.lower(0).xattr("opened", "security.capability", CAPABILITY)

    def steps(a: Actor) -> None:
        a(os.chmod, "cap", 0o700)
        a(os.chmod, "suid", 0o4755)
        a(os.chmod, "opened", 0o711)
        a.fd("opened", os.O_WRONLY)
        a(ops.xattrs, "opened")
        a(ops.lstat, "suid")
        a.fd("suid", os.O_RDWR)
        a(ops.lstat, "suid")
        # The kernel takes the copy of the data for a change of them.
        a(ops.utime, "suid", 1, 2)
        a(ops.utime, "opened", 1, 2)
        a(ops.write, "cap", b"x")
        a(ops.xattrs, "cap")

    return steps


@METACOPY.case
def readers_before_and_after(b: Builder) -> Steps:
    b.lower(2).file("f", BIG)
    b.lower(2).file("g", b"small")

    def steps(a: Actor) -> None:
        for name in ("f", "g"):
            old = a.fd(name, os.O_RDONLY)
            a(os.fchmod, old, 0o600)
            a(ops.read_fd, old, 0, 10)
            meta = a.fd(name, os.O_RDONLY)
            new = a.fd(name, os.O_RDWR)
            a(ops.write_fd, new, b"changed")
            for fd in (old, meta, new):
                a(ops.read_fd, fd, 0, 10)
                a(ops.fstat, fd)
            a(os.fsync, new)
            a(os.fsync, old)
            _look(a, name)

    return steps


@METACOPY.case
def moved(b: Builder) -> Steps:
    b.lower(1).file("dir/one", b"one")
    b.lower(1).file("dir/two", b"two")
    b.lower(1).file("dir/three", BIG)
    b.lower(1).file("to/x", b"x")
    b.lower(2).file("other/four", b"four")

    def steps(a: Actor) -> None:
        a(os.rename, "dir/one", "dir/uno")
        a(os.rename, "dir/uno", "dir/ein")
        a(os.rename, "dir/two", "to/two")
        a(os.rename, "to/two", "to/zwei")
        a(os.rename, "dir", "moved")
        a(os.rename, "moved/ein", "ein")
        a(os.rename, "moved/three", "to/x")
        a(os.rename, "other/four", "moved/four")
        a(renameat2, "to/x", "moved/four", RENAME_EXCHANGE)
        for name in ("ein", "to/zwei", "moved/four", "to/x"):
            _look(a, name)
        a(ops.write, "ein", b"!", os.O_WRONLY | os.O_APPEND)
        a(ops.write, "moved/four", b"!", os.O_WRONLY | os.O_APPEND)
        a(os.rename, "ein", "moved/one")
        a(ops.create, "dir", b"another")
        for name in ("moved/one", "moved/four"):
            _look(a, name)
        for name in ("moved", "to", "."):
            a(ops.listing, name)

    return steps


@METACOPY.case
def linked(b: Builder) -> Steps:
    b.lower(1).file("f", b"data of f")
    b.lower(1).file("d/g", BIG)
    b.lower(1).file("h1", b"data of h")
    b.lower(1).link("h1", "d/h2")

    def steps(a: Actor) -> None:
        a(os.link, "f", "f2")
        a(os.link, "d/g", "g2")
        a(os.unlink, "d/g")
        a(os.chmod, "h1", 0o600)
        a(os.link, "d/h2", "h3")
        a(os.rename, "h1", "h4")
        for name in ("f", "f2", "g2", "h3", "h4", "d/h2"):
            _look(a, name)
        a(ops.same_inode, "f", "f2")
        a(ops.write, "f2", b"new")
        a(ops.write, "g2", b"new")
        a(ops.write, "h3", b"new")
        for name in ("f", "f2", "g2", "h3", "h4", "d/h2"):
            _look(a, name)

    return steps


@METACOPY.case
def a_path_too_long_to_be_marked(b: Builder) -> Steps:
    name = "n" * 120
    b.lower(0).file(f"{name}/{name}/{name}", b"deep")

    def steps(a: Actor) -> None:
        a(os.rename, f"{name}/{name}/{name}", "away")
        a(os.link, f"{name}/{name}/{name}", "linked")
        a(os.rename, f"{name}/{name}/{name}", f"{name}/{name}/short")
        a(ops.read, f"{name}/{name}/short")

    return steps


@METACOPY.case
def removed(b: Builder) -> Steps:
    for name in ("a", "b", "c"):
        b.lower(0).file(name, name.encode() * 50)

    def steps(a: Actor) -> None:
        for name in ("a", "b", "c"):
            a(os.chmod, name, 0o600)
        fd = a.fd("a", os.O_RDONLY)
        a(os.unlink, "a")
        a(ops.read_fd, fd)
        a(os.rename, "b", "c")
        a(ops.create, "b", b"another")
        a(os.unlink, "c")
        a(ops.create, "c", b"another too")
        for name in ("a", "b", "c"):
            _look(a, name)
        a(ops.listing)

    return steps


@METACOPY.case
def marks_of_layers(b: Builder) -> Steps:
    """Files without data in the upper and in middle layers, the data far below under their own name or another."""
    b.lower(2).file("same", b"same")
    b.lower(2).file("old", b"old name")
    b.lower(2).file("dir/deep", b"deep down")
    b.lower(2).file("chain3", b"end of the chain")
    shell(b, 1, "same", 4)
    shell(b, 0, "by-name", 8, b"old")
    shell(b, 0, "by-path", 9, None)
    b.lower(0).xattr("by-path", REDIRECT_MARK, b"/marks-of-layers/dir/deep")
    shell(b, -1, "chain1", 16, b"chain2")
    shell(b, 0, "chain2", 16, b"/marks-of-layers/chain2b")
    shell(b, 1, "chain2b", 16, b"chain3")
    # The kernel takes two names that lead to one lower file for one inode: the other name is hidden.
    b.upper.whiteout("chain2")
    b.lower(2).file("attributes", b"1234")
    shell(b, 0, "attributes", 4)
    b.lower(0).xattr("attributes", "user.top", b"1")
    b.lower(2).xattr("attributes", "user.bottom", b"1")

    def steps(a: Actor) -> None:
        names = ("same", "by-name", "by-path", "chain1", "attributes")
        for name in names:
            _look(a, name)
        for name in names:
            a(os.chmod, name, 0o600)
            _look(a, name)
        a(ops.write, "chain1", b"!", os.O_WRONLY | os.O_APPEND)
        a(ops.write, "by-path", b"!", os.O_WRONLY | os.O_APPEND)
        a(os.rename, "by-name", "moved")
        for name in ("chain1", "by-path", "moved"):
            _look(a, name)
        a(ops.listing)

    return steps


@METACOPY.case
def written_below_without_a_change_of_metadata(b: Builder) -> Steps:
    """A file of a middle layer without data gets them at once."""
    b.lower(2).file("f", BIG)
    shell(b, 0, "f", len(BIG))
    b.lower(2).file("g", b"cut me")
    shell(b, 0, "g", 6)

    def steps(a: Actor) -> None:
        a(ops.write, "f", b"new")
        a(os.truncate, "g", 3)
        _look(a, "f")
        _look(a, "g")

    return steps


@METACOPY.case
def redirects_through_directories(b: Builder) -> Steps:
    """On the way to the data other redirects, opaque directories and whiteouts are met."""
    case = b"/redirects-through-directories"
    b.lower(2).file("real/f", b"in real")
    b.lower(1).dir("named")
    b.lower(1).xattr("named", REDIRECT_MARK, b"real")
    shell(b, 0, "through-named", 7, case + b"/named/f")
    # An opaque directory on the way ends the search of directories below it, but not that for the data of a file in it.
    b.lower(2).file("closed/f", b"behind an opaque one")
    b.lower(1).opaque("closed")
    shell(b, 1, "closed/f", 7, b"/redirects-through-directories/real/f")
    shell(b, 0, "through-closed", 7, case + b"/closed/f")
    # Of the path, what a layer's directories say counts below even where that layer has no such file.
    b.lower(1).dir("half")
    b.lower(1).xattr("half", REDIRECT_MARK, b"real")
    b.lower(2).file("real/sub/g", b"deeper")
    shell(b, 0, "through-half", 6, case + b"/half/sub/g")

    def steps(a: Actor) -> None:
        for name in ("through-named", "through-closed", "through-half", "closed/f"):
            _look(a, name)
        a(ops.ls)

    return steps


METACOPY_SUITES = [METACOPY, *WITH_METACOPY]
