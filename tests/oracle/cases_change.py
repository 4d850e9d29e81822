"""Changes of names: what do create, link and remove leave, over nothing, over whiteouts, and over each layer?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tests.oracle import ops
from tests.oracle.actor import Actor, umask
from tests.oracle.case import Builder, Case, Steps, Suite

CREATE = Suite("create", lowers=2)
REMOVE = Suite("remove", lowers=2)
ROOT = Suite("root", lowers=2, alone=True)
"""What happens in the root directory of the mount itself."""

Maker = Callable[[Actor, str], object]

MAKERS: dict[str, Maker] = {
    "create": lambda a, name: a(ops.create, name, b"made", 0o640),
    "open-creat": lambda a, name: a(ops.write, name, b"W", os.O_WRONLY | os.O_CREAT),
    "open-creat-trunc": lambda a, name: a(ops.write, name, b"W", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    "mkdir": lambda a, name: a(os.mkdir, name, 0o750),
    "symlink": lambda a, name: a(os.symlink, "target", name),
    "fifo": lambda a, name: a(os.mkfifo, name, 0o620),
    "char": lambda a, name: a(os.mknod, name, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "block": lambda a, name: a(os.mknod, name, stat.S_IFBLK | 0o600, os.makedev(3, 1)),
    "socket": lambda a, name: a(os.mknod, name, stat.S_IFSOCK | 0o600),
    "regular-node": lambda a, name: a(os.mknod, name, stat.S_IFREG | 0o604),
    "whiteout-node": lambda a, name: a(os.mknod, name, stat.S_IFCHR, 0),
    "link": lambda a, name: a(os.link, "source", name),
}

PLACES = (
    "nothing", "whiteout", "needless-whiteout", "lower-file", "lower-dir", "upper-file", "upper-dir", "lower-symlink",
    "dangling-symlink", "whiteout-over-dir", "in-upper-dir", "in-lower-dir", "in-missing-dir", "in-file",
)  # fmt: skip


def place(b: Builder, where: str) -> str:
    """Prepares the place where something is to be made, and returns its name."""
    if where == "whiteout":
        b.lower(1).file("x", b"hidden")
        b.lower(0).whiteout("x")
        b.upper.whiteout("x")
    elif where == "needless-whiteout":
        b.upper.whiteout("x")
    elif where == "whiteout-over-dir":
        b.lower(1).file("x/inside", b"hidden")
        b.lower(0).file("x/inside-too", b"hidden")
        b.upper.whiteout("x")
    elif where == "lower-file":
        b.lower(1).file("x", b"lower file", mode=0o604, owner=(5, 6))
    elif where == "lower-dir":
        b.lower(1).file("x/inside")
    elif where == "upper-file":
        b.upper.file("x", b"upper file", mode=0o604, owner=(5, 6))
    elif where == "upper-dir":
        b.upper.dir("x")
    elif where == "lower-symlink":
        b.lower(0).symlink("x", "pointed")
        b.lower(1).file("pointed", b"pointed at")
    elif where == "dangling-symlink":
        b.lower(0).symlink("x", "absent")
    elif where == "in-upper-dir":
        b.upper.dir("d")
        return "d/x"
    elif where == "in-lower-dir":
        b.lower(1).dir("d", mode=0o711, owner=(8, 9))
        b.lower(0).dir("d/e", mode=0o700, owner=(3, 4))
        b.lower(0).xattr("d/e", "user.kept", b"yes")
        return "d/e/x"
    elif where == "in-missing-dir":
        return "absent/x"
    elif where == "in-file":
        b.lower(0).file("f")
        return "f/x"
    return "x"


def making(how: str, where: str) -> Case:
    """Makes one kind of thing in one place, looks, and tries it again."""

    def build(b: Builder) -> Steps:
        b.lower(0).file("source", b"source of links", mode=0o640, owner=(11, 12))
        name = place(b, where)

        def steps(a: Actor) -> None:
            MAKERS[how](a, name)
            a(ops.lstat, name)
            a(ops.listing, os.path.dirname(name) or ".")
            found = a(ops.lstat, name)
            if found is not None and found.type == "file":
                a(ops.read, name)
            if found is not None and found.type == "dir":
                a(ops.listing, name)
                a(ops.create, f"{name}/new")
            MAKERS[how](a, name)

        return steps

    return build


for _how in MAKERS:
    for _where in PLACES:
        CREATE.add(f"{_how}-{_where}", making(_how, _where))


@CREATE.case
def modes_and_umask(b: Builder) -> Steps:
    def steps(a: Actor) -> None:
        for mask in (0o000, 0o022, 0o027, 0o077, 0o777):
            with umask(mask):
                a(ops.create, f"file{mask:o}", b"", 0o777)
                a(os.mkdir, f"dir{mask:o}", 0o777)
                a(os.mkfifo, f"fifo{mask:o}", 0o666)
                a(os.mknod, f"node{mask:o}", stat.S_IFREG | 0o666)
                a(os.symlink, "x", f"link{mask:o}")
        with umask(0):
            a(ops.create, "set-ids", b"", 0o6755)
            a(os.mkdir, "sticky", 0o1777)
            a(os.mkdir, "setgid", 0o2775)

    return steps


@CREATE.case
def link_lower_file_is_one_inode(b: Builder) -> Steps:
    b.lower(1).file("d/f", b"lower", mode=0o640)
    b.lower(1).dir("e")

    def steps(a: Actor) -> None:
        before = os.lstat("d/f").st_ino
        a(os.link, "d/f", "e/g")
        a(ops.same_inode, "d/f", "e/g")
        a.note("inode number kept", os.lstat("d/f").st_ino == before)
        a(ops.lstat, "d/f")
        a(ops.write, "e/g", b"both")
        a(ops.read, "d/f")
        a(os.unlink, "d/f")
        a(ops.lstat, "e/g")
        a(ops.read, "e/g")

    return steps


@CREATE.case
def link_of_every_type(b: Builder) -> Steps:
    for layer, name in ((b.upper, "upper"), (b.lower(0), "lower")):
        layer.file(f"{name}-file", b"x", owner=(3, 4))
        layer.symlink(f"{name}-symlink", "to", owner=(3, 4))
        layer.node(f"{name}-fifo", stat.S_IFIFO)
        layer.node(f"{name}-char", stat.S_IFCHR, (1, 3))
        layer.node(f"{name}-socket", stat.S_IFSOCK)
        layer.dir(f"{name}-dir")

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            for kind in ("file", "symlink", "fifo", "char", "socket", "dir"):
                a(os.link, f"{where}-{kind}", f"{where}-{kind}-2", follow_symlinks=False)
                a(ops.lstat, f"{where}-{kind}-2")

    return steps


@CREATE.case
def lower_hard_links_break_as_without_index(b: Builder) -> Steps:
    b.lower(1).file("one", b"shared by three")
    b.lower(1).link("one", "two")
    b.lower(1).link("one", "three")

    def steps(a: Actor) -> None:
        a(ops.same_inode, "one", "two")
        a(ops.write, "one", b"SHARED")
        for name in ("one", "two", "three"):
            a(ops.read, name)
            a(ops.lstat, name)
        a(os.link, "two", "four")
        a(ops.same_inode, "two", "four")
        a(os.unlink, "three")
        a(ops.ls)

    return steps


@CREATE.case
def names_of_every_length(b: Builder) -> Steps:
    b.lower(1).file("l" * 255, b"long in lower")

    def steps(a: Actor) -> None:
        for length in (1, 250, 251, 252, 253, 254, 255, 256, 257):
            a(ops.create, "c" * length, b"x")
            a(os.mkdir, "d" * length)
            a(os.symlink, "to", "s" * length)
            a(os.link, "c" * length, "h" * length)
            a(os.rename, "s" * length, "r" * length)
        a(ops.write, "l" * 255, b"changed")
        a(os.unlink, "l" * 255)
        a(ops.create, "l" * 255, b"again")
        a(os.symlink, "t" * 4094, "long-symlink")
        a(os.readlink, "long-symlink")
        a(os.symlink, "t" * 4096, "too-long-symlink")
        a(ops.ls)

    return steps


# ---------------------------------------------------------------------------------------------------------------------- removing

REMOVED: dict[str, list[tuple[str, str, str]]] = {
    "upper-file": [("upper", "file", "x")],
    "lower-file": [("lower1", "file", "x")],
    "both-file": [("upper", "file", "x"), ("lower1", "file", "x")],
    "upper-symlink": [("upper", "symlink", "x")],
    "lower-symlink": [("lower0", "symlink", "x")],
    "lower-fifo": [("lower0", "fifo", "x")],
    "lower-char": [("lower0", "char", "x")],
    "file-over-whiteout": [("upper", "file", "x"), ("lower0", "whiteout", "x"), ("lower1", "file", "x")],
    "file-over-dir": [("upper", "file", "x"), ("lower0", "file", "x/y")],
    "whiteout": [("upper", "whiteout", "x"), ("lower0", "file", "x")],
    "nothing": [],
    "upper-empty-dir": [("upper", "dir", "x")],
    "lower-empty-dir": [("lower0", "dir", "x")],
    "merged-empty-dir": [("upper", "dir", "x"), ("lower0", "dir", "x"), ("lower1", "dir", "x")],
    "opaque-empty-dir": [("upper", "opaque", "x"), ("lower0", "file", "x/hidden")],
    "dir-with-only-whiteouts": [
        ("upper", "whiteout", "x/y"), ("upper", "whiteout", "x/z"), ("lower0", "file", "x/y"), ("lower1", "file", "x/z"),
    ],
    "pure-dir-with-needless-whiteout": [("upper", "whiteout", "x/y")],
    "lower-dir-with-only-whiteouts": [("lower0", "whiteout", "x/y"), ("lower1", "file", "x/y")],
    "upper-full-dir": [("upper", "file", "x/y")],
    "lower-full-dir": [("lower0", "file", "x/y")],
    "merged-full-dir": [("upper", "dir", "x"), ("lower1", "file", "x/y")],
    "dir-over-file": [("upper", "dir", "x"), ("lower0", "file", "x")],
    "dir-over-whiteout": [("upper", "dir", "x"), ("lower0", "whiteout", "x"), ("lower1", "file", "x/y")],
}  # fmt: skip
"""What `x` is made of: (layer, kind, path)."""


def furnish(b: Builder, what: str) -> None:
    """Builds one of REMOVED."""
    layers = {"upper": b.upper, "lower0": b.lower(0), "lower1": b.lower(1)}
    for where, kind, path in REMOVED[what]:
        layer = layers[where]
        if kind == "fifo":
            layer.node(path, stat.S_IFIFO)
        elif kind == "char":
            layer.node(path, stat.S_IFCHR, (1, 3))
        else:
            make: dict[str, Callable[[str], None]] = {
                "file": layer.file,
                "dir": layer.dir,
                "symlink": layer.symlink,
                "whiteout": layer.whiteout,
                "opaque": layer.opaque,
            }
            make[kind](path)


def removing(what: str, how: str) -> Case:
    """Removes one kind of thing with unlink or rmdir, then makes a file and a directory of its name, and removes them again."""

    def build(b: Builder) -> Steps:
        furnish(b, what)
        remove = os.unlink if how == "unlink" else os.rmdir

        def steps(a: Actor) -> None:
            a(remove, "x")
            a(ops.listing)
            a(ops.lstat, "x")
            a(remove, "x")

        return steps

    return build


def remaking(what: str) -> Case:
    """Removes a thing, makes a directory in its place, fills it, empties it, removes it, and makes a file."""

    def build(b: Builder) -> Steps:
        furnish(b, what)

        def steps(a: Actor) -> None:
            if a(os.unlink, "x") is None:
                a(os.rmdir, "x")
            a(os.mkdir, "x", 0o705)
            a(ops.listing, "x")
            a(ops.create, "x/y", b"again")
            a(os.mkdir, "x/z")
            a(ops.listing, "x")
            a(os.rmdir, "x")
            a(os.unlink, "x/y")
            a(os.rmdir, "x/z")
            a(os.rmdir, "x")
            a(ops.listing)
            a(ops.create, "x", b"a file now")
            a(os.unlink, "x")
            a(os.symlink, "to", "x")

        return steps

    return build


for _what in REMOVED:
    REMOVE.add(f"unlink-{_what}", removing(_what, "unlink"))
    if _what == "pure-dir-with-needless-whiteout":  # the kernel finds it not empty, though it shows nothing in it: test_own
        continue
    REMOVE.add(f"rmdir-{_what}", removing(_what, "rmdir"))
    REMOVE.add(f"remake-{_what}", remaking(_what))


@REMOVE.case
def whole_lower_tree(b: Builder) -> Steps:
    for number in range(12):
        b.lower(number % 2).file(f"t/d{number % 3}/e{number % 2}/f{number}", b"data")
    b.upper.file("t/d0/upper")

    def steps(a: Actor) -> None:
        for directory, directories, files in sorted(os.walk("t", topdown=False), reverse=True):
            for name in sorted(files):
                a(os.unlink, f"{directory}/{name}")
            for name in sorted(directories):
                a(os.rmdir, f"{directory}/{name}")
        a(os.rmdir, "t")
        a(ops.ls)
        a(os.mkdir, "t")
        a(ops.ls, "t")

    return steps


@REMOVE.case
def special_paths(b: Builder) -> Steps:
    b.lower(0).file("d/f")
    b.lower(0).symlink("s", "d")

    def steps(a: Actor) -> None:
        for path in ("d/.", "d/..", ".", "s", "s/", "d/f/", "d/f/x"):
            a(os.rmdir, path)
            a(os.unlink, path)

    return steps


@REMOVE.case
def removing_while_listing(b: Builder) -> Steps:
    for number in range(600):
        (b.upper if number % 3 else b.lower(number % 2)).file(f"d/name-{number:04}")

    def steps(a: Actor) -> None:
        a(ops.remove_while_listing, "d", 1000)
        a(ops.ls, "d")

    return steps


@REMOVE.case
def creating_while_listing_loses_nothing(b: Builder) -> Steps:
    for number in range(600):
        (b.upper if number % 3 else b.lower(number % 2)).file(f"d/name-{number:04}")

    def steps(a: Actor) -> None:
        a(ops.create_while_listing, "d", 1000)

    return steps


# ------------------------------------------------------------------------------------------------- the root of the mount

@ROOT.case
def recreated_directory_is_opaque(b: Builder) -> Steps:
    b.lower(0).file("d/old", b"old")
    b.lower(1).file("d/older/deep", b"old")

    def steps(a: Actor) -> None:
        a(os.unlink, "d/old")
        a(os.unlink, "d/older/deep")
        a(os.rmdir, "d/older")
        a(os.rmdir, "d")
        a(ops.listing)
        a(os.mkdir, "d")
        a(ops.ls, "d")
        a(ops.lstat, "d/old")

    return steps


@ROOT.case
def the_root_itself(b: Builder) -> Steps:
    b.lower(0).file("f", b"lower")

    def steps(a: Actor) -> None:
        a(ops.lstat, ".")
        a(ops.mtime, ".")
        a(os.chmod, ".", 0o711)
        a(ops.lchown, ".", 10, 20)
        a(ops.setxattr, ".", "user.root", b"here")
        a(ops.utime, ".", 5, 7)
        a(ops.times, ".")
        a(ops.xattrs, ".")
        a(ops.lstat, ".")
        a(ops.write, "f", b"LOWER")
        a(ops.times, ".")
        a(os.rmdir, ".")

    return steps


@ROOT.case
def everything_removed(b: Builder) -> Steps:
    for number in range(6):
        b.lower(number % 2).file(f"f{number}")
        b.lower(number % 2).dir(f"d{number}")
    b.upper.file("u")

    def steps(a: Actor) -> None:
        for name in sorted(os.listdir()):
            a(os.rmdir if os.path.isdir(name) else os.unlink, name)
        a(ops.listing)
        a(ops.create, "f0", b"new")
        a(os.mkdir, "d1")
        a(ops.listing)

    return steps


@ROOT.case
def statfs(b: Builder) -> Steps:
    def steps(a: Actor) -> None:
        a(ops.statfs, ".")

    return steps
