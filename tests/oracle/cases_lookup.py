"""Lookup: what does a name resolve to over one to four layers?"""

from __future__ import annotations

import os
import stat

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Case, LayerBuilder, Steps, Suite

LOOKUP = Suite("lookup", lowers=3)
"""With the upper, names resolve over four layers."""

LAYER_NAMES = ("upper", "lower0", "lower1", "lower2")
THINGS = ("file", "dir", "symlink", "fifo", "whiteout", "opaque", "nothing")


def look(*paths: str) -> Steps:
    """Steps that look at names in every way: stat, content or listing or target, xattrs."""

    def steps(a: Actor) -> None:
        a(ops.listing, ".")
        for path in paths:
            found = a(ops.lstat, path)
            a(ops.mtime, path)
            a(ops.xattrs, path)
            if found is not None and found.type == "file":
                a(ops.read, path)
                a(os.listdir, path)
            elif found is not None and found.type == "dir":
                a(ops.listing, path)
            elif found is not None and found.type == "symlink":
                a(os.readlink, path)
            a(ops.lstat, path + "/below")
            a(ops.lstat, path + "/")

    return steps


def layers_of(b: Builder) -> list[LayerBuilder]:
    """Upper, then the lowers from the top."""
    return [b.upper, b.lower(0), b.lower(1), b.lower(2)]


def put(layer: LayerBuilder, thing: str, name: str, tag: str) -> None:
    """Puts one thing of THINGS into a layer, recognisable by `tag`."""
    if thing == "file":
        layer.file(name, tag.encode(), mode=0o640)
        layer.xattr(name, "user.layer", tag.encode())
    elif thing == "symlink":
        layer.symlink(name, tag)
    elif thing == "fifo":
        layer.node(name, stat.S_IFIFO)
    elif thing == "whiteout":
        layer.whiteout(name)
    elif thing in ("dir", "opaque"):
        layer.dir(name, mode=0o751)
        layer.xattr(name, "user.layer", tag.encode())
        layer.file(f"{name}/{tag}", tag.encode())
        layer.file(f"{name}/below", tag.encode())
        if thing == "opaque":
            layer.opaque(name)


def pair(upper_thing: str, lower_thing: str, upper_layer: int, lower_layer: int) -> Case:
    """One thing over another, both in given layers, with a directory of files at the very bottom where there is room."""

    def build(b: Builder) -> Steps:
        layers = layers_of(b)
        for thing, number in ((upper_thing, upper_layer), (lower_thing, lower_layer)):
            put(layers[number], thing, "x", LAYER_NAMES[number])
        if lower_layer < 3:
            put(layers[3], "dir", "x", LAYER_NAMES[3])
        return look("x")

    return build


for _top in THINGS:
    for _bottom in THINGS:
        LOOKUP.add(f"{_top}-in-upper-over-{_bottom}", pair(_top, _bottom, 0, 1))
        LOOKUP.add(f"{_top}-in-lower0-over-{_bottom}", pair(_top, _bottom, 1, 2))


@LOOKUP.case
def missing_names(b: Builder) -> Steps:
    b.lower(0).file("file")
    return look("absent", "absent/deeper", "file/deeper", "n" * 255, "n" * 256, "file/.", "file/..")


@LOOKUP.case
def whiteout_in_lowest_layer(b: Builder) -> Steps:
    b.lower(-1).whiteout("gone")
    b.lower(-1).file("here")
    return look("gone", "here")


@LOOKUP.case
def whiteout_over_nothing(b: Builder) -> Steps:
    b.upper.whiteout("gone")
    b.lower(0).whiteout("gone-too")
    return look("gone", "gone-too")


@LOOKUP.case
def whiteout_then_file_again(b: Builder) -> Steps:
    b.lower(2).file("f", b"old")
    b.lower(1).whiteout("f")
    b.lower(0).file("f", b"new")
    return look("f")


@LOOKUP.case
def merged_directory_of_four(b: Builder) -> Steps:
    for layer, name in zip(layers_of(b), LAYER_NAMES, strict=True):
        layer.dir("d", mode=0o700 + LAYER_NAMES.index(name), owner=(100 + LAYER_NAMES.index(name), 7))
        layer.file(f"d/{name}", name.encode())
        layer.file("d/all", name.encode())
        layer.dir(f"d/sub/{name}")
    b.lower(0).whiteout("d/lower2")
    b.upper.whiteout("d/lower1")
    return look("d", "d/all", "d/lower0", "d/lower1", "d/lower2", "d/upper", "d/sub")


