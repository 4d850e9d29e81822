"""What is left when a system call fails in the middle of a change?

Every change is made again and again, and each time another one of the calls that change something fails.  Whichever it
is: the layers show the state before the change or the one after it, the union knows which, and nothing else is left.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import opened
from tests.support.lowers import changes_meant
from tests.support.mounts import Layers
from unionfs.linux import at, fs, xattr
from unionfs.overlay import attrs, create, lookup, merge, remove, rename, xattrs
from unionfs.overlay.creator import Creator
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union

CALLS: list[tuple[object, str]] = [
    (at, "rename"), (at, "link"), (at, "chown"), (at, "chmod"), (at, "utimens"), (xattr, "write"), (xattr, "remove"),
    (os, "mkdir"), (os, "mknod"), (os, "symlink"), (os, "unlink"), (os, "rmdir"), (os, "ftruncate"), (os, "copy_file_range"),
    (fs, "write_out"), (os, "fsync"), (fs, "reflink"),
]  # fmt: skip
"""Whatever changes the upper layer; opening with O_CREAT comes on top."""

A_LONG_TIME_AGO = 1_000_000_000
WHO = Creator(1000, 1000, 0o022)


class Fault:
    """Makes one call fail: the one with the number `at`, counted from 0; `hit` says which it was."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self._left = at
        self.hit = ""
        for module, name in CALLS:
            patch.setattr(module, name, self._wrap(name, getattr(module, name)))
        patch.setattr(os, "open", self._wrap("open", os.open))

    def _wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if name == "open" and not _makes(args[1]):
                return call(*args, **named)
            self._left -= 1
            if self._left == -1:
                self.hit = f"{name}{args}"
                raise OSError(errno.ENOSPC, "this one fails")
            return call(*args, **named)

        return wrapped


def _makes(flags: int) -> bool:
    """Does an open with these flags make something?"""
    return bool(flags & os.O_CREAT) or (flags & os.O_TMPFILE) == os.O_TMPFILE


def build(layers: Layers) -> None:
    """A bit of everything, in two lower layers and the upper one."""
    top, middle, bottom = layers.top, *layers.lowers
    for place in (top, middle, bottom):
        for name in ("merged", "emptied", "d"):
            (place / name).mkdir()
    for name in ("file", "second", "d/file", "emptied/hidden", "gone", "gone dir/file", "both"):
        (bottom / name).parent.mkdir(exist_ok=True)
        (bottom / name).write_bytes(b"below " + name.encode())
    os.chmod(bottom / "file", 0o4755)
    os.chown(bottom / "file", 500, 600)
    os.setxattr(bottom / "file", "user.colour", b"red")
    (bottom / "symlink").symlink_to("target")
    os.mkfifo(bottom / "fifo")
    (bottom / "empty dir").mkdir()
    (bottom / "lower dir" / "inner").mkdir(parents=True)
    (bottom / "lower dir" / "inner" / "file").write_bytes(b"deep")
    for name in ("gone", "gone dir", "emptied/hidden"):
        os.mknod(top / name, 0o20000, 0)
    (top / "both").write_bytes(b"above")
    (top / "own").write_bytes(b"own")
    (top / "linked").write_bytes(b"linked")
    os.link(top / "linked", top / "link")
    (top / "own dir").mkdir()
    (top / "own dir" / "file").write_bytes(b"")
    (top / "own empty").mkdir()


def node_at(union: Union, path: str) -> Node:
    """The node of a path that is there."""
    node: Node = union.root
    for name in path.split("/"):
        assert isinstance(node, DirNode)
        found = lookup.lookup(union, node, name.encode())
        assert found is not None, path
        node = found[0]
    return node


def place(union: Union, path: str) -> tuple[Union, DirNode, bytes]:
    """What the changes of a name begin with."""
    parent, _, name = path.rpartition("/")
    node = node_at(union, parent) if parent else union.root
    assert isinstance(node, DirNode)
    return union, node, name.encode()


def moved(union: Union, old: str, new: str, flags: int = 0) -> None:
    rename.rename(*place(union, old), *place(union, new)[1:], flags)


def made(union: Union, path: str) -> None:
    os.close(create.create_file(*place(union, path), 0o640, WHO)[2])


