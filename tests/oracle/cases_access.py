"""Access: what may ordinary users do, whose are the things they make, and which set-id bits do their changes clear?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tests.oracle import ops
from tests.oracle.actor import Actor, umask
from tests.oracle.case import Builder, Case, LayerBuilder, Steps, Suite
from tests.support.syscalls import ACL_ACCESS, ACL_DEFAULT, acl, capability

ACCESS = Suite("access", lowers=2)

USER, FRIEND, STRANGER = 1000, 1001, 1002
GROUP = 2000

Do = Callable[[Actor], object]

DEEDS: dict[str, Do] = {
    "read": lambda a: a(ops.read, "d/f"),
    "list": lambda a: a(ops.listing, "d"),
    "stat": lambda a: a(ops.lstat, "d/f"),
    "write": lambda a: a(ops.write, "d/f", b"W"),
    "append": lambda a: a(ops.write, "d/f", b"A", os.O_WRONLY | os.O_APPEND),
    "truncate": lambda a: a(os.truncate, "d/f", 1),
    "chmod": lambda a: a(os.chmod, "d/f", 0o666),
    "chmod-set-ids": lambda a: a(os.chmod, "d/f", 0o6777),
    "chown": lambda a: a(os.chown, "d/f", STRANGER, -1),
    "chgrp": lambda a: a(os.chown, "d/f", -1, GROUP),
    "chown-nothing": lambda a: a(os.chown, "d/f", -1, -1),
    "utimes": lambda a: a(ops.utime, "d/f", 1, 2),
    "utimes-now": lambda a: a(os.utime, "d/f"),
    "setxattr": lambda a: a(ops.setxattr, "d/f", "user.x", b"1"),
    "setxattr-trusted": lambda a: a(ops.setxattr, "d/f", "trusted.x", b"1"),
    "setxattr-security": lambda a: a(ops.setxattr, "d/f", "security.x", b"1"),
    "getxattr": lambda a: a(ops.getxattr, "d/f", "user.there"),
    "getxattr-trusted": lambda a: a(ops.getxattr, "d/f", "trusted.there"),
    "listxattr": lambda a: a(os.listxattr, "d/f"),
    "setfacl": lambda a: a(ops.setxattr, "d/f", ACL_ACCESS, acl("u::rwx", "user:1001:rwx", "g::r--", "mask::rwx", "o::---")),
    "create": lambda a: a(ops.create, "d/new", b"n", 0o666),
    "mkdir": lambda a: a(os.mkdir, "d/newdir", 0o777),
    "symlink": lambda a: a(os.symlink, "x", "d/newlink"),
    "fifo": lambda a: a(os.mkfifo, "d/newfifo", 0o666),
    "device": lambda a: a(os.mknod, "d/newdev", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "whiteout": lambda a: a(os.mknod, "d/newwhiteout", stat.S_IFCHR, 0),
    "link": lambda a: a(os.link, "d/f", "d/hard"),
    "unlink": lambda a: a(os.unlink, "d/f"),
    "rename": lambda a: a(os.rename, "d/f", "d/moved"),
    "rename-over": lambda a: a(os.rename, "d/g", "d/f"),
    "rmdir": lambda a: a(os.rmdir, "d/sub"),
    "tmpfile": lambda a: a.fd("d", os.O_TMPFILE | os.O_RDWR),
    "execute": lambda a: a(os.access, "d/f", os.X_OK, effective_ids=True),
}

MODES = {
    "open": (0o777, 0o666),
    "private": (0o700, 0o600),
    "sticky": (0o1777, 0o666),
    "group": (0o770, 0o664),
    "set-ids": (0o2775, 0o6755),
}
"""Modes of the directory and of the files in it."""


def doing(deed: str, mode: str, layer: str) -> Case:
    """One deed by the owner, a member of the group, and a stranger, each in a copy of its own."""

    def build(b: Builder) -> Steps:
        target = b.upper if layer == "upper" else b.lower(1)
        people = ("owner", "member", "stranger")
        for person in people:
            _furnish(target, person, *MODES[mode])

        def steps(a: Actor) -> None:
            base = os.getcwd()
            for person, uid, groups in zip(people, (USER, FRIEND, STRANGER), ([], [GROUP], []), strict=True):
                os.chdir(f"{base}/{person}")
                with a.user(uid, groups=groups):
                    DEEDS[deed](a)
                for name in ("d", "d/f", "d/new", "d/newdir", "d/newlink", "d/newfifo", "d/hard", "d/moved"):
                    a(ops.lstat, name)
                os.chdir(base)

        return steps

    return build


def _furnish(layer: LayerBuilder, person: str, directory_mode: int, file_mode: int) -> None:
    layer.dir(f"{person}/d", mode=directory_mode, owner=(USER, GROUP))
    layer.file(f"{person}/d/f", b"file", mode=file_mode, owner=(USER, GROUP))
    layer.xattr(f"{person}/d/f", "user.there", b"1")
    layer.xattr(f"{person}/d/f", "trusted.there", b"1")
    layer.file(f"{person}/d/g", b"other", mode=file_mode, owner=(FRIEND, GROUP))
    layer.dir(f"{person}/d/sub", owner=(USER, GROUP))


for _deed in DEEDS:
    for _mode in MODES:
        for _layer in ("upper", "lower") if _deed != "chown-nothing" else ("upper",):  # of a lower file: test_own
            ACCESS.add(f"{_deed}-{_mode}-{_layer}", doing(_deed, _mode, _layer))


CLEARING: dict[str, Do] = {
    "write": lambda a: a(ops.write, "f", b"W"),
    "write-nothing": lambda a: a(ops.write, "f", b""),
    "truncate": lambda a: a(os.truncate, "f", 2),
    "truncate-to-size": lambda a: a(os.truncate, "f", 8),
    "open-trunc": lambda a: a(ops.write, "f", b"", os.O_WRONLY | os.O_TRUNC),
    "chown": lambda a: a(os.chown, "f", -1, GROUP),
    "chown-nothing": lambda a: a(os.chown, "f", -1, -1),
    "append": lambda a: a(ops.write, "f", b"A", os.O_WRONLY | os.O_APPEND),
    "mapping": lambda a: a(ops.map_write, a.fd("f", os.O_RDWR), b"M"),
    "fallocate": lambda a: a(os.posix_fallocate, a.fd("f", os.O_RDWR), 0, 100),
    "copy": lambda a: a(ops.copy_range, a.fd("source", os.O_RDONLY), a.fd("f", os.O_RDWR), 4),
    "direct": lambda a: a(ops.direct_write, a.fd("f", os.O_RDWR | os.O_DIRECT), b"D", 0),
    "chmod": lambda a: a(os.chmod, "f", 0o6755),
    "link": lambda a: a(os.link, "f", "g"),
    "rename": lambda a: a(os.rename, "f", "g"),
    "utimes": lambda a: a(os.utime, "f"),
}


def clearing(deed: str, mode: int, layer: str, uid: int) -> Case:
    """A change of a file with set-id bits and a capability, by its owner (who is in its group, or is not) or root."""

    def build(b: Builder) -> Steps:
        target = b.upper if layer == "upper" else b.lower(1)
        b.lower(1).dir(".", mode=0o777)
        target.dir(".", mode=0o777)
        target.file("f", b"set ids\n", mode=mode, owner=(USER, GROUP))
        target.xattr("f", "security.capability", capability(1 << 13))
        b.lower(0).file("source", b"source")

        def steps(a: Actor) -> None:
            if uid == 0:
                CLEARING[deed](a)
            else:
                with a.user(uid, groups=[GROUP]):
                    CLEARING[deed](a)
            for name in ("f", "g"):
                if a(ops.lstat, name) is not None:
                    a(os.listxattr, name)

        return steps

    return build


CLEAR = Suite("set-ids", lowers=2)
for _deed in CLEARING:
    for _bits in (0o6777, 0o2767, 0o2755):
        for _layer in ("upper", "lower"):
            for _uid in (USER, FRIEND, 0):
                if (_deed, _bits, _layer, _uid) == ("chown-nothing", 0o6777, "lower", FRIEND):
                    continue  # differs as that of the upper does (intended.SEEMS_A_TRUNCATE), but copies up for it
                CLEAR.add(f"{_deed}-{_bits:o}-{_layer}-by-{_uid}", clearing(_deed, _bits, _layer, _uid))


@ACCESS.case
def default_acls_and_umask(b: Builder) -> Steps:
    for layer, where in ((b.upper, "upper"), (b.lower(1), "lower")):
        layer.dir(where, mode=0o777, owner=(USER, GROUP))
        layer.xattr(where, ACL_DEFAULT, acl("u::rwx", "user:1001:rwx", "g::r-x", "mask::rwx", "o::r--"))

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            for uid in (USER, STRANGER):
                for mask in (0o022, 0o077):
                    with a.user(uid), umask(mask):
                        name = f"{where}/{uid}-{mask:o}"
                        a(ops.create, f"{name}-file", b"", 0o666)
                        a(ops.create, f"{name}-private", b"", 0o600)
                        a(os.mkdir, f"{name}-dir", 0o777)
                        a(os.mkfifo, f"{name}-fifo", 0o666)
                        a(os.symlink, "x", f"{name}-symlink")
                        fd = a.fd(where, os.O_TMPFILE | os.O_RDWR, 0o666)
                        a(ops.fstat, fd)
                        for kind in ("file", "private", "dir", "fifo", "symlink"):
                            a(ops.lstat, f"{name}-{kind}")
                            a(os.listxattr, f"{name}-{kind}", follow_symlinks=False)
                            a(ops.fails_or_value, f"{name}-{kind}", ACL_ACCESS)
                            a(ops.fails_or_value, f"{name}-{kind}", ACL_DEFAULT)

    return steps


@ACCESS.case
def acls_decide(b: Builder) -> Steps:
    for layer, where in ((b.upper, "upper"), (b.lower(1), "lower")):
        layer.file(where, b"secret", mode=0o660, owner=(USER, USER))
        layer.xattr(where, ACL_ACCESS, acl("u::rw-", f"user:{FRIEND}:rw-", "g::---", f"group:{GROUP}:r--", "mask::rw-", "o::---"))

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            for uid, groups in ((FRIEND, []), (STRANGER, [GROUP]), (STRANGER, [])):
                with a.user(uid, groups=groups):
                    a(ops.read, where)
                    a(ops.write, where, b"S")
            a(os.chmod, where, 0o640)
            a(ops.xattrs, where)
            with a.user(FRIEND):
                a(ops.write, where, b"T")
            a(ops.removexattr, where, ACL_ACCESS)
            a(ops.lstat, where)
            with a.user(FRIEND):
                a(ops.read, where)

    return steps


@ACCESS.case
def setgid_directories(b: Builder) -> Steps:
    for layer, where in ((b.upper, "upper"), (b.lower(1), "lower")):
        layer.dir(where, mode=0o2777, owner=(USER, GROUP))

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            for uid, groups in ((USER, [GROUP]), (STRANGER, []), (0, None)):
                def make(name: str) -> None:
                    a(ops.create, f"{name}-file", b"", 0o2777)
                    a(ops.create, f"{name}-plain", b"", 0o644)
                    a(os.mkdir, f"{name}-dir", 0o755)
                    a(os.mkfifo, f"{name}-fifo", 0o644)
                    a(os.symlink, "x", f"{name}-symlink")
                    a(ops.fstat, a.fd(os.path.dirname(name), os.O_TMPFILE | os.O_RDWR, 0o2777))
                    for kind in ("file", "plain", "dir", "fifo", "symlink"):
                        a(ops.lstat, f"{name}-{kind}")

                if groups is None:
                    make(f"{where}/root")
                else:
                    with a.user(uid, groups=groups):
                        make(f"{where}/{uid}")

    return steps


@ACCESS.case
def sticky_directories(b: Builder) -> Steps:
    for layer, where in ((b.upper, "upper"), (b.lower(1), "lower")):
        layer.dir(where, mode=0o1777, owner=(USER, USER))
        for name in ("own", "other", "third", "fourth"):
            layer.file(f"{where}/{name}", mode=0o666, owner=(FRIEND if name == "own" else STRANGER, GROUP))

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            with a.user(FRIEND):
                a(os.unlink, f"{where}/other")
                a(os.rename, f"{where}/other", f"{where}/taken")
                a(os.rename, f"{where}/own", f"{where}/other")
                a(os.rename, f"{where}/own", f"{where}/mine")
                a(os.unlink, f"{where}/mine")
            with a.user(USER):
                a(os.unlink, f"{where}/third")
            with a.user(STRANGER):
                a(os.unlink, f"{where}/fourth")
            a(ops.ls, where)

    return steps


@ACCESS.case
def searching_needs_the_right(b: Builder) -> Steps:
    b.lower(1).file("closed/f", b"x", mode=0o666)
    b.lower(1).dir("closed", mode=0o700, owner=(USER, USER))
    b.lower(0).dir("search-only", mode=0o711, owner=(USER, USER))
    b.lower(0).file("search-only/f", b"x", mode=0o644)
    b.lower(0).dir("read-only", mode=0o744, owner=(USER, USER))
    b.lower(0).file("read-only/f", b"x", mode=0o644)

    def steps(a: Actor) -> None:
        for uid in (USER, STRANGER):
            with a.user(uid):
                for directory in ("closed", "search-only", "read-only"):
                    a(ops.ls, directory)
                    a(ops.read, f"{directory}/f")
                    a(ops.lstat, f"{directory}/f")
                    a(ops.lstat, f"{directory}/absent")
                    a(ops.create, f"{directory}/new-{uid}")

    return steps


@ACCESS.case
def a_user_works_in_copied_up_parents(b: Builder) -> Steps:
    b.lower(1).dir("home", mode=0o755)
    b.lower(1).dir("home/user", mode=0o700, owner=(USER, USER))
    b.lower(1).file("home/user/notes", b"notes", mode=0o600, owner=(USER, USER))

    def steps(a: Actor) -> None:
        with a.user(USER):
            a(ops.write, "home/user/notes", b"NOTES")
            a(os.mkdir, "home/user/sub", 0o700)
            a(ops.create, "home/user/sub/f", b"mine", 0o600)
            a(os.rename, "home/user/notes", "home/user/sub/notes")
            a(os.link, "home/user/sub/notes", "home/user/again")
            a(os.unlink, "home/user/sub/notes")
            a(ops.create, "home/outside")
        for name in ("home", "home/user", "home/user/sub", "home/user/sub/f", "home/user/again"):
            a(ops.lstat, name)

    return steps


@ACCESS.case
def supplementary_groups(b: Builder) -> Steps:
    b.lower(1).dir("d", mode=0o2770, owner=(0, GROUP))
    b.lower(1).file("d/f", b"group's", mode=0o660, owner=(0, GROUP))

    def steps(a: Actor) -> None:
        for groups in ([], [GROUP], [5, GROUP, 7]):
            with a.user(USER, groups=groups):
                a(ops.read, "d/f")
                a(ops.write, "d/f", b"G")
                a(ops.create, f"d/new{len(groups)}", b"", 0o664)
                a(os.chown, f"d/new{len(groups)}", -1, USER)
                a(os.chmod, f"d/new{len(groups)}", 0o2664)
            a(ops.lstat, f"d/new{len(groups)}")

    return steps