@LOOKUP.case
def opaque_in_the_middle(b: Builder) -> Steps:
    for layer, name in zip(layers_of(b), LAYER_NAMES, strict=True):
        layer.file(f"d/{name}", name.encode())
    b.lower(1).opaque("d")
    return look("d", "d/lower2", "d/lower1", "d/lower0", "d/upper")


@LOOKUP.case
def opaque_of_other_values(b: Builder) -> Steps:
    for number, value in enumerate((b"", b"n", b"yes", b"Y", b"0")):
        b.lower(2).file(f"d{number}/below")
        b.upper.opaque(f"d{number}", value)
    return look(*(f"d{number}" for number in range(5)))


@LOOKUP.case
def a_file_ends_the_merge(b: Builder) -> Steps:
    b.upper.file("d/upper")
    b.lower(0).file("d", b"a file between directories")
    b.lower(1).file("d/hidden")
    return look("d", "d/upper", "d/hidden")


@LOOKUP.case
def a_directory_below_a_whiteout_parent(b: Builder) -> Steps:
    b.lower(0).file("d/e/f", b"deep")
    b.lower(1).file("d/e/g", b"deeper")
    b.upper.whiteout("d/e")
    return look("d", "d/e", "d/e/f")


@LOOKUP.case
def symlinks_in_paths_are_followed_on_the_mount(b: Builder) -> Steps:
    b.lower(0).dir("real")
    b.lower(1).file("real/target", b"found in the lower one")
    b.lower(0).symlink("way", "real")
    b.upper.symlink("way-to-file", "way/target")
    b.upper.symlink("loop", "loop")

    def steps(a: Actor) -> None:
        a(ops.read, "way/target")
        a(ops.read, "way-to-file")
        a(ops.read, "loop")
        a(ops.ls, "way")

    return steps


@LOOKUP.case
def char_devices_that_are_no_whiteouts(b: Builder) -> Steps:
    b.lower(0).node("null", stat.S_IFCHR, (1, 3))
    b.lower(0).node("zero-one", stat.S_IFCHR, (0, 1))
    b.lower(0).node("block", stat.S_IFBLK, (0, 0))
    b.lower(0).node("socket", stat.S_IFSOCK)
    b.lower(0).node("fifo", stat.S_IFIFO)
    return look("null", "zero-one", "block", "socket", "fifo")


@LOOKUP.case
def odd_names(b: Builder) -> Steps:
    names = ["n" * 255, "with space", "new\nline", "\udcff\udcfe not UTF-8", "ünïcode", "-dash", "colon:comma,\\", "#6", "..."]
    for number, name in enumerate(names):
        layers_of(b)[number % 4].file(name, name.encode("utf-8", "surrogateescape"))
    return look(*names)


@LOOKUP.case
def private_xattrs_do_not_show(b: Builder) -> Steps:
    b.lower(0).file("f")
    b.lower(0).xattr("f", "trusted.overlay.origin", b"")
    b.lower(0).xattr("f", "trusted.overlay.anything", b"1")
    b.lower(0).xattr("f", "trusted.other", b"2")
    b.lower(0).xattr("f", "user.overlay.opaque", b"y")
    b.lower(0).xattr("f", "user.plain", b"3")
    b.upper.opaque("d")

    def steps(a: Actor) -> None:
        for path in ("f", "d"):
            a(ops.xattrs, path)
            for name in ("trusted.overlay.origin", "trusted.overlay.opaque", "trusted.overlay.absent", "user.overlay.opaque"):
                a(ops.getxattr, path, name)
            with a.user(1000):
                a(ops.xattrs, path)

    return steps


@LOOKUP.case
def large_directory(b: Builder) -> Steps:
    for number in range(1500):
        b.lower(number % 3).file(f"d/{'n' * (number % 50)}{number}")
        if number % 7 == 0:
            b.upper.whiteout(f"d/{'n' * (number % 50)}{number}")
        if number % 11 == 0:
            b.lower(0).dir(f"d/sub{number}")

    def steps(a: Actor) -> None:
        a(ops.ls, "d")
        a(ops.listing, "d")
        fd = a.fd("d", os.O_RDONLY | os.O_DIRECTORY)
        for size in (200, 1000):
            a(ops.ls_in_pieces, fd, size)

    return steps


@LOOKUP.case
def seeking_in_a_directory(b: Builder) -> Steps:
    for number in range(40):
        b.lower(number % 3).file(f"d/{number}")

    def steps(a: Actor) -> None:
        fd = a.fd("d", os.O_RDONLY | os.O_DIRECTORY)
        a(ops.ls_from_every_position, fd)

    return steps