CHANGES: dict[str, Callable[[Union], object]] = {
    "chmod of a file": lambda union: attrs.chmod(union, node_at(union, "file"), 0o600),
    "chown of a deep file": lambda union: attrs.chown(union, node_at(union, "lower dir/inner/file"), 7, 8, lambda gid: True),
    "times of a symlink": lambda union: attrs.utimens(union, node_at(union, "symlink"), (1, 2), (3, 4)),
    "chmod of a fifo": lambda union: attrs.chmod(union, node_at(union, "fifo"), 0o600),
    "chmod of a directory": lambda union: attrs.chmod(union, node_at(union, "lower dir"), 0o700),
    "truncation": lambda union: attrs.truncate(union, node_at(union, "file"), 3),
    "xattr": lambda union: xattrs.put(union, node_at(union, "file"), "user.new", b"1", 0),
    "unlink of a lower file": lambda union: remove.unlink(*place(union, "file")),
    "unlink of a deep lower file": lambda union: remove.unlink(*place(union, "lower dir/inner/file")),
    "unlink of an upper file": lambda union: remove.unlink(*place(union, "own")),
    "unlink of a file in both": lambda union: remove.unlink(*place(union, "both")),
    "unlink of a link": lambda union: remove.unlink(*place(union, "linked")),
    "rmdir of a lower directory": lambda union: remove.rmdir(*place(union, "empty dir")),
    "rmdir of an upper directory": lambda union: remove.rmdir(*place(union, "own empty")),
    "rmdir of whiteouts": lambda union: remove.rmdir(*place(union, "emptied")),
    "creat": lambda union: made(union, "new"),
    "creat in a lower directory": lambda union: made(union, "lower dir/inner/new"),
    "creat over a whiteout": lambda union: made(union, "gone"),
    "mkdir": lambda union: create.make_directory(*place(union, "new"), 0o750, WHO),
    "mkdir over a whiteout": lambda union: create.make_directory(*place(union, "gone dir"), 0o750, WHO),
    "symlink over a whiteout": lambda union: create.make_symlink(*place(union, "gone"), b"target", WHO),
    "link of an upper file": lambda union: create.link(union, node_at(union, "own"), *place(union, "new")[1:]),
    "link of a lower file": lambda union: create.link(union, node_at(union, "file"), *place(union, "new")[1:]),
    "link over a whiteout": lambda union: create.link(union, node_at(union, "own"), *place(union, "gone")[1:]),
    "rename of an upper file": lambda union: moved(union, "own", "new"),
    "rename of a lower file": lambda union: moved(union, "file", "new"),
    "rename of a file in both": lambda union: moved(union, "both", "d/new"),
    "rename over a lower file": lambda union: moved(union, "own", "file"),
    "rename over an upper file": lambda union: moved(union, "file", "own"),
    "rename over a link": lambda union: moved(union, "own", "linked"),
    "rename over a whiteout": lambda union: moved(union, "own", "gone"),
    "rename of a directory": lambda union: moved(union, "own dir", "d/new"),
    "rename of a directory over a whiteout": lambda union: moved(union, "own dir", "gone dir"),
    "rename of a directory over an emptied one": lambda union: moved(union, "own dir", "emptied"),
    "exchange of files": lambda union: moved(union, "file", "second", at.RENAME_EXCHANGE),
    "exchange of a file and a directory": lambda union: moved(union, "own dir", "d/file", at.RENAME_EXCHANGE),
}

View = dict[str, tuple[object, ...]]


def view(union: Union) -> View:
    """Everything that shows, as the union has it now; an index must agree with the layers."""
    shown: View = {}

    def walk(node: DirNode, prefix: str) -> None:
        names = set(merge.build(union, node).names)
        if node.index is not None:
            assert set(node.index.names) == names, prefix
        for name in sorted(names):
            path = prefix + os.fsdecode(name)
            child = node_at_name(union, node, name)
            shown[path] = describe(union, child)
            if isinstance(child, DirNode):
                walk(child, path + "/")

    walk(union.root, "")
    return shown


def node_at_name(union: Union, parent: DirNode, name: bytes) -> Node:
    found = lookup.lookup(union, parent, name)
    assert found is not None, f"{name!r} is listed, but not there"
    return found[0]


