"""Does anything of the work directory stick to what is staged in it: its default ACL, its group?"""

from __future__ import annotations

import os

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers
from tests.support.syscalls import ACL_ACCESS, ACL_DEFAULT, acl
from tests.support.trees import snapshot

INHERITED = acl("u::rwx", "user:1234:rwx", "g::r-x", "mask::rwx", "o::r-x")
ROOM = acl("u::rwx", "g::rwx", "o::rwx")
NAMES = ("a", "dir", "symlink", "fifo", "gone", "hidden", "moved", "source")


def set_up(layers: Layers) -> None:
    """A work directory that hands down an ACL and a group; so does the `work` that an earlier mount left in it."""
    assert layers.work is not None
    leftover = layers.work / "work"
    leftover.mkdir()
    for path in (layers.work, leftover):
        os.setxattr(path, ACL_DEFAULT, INHERITED)
        os.chown(path, 0, 2000)
        path.chmod(0o2777)


def fill(layers: Layers, b: Builder) -> None:
    """One lower object of most types, in a root that everybody may change."""
    for name in ("a", "gone", "moved"):
        b.lower().file(name, b"data")
    b.lower().file("dir/inside")
    b.lower().file("hidden/inside")
    b.lower().symlink("symlink")
    b.lower().node("fifo", 0o010000)
    for path in (*layers.lowers, layers.top):
        path.chmod(0o777)
    set_up(layers)


def copy_up_and_create(a: Actor) -> None:
    """Copy-ups of every type, and new objects where whiteouts were, which are staged too."""
    a(os.chmod, "a", 0o640)
    a(os.chmod, "dir", 0o750)
    a(os.chmod, "fifo", 0o640)
    a(ops.lchown, "symlink", 5, 6)
    for name in ("gone", "moved", "hidden/inside"):
        a(os.unlink, name)
    a(os.rmdir, "hidden")
    with a.user(1000):
        a(ops.create, "gone", b"new", 0o666)
        a(os.mkdir, "hidden", 0o777)
        a(ops.create, "hidden/inside")
        a(os.symlink, "target", "moved")
        a(ops.create, "source", b"x")
    for name in NAMES:
        a(ops.lstat, name)
        a(ops.fails_or_value, name, ACL_ACCESS)
        a(ops.fails_or_value, name, ACL_DEFAULT)


def test_nothing_is_inherited_from_the_work_directory(make_layers: LayersFactory, subject: Driver) -> None:
    ours, kernel = both(make_layers, subject, fill, copy_up_and_create)
    assert ours == kernel
    assert any("type='dir'" in line for line in ours)


@pytest.mark.parametrize("default_acl", [True, False], ids=["acl in upper", "no acl in upper"])
def test_on_the_upper_layer_itself(default_acl: bool, layers: Layers, subject: Driver) -> None:
    """What lies in the upper belongs to who made it, and has the ACL of its parent there or none."""
    fill(layers, Builder(layers, "."))
    if default_acl:
        os.setxattr(layers.top, ACL_DEFAULT, ROOM)
    with subject.mount(layers) as mnt:
        (mnt / "a").chmod(0o640)
        (mnt / "gone").unlink()
        ops.create(str(mnt / "gone"))
    tree = snapshot(layers.top)
    for name in ("a", "gone"):
        found = tree[name]
        assert (found.uid, found.gid) == (0, 0)
        assert ACL_ACCESS not in dict(found.xattrs or ())
    assert tree["a"].mode == 0o640
