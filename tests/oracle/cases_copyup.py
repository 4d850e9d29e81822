"""Copy-up: what does a lower object carry into the upper, whatever the first change was, and what stays as it was?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Case, LayerBuilder, Steps, Suite
from tests.support.syscalls import ACL_ACCESS, ACL_DEFAULT, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, acl, capability, fallocate

COPYUP = Suite("copyup", lowers=2)

NS = 987_654_321
ACCESS = acl("u::rw-", "user:1001:rwx", "g::r--", "mask::rwx", "o::---")
DEFAULT = acl("u::rwx", "user:1002:r-x", "g::r-x", "mask::r-x", "o::--x")
OWNER = (1234, 2345)


def everything(layer: LayerBuilder, kind: str, name: str) -> None:
    """One object of a kind with all that copy-up must carry: owner, mode, several xattrs, ACLs, a capability, and old times (by
    Suite.build).
    """
    if kind == "file":
        layer.file(name, b"The quick brown fox\n" * 1000, mode=0o6754, owner=OWNER)
        layer.xattr(name, "security.capability", capability(1 << 10))
        layer.xattr(name, "user.one", b"1" * 500)
        layer.xattr(name, "user.empty", b"")
        layer.xattr(name, ACL_ACCESS, ACCESS)
    elif kind == "empty":
        layer.file(name, mode=0o400, owner=OWNER)
    elif kind == "dir":
        layer.dir(name, mode=0o3751, owner=OWNER)
        layer.file(f"{name}/inside", b"inside")
        layer.xattr(name, "user.one", b"1")
        layer.xattr(name, ACL_ACCESS, ACCESS)
        layer.xattr(name, ACL_DEFAULT, DEFAULT)
    elif kind == "symlink":
        layer.symlink(name, "some/where", owner=OWNER)
    elif kind == "fifo":
        layer.node(name, stat.S_IFIFO, mode=0o624, owner=OWNER)
        layer.xattr(name, ACL_ACCESS, ACCESS)
    elif kind == "socket":
        layer.node(name, stat.S_IFSOCK, mode=0o624, owner=OWNER)
    elif kind == "char":
        layer.node(name, stat.S_IFCHR, (1, 3), mode=0o624, owner=OWNER)
    elif kind == "block":
        layer.node(name, stat.S_IFBLK, (3, 1), mode=0o624, owner=OWNER)
    layer.xattr(name, "trusted.two", b"\x00\xff binary")
    layer.xattr(name, "security.mark", b"kept")


KINDS = ("file", "empty", "dir", "symlink", "fifo", "socket", "char", "block")

Trigger = Callable[[Actor, str], object]


def opening(flags: int) -> Trigger:
    """Opens with flags and closes again, changing nothing else. FIFOs and devices must not block: O_NONBLOCK."""

    def trigger(a: Actor, name: str) -> None:
        fd = a.fd(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
        if fd >= 0:
            os.close(fd)

    return trigger


TRIGGERS: dict[str, Trigger] = {
    "read-only": opening(os.O_RDONLY),
    "write-only": opening(os.O_WRONLY),
    "read-write": opening(os.O_RDWR),
    "append": opening(os.O_WRONLY | os.O_APPEND),
    "open-trunc": opening(os.O_WRONLY | os.O_TRUNC),
    "read-only-trunc": opening(os.O_RDONLY | os.O_TRUNC),
    "creat": opening(os.O_RDWR | os.O_CREAT),
    "truncate-0": lambda a, name: a(os.truncate, name, 0),
    "truncate-shorter": lambda a, name: a(os.truncate, name, 100),
    "truncate-longer": lambda a, name: a(os.truncate, name, 100_000),
    "truncate-same": lambda a, name: a(os.truncate, name, 20_000),
    "chmod": lambda a, name: a(os.chmod, name, 0o1604),
    "chown": lambda a, name: a(ops.lchown, name, 77, 88),
    "chown-nothing": lambda a, name: a(ops.lchown, name, -1, -1),
    "utimes": lambda a, name: a(ops.utime, name, 5 * 10**9 + NS, 7 * 10**9 + NS),
    "utimes-now": lambda a, name: a(os.utime, name, follow_symlinks=False),
    "setxattr-user": lambda a, name: a(ops.setxattr, name, "user.new", b"value"),
    "setxattr-trusted": lambda a, name: a(ops.setxattr, name, "trusted.new", b"value"),
    "setxattr-replace": lambda a, name: a(ops.setxattr, name, "trusted.two", b"other", os.XATTR_REPLACE),
    "setxattr-private": lambda a, name: a(ops.setxattr, name, "trusted.overlay.opaque", b"y"),
    "removexattr": lambda a, name: a(ops.removexattr, name, "trusted.two"),
    "removexattr-absent": lambda a, name: a(ops.removexattr, name, "trusted.absent"),
    "setfacl": lambda a, name: a(ops.setxattr, name, ACL_ACCESS, acl("u::rwx", "user:1003:r-x", "g::r-x", "mask::r-x", "o::r--")),
    "setfacl-minimal": lambda a, name: a(ops.setxattr, name, ACL_ACCESS, acl("u::r-x", "g::--x", "o::--x")),
    "setfacl-default": lambda a, name: a(ops.setxattr, name, ACL_DEFAULT, acl("u::rwx", "g::r-x", "o::---")),
    "removefacl": lambda a, name: a(ops.removexattr, name, ACL_ACCESS),
    "link": lambda a, name: a(os.link, name, "linked", follow_symlinks=False),
    "rename": lambda a, name: a(os.rename, name, "d/renamed"),
}


def copying(kind: str, trigger: Trigger) -> Case:
    """Changes one object of a kind three directories down, and looks at all of it and at its parents."""

    def build(b: Builder) -> Steps:
        b.lower(0).dir("d", mode=0o1777, owner=(5, 5))
        b.lower(1).dir("d/e", mode=0o750, owner=(6, 6))
        b.lower(1).xattr("d/e", "user.parent", b"kept")
        b.lower(1).xattr("d/e", ACL_DEFAULT, DEFAULT)
        everything(b.lower(1), kind, "d/e/x")

        def steps(a: Actor) -> None:
            ino = os.lstat("d/e/x").st_ino
            parents = {path: ops.mtime(path) for path in ("d", "d/e")}
            trigger(a, "d/e/x")
            for name in ("d/e/x", "linked", "d/renamed"):
                if a(ops.lstat, name) is not None:
                    a(ops.xattrs, name)
                    a.note(f"{name}: inode number kept", os.lstat(name).st_ino == ino)
            for path, before in parents.items():
                a(ops.lstat, path)
                a(ops.xattrs, path)
                a.note(f"{path}: mtime kept", ops.mtime(path) == before)
            a(ops.listing, "d/e")

        return steps

    return build


for _kind in KINDS:
    for _name, _trigger in TRIGGERS.items():
        # Only set-id bits make it a change; without them the kernel copies up in vain: test_own.
        if _name == "chown-nothing" and _kind != "file":
            continue
        COPYUP.add(f"{_name}-of-{_kind}", copying(_kind, _trigger))


@COPYUP.case
def atime_and_mtime_are_carried(b: Builder) -> Steps:
    for kind in KINDS:
        everything(b.lower(1), kind, f"x-{kind}")

    def steps(a: Actor) -> None:
        for kind in KINDS:
            before = ops.times(f"x-{kind}")
            a(ops.lchown, f"x-{kind}", 9, 9)
            a.note(f"{kind}: times kept", ops.times(f"x-{kind}") == before)

    return steps


@COPYUP.case
def data_of_every_size(b: Builder) -> Steps:
    sizes = (1, 4095, 4096, 4097, 131071, 131072, 1 << 20, (1 << 20) + 1, 5 << 20)
    for size in sizes:
        b.lower(1).file(f"f{size}", bytes(range(251)) * (size // 251) + b"e" * (size % 251))

    def steps(a: Actor) -> None:
        for size in sizes:
            fd = a.fd(f"f{size}", os.O_RDWR)
            a(ops.write_fd, fd, b"changed", size // 2)
            a(ops.digest, f"f{size}")
            a(ops.lstat, f"f{size}")
            os.close(fd)

    return steps


@COPYUP.case
def holes_are_kept(b: Builder) -> Steps:
    b.lower(1).sparse("middle", 10 << 20, {0: b"start" * 1000, 5 << 20: b"middle" * 1000})
    b.lower(1).sparse("all-hole", 64 << 20, {})
    b.lower(1).sparse("tail", 3 << 20, {(3 << 20) - 5: b"bytes"})
    b.lower(1).sparse("head-hole", 1 << 20, {4096 * 100: b"x"})

    def steps(a: Actor) -> None:
        for name in ("middle", "all-hole", "tail", "head-hole"):
            a(ops.extents, name)
            fd = a.fd(name, os.O_RDWR)
            # The kernel copies in steps of 1 MiB, and so fills the holes that lie within one.
            a.note("no more data than in steps of 1 MiB", ops.blocks(name) <= 2048)
            a(ops.lstat, name)
            a(ops.digest, name)
            os.close(fd)

    return steps


@COPYUP.case
def setxattr_that_fails(b: Builder) -> Steps:
    for kind in KINDS:
        everything(b.upper, kind, kind)

    def steps(a: Actor) -> None:
        for kind in KINDS:
            a(ops.setxattr, kind, "trusted.two", b"other", os.XATTR_CREATE)
            a(ops.setxattr, kind, "trusted.absent", b"other", os.XATTR_REPLACE)
            a(ops.setxattr, kind, "unknown.namespace", b"x")
            a(ops.setxattr, kind, "trusted.", b"x")
            a(ops.setxattr, kind, "trusted." + "n" * 300, b"x")
            a(ops.setxattr, kind, "trusted.large", b"x" * 70000)
            a(ops.xattrs, kind)

    return steps


@COPYUP.case
def sparse_file_over_4_gib(b: Builder) -> Steps:
    four = 1 << 32
    b.lower(1).sparse("big", four + (1 << 20), {0: b"low", four - 2: b"over", four + 4096: b"high"})

    def steps(a: Actor) -> None:
        a(ops.lstat, "big")
        fd = a.fd("big", os.O_RDWR)
        a(ops.read_fd, fd, four - 2, 4)
        a(ops.write_fd, fd, b"OVER", four - 2)
        a(ops.write_fd, fd, b"end", 2 * four)
        a(ops.read_fd, fd, four - 2, 4)
        a(ops.fstat, fd)
        a(ops.seek, fd, four + (1 << 20), os.SEEK_DATA)
        a(ops.seek, fd, four + (1 << 20), os.SEEK_HOLE)
        a(os.ftruncate, fd, four + 1)
        a(ops.lstat, "big")
        a(fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, four - 4096, 4096)
        a(ops.seek, fd, four - 4096, os.SEEK_DATA)
        a(ops.digest, "big")

    return steps


@COPYUP.case
def deep_parents(b: Builder) -> Steps:
    for depth in range(1, 9):
        path = "/".join(f"d{number}" for number in range(depth))
        b.lower(depth % 2).dir(path, mode=0o700 + depth, owner=(depth, depth))
    b.lower(0).file("d0/d1/d2/d3/d4/d5/d6/d7/f", b"deep")

    def steps(a: Actor) -> None:
        a(ops.write, "d0/d1/d2/d3/d4/d5/d6/d7/f", b"DEEP")
        path = "d0"
        for depth in range(1, 9):
            a(ops.lstat, path)
            a(ops.mtime, path)
            path += f"/d{depth}"

    return steps


@COPYUP.case
def descriptors_opened_before_see_the_new_data(b: Builder) -> Steps:
    b.lower(0).file("f", b"old data " * 1000)

    def steps(a: Actor) -> None:
        early = a.fd("f", os.O_RDONLY)
        a(ops.read_fd, early, 0, 8)
        a(ops.write, "f", b"NEW")
        a(ops.read_fd, early, 0, 8)
        a(os.truncate, "f", 5)
        a(ops.read_fd, early, 0, 20)
        a(ops.fstat, early)
        late = a.fd("f", os.O_RDONLY)
        a(ops.read_fd, late, 0, 20)
        a.note("one inode", os.fstat(early).st_ino == os.fstat(late).st_ino)
        a(os.fchmod, early, 0o600)
        a(ops.lstat, "f")
        a(ops.setxattr, "f", "user.x", b"1")
        a(os.fsync, early)

    return steps


@COPYUP.case
def descriptors_without_a_read_before(b: Builder) -> Steps:
    b.lower(0).file("f", b"old data " * 1000)

    def steps(a: Actor) -> None:
        early = a.fd("f", os.O_RDONLY)
        a(ops.write, "f", b"NEW", os.O_WRONLY | os.O_TRUNC)
        a(ops.read_fd, early, 0, 20)
        a(ops.fstat, early)

    return steps


@COPYUP.case
def change_by_descriptor(b: Builder) -> Steps:
    b.lower(0).file("f", b"lower", mode=0o644)
    b.lower(0).dir("d")

    def steps(a: Actor) -> None:
        for name in ("f", "d"):
            fd = a.fd(name, os.O_RDONLY)
            a(os.fchmod, fd, 0o700)
            a(os.fchown, fd, 4, 5)
            a(os.utime, fd, ns=(1, 2))
            a(os.setxattr, fd, "user.by", b"descriptor")
            a(os.fsync, fd)
            a(ops.fstat, fd)
            a(ops.lstat, name)
            a(ops.xattrs, name)
            a(ops.times, name)
        a(os.ftruncate, a.fd("f", os.O_RDONLY), 3)
        a(os.ftruncate, a.fd("f", os.O_RDWR), 3)
        a(ops.read, "f")

    return steps


@COPYUP.case
def written_through_a_mapping(b: Builder) -> Steps:
    b.lower(0).file("f", b"x" * 10000)

    def steps(a: Actor) -> None:
        fd = a.fd("f", os.O_RDWR)
        a(ops.map_write, fd, b"mapped", 5000)
        a(ops.read_fd, fd, 4998, 10)
        a(ops.digest, "f")
        reader = a.fd("f", os.O_RDONLY)
        a(ops.map_read, reader, 10)
        a(ops.lstat, "f")

    return steps


@COPYUP.case
def executing_lower_and_copied_up_files(b: Builder) -> Steps:
    b.lower(0).file("script", b"#!/bin/sh\necho from the script\n", mode=0o755)
    with open("/bin/true", "rb") as program:
        b.lower(0).file("true", program.read(), mode=0o755)

    def steps(a: Actor) -> None:
        for _ in range(2):
            a(ops.run, "./script")
            a(ops.run, "./true")
            a(ops.write, "script", b"# now in the upper\n", os.O_WRONLY | os.O_APPEND)
            a(os.chmod, "true", 0o711)

    return steps