def describe(union: Union, node: Node) -> tuple[object, ...]:
    """Type, permissions, owner, links, xattrs, content, and a modification time that was set."""
    found = attrs.real_stat(node)
    content: object = None
    if node.is_regular:
        fd = at.open_at(*node.at(), os.O_RDONLY)
        content = os.read(fd, 1000)
        os.close(fd)
    if node.is_symlink:
        content = attrs.read_link(node)
    names = tuple(sorted(xattrs.names(union, node, trusted=True)))
    links = None if node.is_dir else attrs.link_count(node, found)
    time = found.mtime_ns if found.mtime < A_LONG_TIME_AGO else None
    return found.mode, found.uid, found.gid, links, names, content, time


def view_of(layers: Layers) -> View:
    """What the layers show to a union that knows nothing of what has happened."""
    with opened(Layers((layers.top, *layers.lowers), None, None, layers.mnt)) as union:
        seen = view(union)
    changes_meant(layers.top)
    return seen


def staged(layers: Layers) -> list[str]:
    """What lies in the work directory but whiteouts kept for linking."""
    assert layers.work is not None
    work = layers.work / "work"
    return [name for name in os.listdir(work) if not (work / name).is_char_device()]


def descriptors(union: Union) -> list[str]:
    """What is open, but for the directories that are kept open to be used again."""
    union.layers[0].descriptors.close()
    found = []
    for number in os.listdir("/proc/self/fd"):
        path = Path(f"/proc/self/fd/{number}")
        if path.is_symlink():
            found.append(os.readlink(path))
    return sorted(found)


@pytest.mark.parametrize("indexed", [False, True], ids=["by lookups", "by index"])
@pytest.mark.parametrize("what", CHANGES)
def test_every_call_may_fail(what: str, indexed: bool, make_layers: LayersFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    change = CHANGES[what]
    sound = make_layers(lowers=2)
    build(sound)
    before = view_of(sound)
    with opened(sound) as union:
        change(union)
        after = view(union)
    assert view_of(sound) == after != before
    number, hit = 0, "the first"
    while hit:
        layers = make_layers(lowers=2)
        build(layers)
        with opened(layers) as union:
            view(union)
            if indexed:
                merge.index_of(union, union.root)
            hit = fails_at(number, change, union, layers, before, after, monkeypatch)
        number += 1
    assert number > 1, "nothing could fail"


@pytest.mark.parametrize("what", [what for what in CHANGES if what.startswith("rename")])
def test_every_call_may_fail_without_rename_whiteout(
    what: str, make_layers: LayersFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems can only rename."""
    real = at.rename

    def plain(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int = 0) -> None:
        if flags & at.RENAME_WHITEOUT:
            raise OSError(errno.EINVAL, "no such flag")
        real(old_fd, old, new_fd, new, flags)

    monkeypatch.setattr(at, "rename", plain)
    test_every_call_may_fail(what, False, make_layers, monkeypatch)


def fails_at(
    number: int, change: Callable[[Union], object], union: Union, layers: Layers, before: View, after: View,
    monkeypatch: pytest.MonkeyPatch,
) -> str:  # fmt: skip
    """Make the change with one call failing; that call, or nothing if there are not that many."""
    open_before = descriptors(union)
    with monkeypatch.context() as patch:
        fault = Fault(patch, number)
        said = 0
        try:
            change(union)
        except OSError as error:
            said = error.errno or errno.EIO
    seen = view_of(layers)
    assert view(union) == seen, f"{fault.hit}: the union does not know what is there"
    if not said:
        assert seen == after, f"{fault.hit}: nothing was said of the failure"
        return fault.hit
    assert said in (errno.ENOSPC, errno.EXDEV), fault.hit
    assert seen in (before, after), f"{fault.hit}: neither before nor after"
    if not fault.hit.startswith(("unlink", "rmdir")):
        assert staged(layers) == [], fault.hit
    if seen == before:
        assert descriptors(union) == open_before, fault.hit
        change(union)
        assert view(union) == view_of(layers) == after, f"{fault.hit}: it can't be done again"
    return fault.hit
