"""Rename: what comes of every kind of source, moved over every kind of target, with every flag?"""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Case, LayerBuilder, Steps, Suite
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

FLAGS = {
    "plain": 0,
    "noreplace": RENAME_NOREPLACE,
    "exchange": RENAME_EXCHANGE,
    "whiteout": RENAME_WHITEOUT,
    "noreplace-exchange": RENAME_NOREPLACE | RENAME_EXCHANGE,
}

Make = Callable[[Builder, str], None]


def _full(layer: LayerBuilder, name: str) -> None:
    layer.file(f"{name}/inside", b"inside")
    layer.dir(f"{name}/subdir")


def _covering_source(b: Builder, name: str) -> None:
    b.upper.file(name, b"upper source")
    b.lower(0).file(name, b"lower source")


def _merged_source(b: Builder, name: str) -> None:
    _full(b.upper, name)
    b.lower(1).file(f"{name}/lower")


def _opaque_source(b: Builder, name: str) -> None:
    _full(b.upper, name)
    b.upper.opaque(name)
    b.lower(0).file(f"{name}/hidden")


def _nothing(b: Builder, name: str) -> None:
    pass


SOURCES: dict[str, Make] = {
    "upper-file": lambda b, name: b.upper.file(name, b"upper source", mode=0o640, owner=(3, 4)),
    "lower-file": lambda b, name: b.lower(1).file(name, b"lower source", mode=0o640, owner=(3, 4)),
    "covering-file": _covering_source,
    "upper-dir": lambda b, name: _full(b.upper, name),
    "lower-dir": lambda b, name: _full(b.lower(0), name),
    "merged-dir": _merged_source,
    "opaque-dir": _opaque_source,
    "upper-symlink": lambda b, name: b.upper.symlink(name, "source"),
    "lower-symlink": lambda b, name: b.lower(0).symlink(name, "source", owner=(3, 4)),
    "absent": _nothing,
}


def _whiteout(b: Builder, name: str) -> None:
    b.upper.whiteout(name)
    b.lower(0).file(name)


def _whiteout_over_dir(b: Builder, name: str) -> None:
    b.upper.whiteout(name)
    b.lower(1).file(f"{name}/hidden")


def _covering_target(b: Builder, name: str) -> None:
    b.upper.file(name, b"upper target")
    b.lower(0).file(name, b"lower target")


def _merged_empty(b: Builder, name: str) -> None:
    b.upper.dir(name)
    b.lower(1).dir(name)


def _only_whiteouts(b: Builder, name: str) -> None:
    b.upper.whiteout(f"{name}/gone")
    b.lower(0).file(f"{name}/gone")


TARGETS: dict[str, Make] = {
    "absent": _nothing,
    "whiteout": _whiteout,
    "whiteout-over-dir": _whiteout_over_dir,
    "lower-file": lambda b, name: b.lower(0).file(name, b"lower target"),
    "upper-file": lambda b, name: b.upper.file(name, b"upper target"),
    "covering-file": _covering_target,
    "lower-symlink": lambda b, name: b.lower(1).symlink(name, "target"),
    "upper-empty-dir": lambda b, name: b.upper.dir(name),
    "lower-empty-dir": lambda b, name: b.lower(0).dir(name),
    "merged-empty-dir": _merged_empty,
    "dir-with-only-whiteouts": _only_whiteouts,
    "upper-full-dir": lambda b, name: b.upper.file(f"{name}/target-inside"),
    "lower-full-dir": lambda b, name: b.lower(0).file(f"{name}/target-inside"),
}


def moving(source: str, target: str, flags: int) -> Case:
    """Renames `old/s` to `new/t`, looks at both places, and renames back."""

    def build(b: Builder) -> Steps:
        b.lower(0).file("old/by")
        b.lower(1).file("new/by")
        SOURCES[source](b, "old/s")
        TARGETS[target](b, "new/t")

        def steps(a: Actor) -> None:
            ino = _ino("old/s")
            a(renameat2, "old/s", "new/t", flags)
            a.note("inode number kept", ino is None or ino in (_ino("new/t"), _ino("old/s")))
            for path in ("old/s", "new/t"):
                look(a, path)
            for path in ("old", "new"):
                a(ops.listing, path)
            a(renameat2, "new/t", "old/s", flags)
            look(a, "old/s")

        return steps

    return build


def look(a: Actor, path: str) -> None:
    """Stat, and content or listing."""
    found = a(ops.lstat, path)
    if found is not None and found.type == "file":
        a(ops.read, path)
    elif found is not None and found.type == "dir":
        a(ops.listing, path)


