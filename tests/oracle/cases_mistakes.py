"""Mistakes: what do other unions get wrong? Each mistake of FUSE peers that was seen is a case of its own here.

The cases that need more than one process at a time, or count something, are in test_mistakes.
"""

from __future__ import annotations

import os

from tests.oracle import ops
from tests.oracle.actor import Actor, umask
from tests.oracle.case import Builder, Steps, Suite
from tests.support.syscalls import RENAME_EXCHANGE, link_fd, renameat2

MISTAKES = Suite("mistakes", lowers=2)
MISTAKES_AT_ROOT = Suite("mistakes-at-root", lowers=1, alone=True)


@MISTAKES.case
def write_while_a_reader_holds_the_lower_file(b: Builder) -> Steps:
    b.lower(0).file("f", b"lower data")

    def steps(a: Actor) -> None:
        reader = a.fd("f", os.O_RDONLY)
        a(ops.read_fd, reader)
        writer = a.fd("f", os.O_RDWR)
        a(ops.write_fd, writer, b"WRITTEN!")
        a(ops.read_fd, reader)
        a(ops.read_fd, writer)
        os.close(writer)
        again = a.fd("f", os.O_WRONLY)
        a(ops.write_fd, again, b"AGAIN")
        a(ops.read, "f")

    return steps


@MISTAKES_AT_ROOT.case
def directory_removed_and_made_again_at_the_root(b: Builder) -> Steps:
    b.lower(0).file("d/old")

    def steps(a: Actor) -> None:
        a(os.unlink, "d/old")
        a(os.rmdir, "d")
        a(os.mkdir, "d")
        a(ops.ls, "d")

    return steps


@MISTAKES.case
def umask_of_the_caller(b: Builder) -> Steps:
    def steps(a: Actor) -> None:
        with umask(0o077):
            a(ops.create, "f", b"", 0o666)
            a(os.mkdir, "d", 0o777)
            a(os.mkfifo, "p", 0o666)
        for name in ("f", "d", "p"):
            a(ops.lstat, name)

    return steps


@MISTAKES.case
def suid_goes_with_a_write(b: Builder) -> Steps:
    b.upper.file("upper", b"x", mode=0o6777)
    b.lower(0).file("lower", b"x", mode=0o6777)

    def steps(a: Actor) -> None:
        for name in ("upper", "lower"):
            with a.user(1000):
                a(ops.write, name, b"y")
            a(ops.lstat, name)

    return steps


@MISTAKES.case
def unlinked_open_file_by_descriptor(b: Builder) -> Steps:
    b.upper.file("f", b"data")

    def steps(a: Actor) -> None:
        fd = a.fd("f", os.O_RDWR)
        a(os.unlink, "f")
        a(ops.fstat, fd)
        a(os.ftruncate, fd, 2)
        a(os.fchmod, fd, 0o600)
        a(ops.fstat, fd)

    return steps


@MISTAKES.case
def link_of_a_lower_file_is_one_inode(b: Builder) -> Steps:
    b.lower(0).file("f", b"data")

    def steps(a: Actor) -> None:
        a(os.link, "f", "g")
        a(ops.same_inode, "f", "g")
        a(ops.lstat, "f")
        a(ops.write, "g", b"DATA")
        a(ops.read, "f")

    return steps


@MISTAKES.case
def exchange_of_lower_files(b: Builder) -> Steps:
    b.lower(0).file("f", b"one")
    b.lower(1).file("g", b"two")

    def steps(a: Actor) -> None:
        a(renameat2, "f", "g", RENAME_EXCHANGE)
        a(ops.read, "f")
        a(ops.read, "g")

    return steps


@MISTAKES.case
def temporary_file_gets_a_name(b: Builder) -> Steps:
    def steps(a: Actor) -> None:
        fd = a.fd(".", os.O_TMPFILE | os.O_RDWR, 0o600)
        a(ops.write_fd, fd, b"data")
        a(link_fd, fd, "named")
        a(ops.read, "named")

    return steps


@MISTAKES.case
def name_of_255_bytes(b: Builder) -> Steps:
    b.lower(0).file("l" * 255, b"lower")

    def steps(a: Actor) -> None:
        a(ops.create, "n" * 255, b"new")
        a(ops.read, "n" * 255)
        a(ops.write, "l" * 255, b"L")
        a(os.unlink, "l" * 255)
        a(ops.ls)

    return steps


@MISTAKES.case
def upper_only_file_leaves_no_whiteout(b: Builder) -> Steps:
    b.lower(0).file("merged/other")
    b.upper.file("merged/own")

    def steps(a: Actor) -> None:
        a(os.unlink, "merged/own")
        a(ops.create, "merged/brief")
        a(os.unlink, "merged/brief")
        a(os.mkdir, "merged/dir")
        a(os.rmdir, "merged/dir")

    return steps


@MISTAKES.case
def write_through_one_name_of_a_lower_hard_link(b: Builder) -> Steps:
    b.lower(0).file("f", b"data")
    b.lower(0).link("f", "g")

    def steps(a: Actor) -> None:
        a(ops.write, "g", b"DATA")
        a(ops.read, "g")
        a(ops.lstat, "g")

    return steps


@MISTAKES.case
def rename_of_a_lower_directory_that_cannot_move(b: Builder) -> Steps:
    b.lower(0).file("d/f", b"inside")

    def steps(a: Actor) -> None:
        a(os.rename, "d", "e")
        a(ops.read, "d/f")
        a(ops.ls)

    return steps