def _ino(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None


MATRIX: list[Suite] = []
for _flag_name, _flags in FLAGS.items():
    _suite = Suite(f"rename-{_flag_name}", lowers=2)
    for _source in SOURCES:
        for _target in TARGETS:
            _suite.add(f"{_source}-to-{_target}", moving(_source, _target, _flags))
    MATRIX.append(_suite)

RENAME = Suite("rename", lowers=2)


@RENAME.case
def in_one_directory(b: Builder) -> Steps:
    b.lower(0).file("lower", b"lower")
    b.upper.file("upper", b"upper")
    b.upper.dir("dir")

    def steps(a: Actor) -> None:
        a(os.rename, "lower", "lower2")
        a(os.rename, "upper", "upper2")
        a(os.rename, "dir", "dir2")
        a(os.rename, "lower2", "lower")
        a(os.rename, "lower", "upper2")
        a(os.rename, "upper2", "dir2/inside")
        a(ops.listing)
        a(ops.listing, "dir2")

    return steps


@RENAME.case
def to_itself_and_to_its_own_link(b: Builder) -> Steps:
    b.lower(0).file("a", b"lower")
    b.lower(0).link("a", "b")
    b.upper.file("c", b"upper")
    b.upper.link("c", "d")

    def steps(a: Actor) -> None:
        for source, target in (("a", "a"), ("a", "b"), ("c", "c"), ("c", "d")):
            a(os.rename, source, target)
            a(renameat2, source, target, RENAME_EXCHANGE)
            a(renameat2, source, target, RENAME_NOREPLACE)
        a(ops.listing)
        a(ops.lstat, "a")
        a(ops.lstat, "c")

    return steps


@RENAME.case
def into_own_subtree(b: Builder) -> Steps:
    b.upper.dir("up/sub")
    b.lower(0).dir("low/sub")

    def steps(a: Actor) -> None:
        for top in ("up", "low"):
            a(os.rename, top, f"{top}/sub/x")
            a(os.rename, f"{top}/sub", top)
            a(renameat2, top, f"{top}/sub", RENAME_EXCHANGE)
            a(os.rename, f"{top}/.", "x")
            a(os.rename, top, f"{top}/..")

    return steps


@RENAME.case
def created_directory_moves_with_its_tree(b: Builder) -> Steps:
    b.lower(0).file("m/by")

    def steps(a: Actor) -> None:
        a(os.mkdir, "new")
        a(os.mkdir, "new/sub")
        a(ops.create, "new/sub/file", b"deep")
        fd = a.fd("new/sub/file", os.O_RDWR)
        a(os.rename, "new", "m/moved")
        a(ops.read, "m/moved/sub/file")
        a(ops.write_fd, fd, b"DEEP")
        a(ops.read, "m/moved/sub/file")
        a(ops.listing, "m/moved/sub")
        a(ops.create, "m/moved/sub/other", b"x")
        a(os.rename, "m/moved/sub", "m/sub")
        a(ops.read, "m/sub/other")

    return steps


@RENAME.case
def pure_directory_into_place_of_whiteout_is_opaque(b: Builder) -> Steps:
    b.lower(0).file("gone/hidden")
    b.upper.file("dir/own")

    def steps(a: Actor) -> None:
        a(os.unlink, "gone/hidden")
        a(os.rmdir, "gone")
        a(os.rename, "dir", "gone")
        a(ops.listing, "gone")
        a(ops.lstat, "gone/hidden")

    return steps


@RENAME.case
def over_an_open_file(b: Builder) -> Steps:
    b.lower(0).file("low", b"lower")
    b.upper.file("up", b"upper")
    b.lower(0).file("new1", b"new one")
    b.upper.file("new2", b"new two")

    def steps(a: Actor) -> None:
        low, up = a.fd("low", os.O_RDONLY), a.fd("up", os.O_RDWR)
        a(os.rename, "new1", "low")
        a(os.rename, "new2", "up")
        a(ops.read_fd, low)
        a(ops.read_fd, up)
        a(ops.fstat, up)
        a(ops.write_fd, up, b"UPPER")
        a(ops.read_fd, up)
        a(ops.read, "low")
        a(ops.read, "up")

    return steps


@RENAME.case
def an_open_file_follows_its_name(b: Builder) -> Steps:
    b.lower(0).file("f", b"lower")

    def steps(a: Actor) -> None:
        fd = a.fd("f", os.O_RDONLY)
        a(os.rename, "f", "g")
        a(ops.write, "g", b"LO")
        a(ops.read_fd, fd)
        a(ops.fstat, fd)
        a(os.ftruncate, fd, 1)
        a(os.fchmod, fd, 0o600)
        a(ops.fstat, fd)
        a(ops.lstat, "g")

    return steps


@RENAME.case
def chain_over_lower_names(b: Builder) -> Steps:
    for number in range(4):
        b.lower(number % 2).file(f"f{number}", f"{number}".encode())

    def steps(a: Actor) -> None:
        a(os.rename, "f0", "t")
        for number in range(1, 4):
            a(os.rename, f"f{number}", f"f{number - 1}")
        a(os.rename, "t", "f3")
        a(ops.listing)
        for number in range(4):
            a(ops.read, f"f{number}")
        a(os.unlink, "f1")
        a(ops.listing)

    return steps


@RENAME.case
def times_of_parents(b: Builder) -> Steps:
    b.lower(0).file("d/f", b"x")
    b.lower(0).dir("e")

    def steps(a: Actor) -> None:
        a(os.chmod, "d/f", 0o600)
        a(ops.mtime, "d")
        a(ops.mtime, "d/f")
        a(os.rename, "d/f", "e/f")
        a(ops.mtime, "e/f")

    return steps
