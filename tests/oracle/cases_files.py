"""Open files: what do descriptors show and allow, before and after their file is copied up, replaced, or has lost its name?"""

from __future__ import annotations

import errno
import os
import stat

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Case, Steps, Suite
from tests.support.syscalls import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_INSERT_RANGE,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    fallocate,
    link_fd,
)

FILES = Suite("files", lowers=2)
UNLINKED = Suite("unlinked", lowers=2)

KINDS = ("upper", "lower", "copied-up", "created")


def prepare(b: Builder, kind: str, data: bytes) -> None:
    """The file `f`, in the upper or a lower, or to be made by `start`."""
    if kind == "upper":
        b.upper.file("f", data)
    elif kind in ("lower", "copied-up"):
        b.lower(1).file("f", data)


def start(a: Actor, kind: str, data: bytes) -> None:
    """Makes `f` what its kind says."""
    if kind == "copied-up":
        a(os.chmod, "f", 0o640)
    elif kind == "created":
        a(ops.create, "f", data)


# ------------------------------------------------------------------------------------------------------ unlinked but open

def unlinked(kind: str, flags: int, how: str) -> Case:
    """Opens a file, takes its name away, and does everything to the descriptor."""

    def build(b: Builder) -> Steps:
        prepare(b, kind, b"some data")
        b.lower(0).file("other", b"takes the name")

        def steps(a: Actor) -> None:
            start(a, kind, b"some data")
            fd = a.fd("f", flags)
            if how == "unlinked":
                a(os.unlink, "f")
            else:
                a(os.rename, "other", "f")
            use(a, fd)
            a(ops.listing)
            a(ops.lstat, "f")

        return steps

    return build


def use(a: Actor, fd: int) -> None:
    """Every operation by descriptor."""
    a(ops.fstat, fd)
    a(ops.read_fd, fd)
    a(ops.write_fd, fd, b"SOME", 2)
    a(ops.read_fd, fd)
    a(os.ftruncate, fd, 5)
    a(ops.fstat, fd)
    a(os.fchmod, fd, 0o600)
    a(os.fchown, fd, 21, 22)
    a(os.utime, fd, ns=(1, 2))
    a(os.setxattr, fd, "user.gone", b"still here")
    a(os.getxattr, fd, "user.gone")
    a(os.removexattr, fd, "user.gone")
    a(os.listxattr, fd)
    a(ops.fstat, fd)
    a(fallocate, fd, 0, 0, 10000)
    a(os.fsync, fd)
    a(ops.fstat, fd)
    a(ops.seek, fd, 0, os.SEEK_END)
    a(ops.reopen_read, fd)
    a(ops.reopen_write, fd, b"reopened")
    a(ops.read_fd, fd, 0, 20)
    a(link_fd, fd, "again")


for _kind in KINDS:
    for _how in ("unlinked", "replaced"):
        UNLINKED.add(f"{_kind}-read-write-{_how}", unlinked(_kind, os.O_RDWR, _how))
        if _kind != "lower":  # where the kernel refuses nearly everything, and ours does not: test_own
            UNLINKED.add(f"{_kind}-read-only-{_how}", unlinked(_kind, os.O_RDONLY, _how))


@UNLINKED.case
def every_other_type(b: Builder) -> Steps:
    for layer, where in ((b.upper, "upper"), (b.lower(1), "lower")):
        layer.dir(f"{where}-dir")
        layer.node(f"{where}-fifo", stat.S_IFIFO)
        layer.symlink(f"{where}-symlink", "target")
        layer.node(f"{where}-char", stat.S_IFCHR, (1, 3))

    def steps(a: Actor) -> None:
        for where in ("upper", "lower"):
            for kind in ("dir", "fifo", "symlink", "char"):
                name = f"{where}-{kind}"
                flags = os.O_PATH | os.O_NOFOLLOW if kind == "symlink" else os.O_RDONLY | os.O_NONBLOCK
                fd = a.fd(name, flags)
                a(os.rmdir if kind == "dir" else os.unlink, name)
                if kind == "dir":
                    a(os.listdir, fd)
                    a(ops.create_at, fd, "inside")
                a.note(f"{name}: type", stat.S_IFMT(os.fstat(fd).st_mode))

    return steps


@UNLINKED.case
def one_of_two_links(b: Builder) -> Steps:
    b.upper.file("a", b"two names")
    b.upper.link("a", "b")

    def steps(a: Actor) -> None:
        fd = a.fd("a", os.O_RDWR)
        a(os.unlink, "a")
        a(ops.fstat, fd)
        a(ops.write_fd, fd, b"TWO")
        a(ops.read, "b")
        a(ops.lstat, "b")
        a(os.unlink, "b")
        a(ops.fstat, fd)
        a(ops.read_fd, fd)

    return steps


@UNLINKED.case
def many_files_under_one_name(b: Builder) -> Steps:
    b.lower(0).file("f", b"0")

    def steps(a: Actor) -> None:
        fds = [a.fd("f", os.O_RDONLY)]
        for number in range(1, 20):
            a(os.unlink, "f")
            a(ops.create, "f", f"{number}".encode())
            fds.append(a.fd("f", os.O_RDWR))
        for fd in fds:
            a(ops.read_fd, fd)

    return steps


@UNLINKED.case
def temporary_files(b: Builder) -> Steps:
    b.lower(0).dir("low")
    b.upper.dir("up")

    def steps(a: Actor) -> None:
        for directory in (".", "low", "up"):
            fd = a.fd(directory, os.O_TMPFILE | os.O_RDWR, 0o640)
            a(ops.fstat, fd)
            a(ops.write_fd, fd, b"temporary")
            a(ops.read_fd, fd)
            a(os.ftruncate, fd, 4)
            a(os.fchmod, fd, 0o604)
            a(os.setxattr, fd, "user.t", b"1")
            a(ops.fstat, fd)
            a(ops.ls, directory)
            a(link_fd, fd, f"{directory}/named")
            a(ops.fstat, fd)
            a(ops.read, f"{directory}/named")
            a(link_fd, fd, f"{directory}/named")
            a(link_fd, fd, f"{directory}/twice")
            a(ops.write_fd, fd, b"T")
            a(ops.read, f"{directory}/twice")
            a(ops.xattrs, f"{directory}/twice")
            unnamed = a.fd(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
            a(link_fd, unnamed, f"{directory}/refused")
        a.fd(".", os.O_TMPFILE | os.O_RDONLY)
        a.fd("low/named", os.O_TMPFILE | os.O_RDWR)
        a.fd("absent", os.O_TMPFILE | os.O_RDWR)

    return steps


# ---------------------------------------------------------------------------------------------------------------- data

def allocating(kind: str) -> Case:
    """fallocate(2) in every mode, on a file of each kind."""

    def build(b: Builder) -> Steps:
        data = b"0123456789abcdef" * 4096
        prepare(b, kind, data)

        def steps(a: Actor) -> None:
            start(a, kind, data)
            reader = a.fd("f", os.O_RDONLY)
            a(fallocate, reader, 0, 0, 10)
            fd = a.fd("f", os.O_RDWR)
            for mode in (
                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                FALLOC_FL_KEEP_SIZE, 0, FALLOC_FL_PUNCH_HOLE,
            ):  # fmt: skip
                for offset, length in ((4096, 8192), (100, 50), (60000, 20000), (0, 0), (-1, 10)):
                    a(fallocate, fd, mode, offset, length)
                    a(ops.lstat, "f")
                    a(ops.digest, "f")
            a(ops.read_fd, reader, 0, 200)

        return steps

    return build


def seeking(kind: str) -> Case:
    """lseek(2) with every whence, and copy_file_range(2) from and to the file."""

    def build(b: Builder) -> Steps:
        prepare(b, kind, b"data " * 2000)
        b.lower(0).sparse("sparse", 1 << 20, {1 << 19: b"island"})
        b.lower(0).file("target", b"t" * 100)

        def steps(a: Actor) -> None:
            start(a, kind, b"data " * 2000)
            for name in ("f", "sparse"):
                fd = a.fd(name, os.O_RDONLY)
                for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
                    for offset in (0, 4096, 1 << 20, 1 << 21, -1):
                        a(ops.seek, fd, offset, whence)
            source, target = a.fd("f", os.O_RDONLY), a.fd("target", os.O_RDWR)
            a(ops.copy_range, source, target, 5000, 3, 50)
            a(ops.lstat, "target")
            a(ops.digest, "target")
            a(ops.copy_range, target, source, 5)
            into = a.fd("f", os.O_RDWR)
            a(ops.copy_range, target, into, 100, 0, 9000)
            a(ops.digest, "f")
            a(ops.copy_range, into, into, 100, 0, 50)
            a(ops.copy_range, into, into, 100, 0, 20000)
            a(ops.digest, "f")

        return steps

    return build


def writing(kind: str) -> Case:
    """Reads and writes through several descriptors with several flags at once, all seeing the same file."""

    def build(b: Builder) -> Steps:
        prepare(b, kind, b"0123456789")

        def steps(a: Actor) -> None:
            start(a, kind, b"0123456789")
            early = a.fd("f", os.O_RDONLY)
            a(ops.read_fd, early)
            append = a.fd("f", os.O_WRONLY | os.O_APPEND)
            both = a.fd("f", os.O_RDWR)
            synced = a.fd("f", os.O_WRONLY | os.O_SYNC)
            a(os.write, append, b"appended")
            a(ops.read_fd, early)
            a(ops.write_fd, both, b"BOTH", 3)
            a(ops.write_fd, synced, b"sync", 30)
            a(os.write, append, b"more")
            a(ops.read_fd, early)
            a(ops.read_fd, both)
            a(ops.read_fd, append)
            a(ops.write_fd, early, b"no")
            a(ops.fstat, early)
            a(ops.map_write, both, b"mapped", 10)
            a(ops.read_fd, early)
            a(ops.map_read, both, 16)
            a(os.ftruncate, both, 12)
            a(ops.read_fd, early)
            a(os.ftruncate, early, 1)
            a.fd("f", os.O_RDWR | os.O_TRUNC)
            a(ops.read_fd, early)
            a(ops.fstat, both)
            a(os.write, append, b"end")
            a(ops.read, "f")
            a(os.writev, both, [b"vec", b"tor"])
            a(os.fdatasync, both)
            a(ops.sendfile, early, both, 3)
            a(ops.read, "f")

        return steps

    return build


def direct(kind: str) -> Case:
    """O_DIRECT, aligned and beside buffered descriptors."""

    def build(b: Builder) -> Steps:
        prepare(b, kind, b"d" * 8192)

        def steps(a: Actor) -> None:
            start(a, kind, b"d" * 8192)
            buffered = a.fd("f", os.O_RDONLY)
            a(ops.read_fd, buffered, 0, 4)
            fd = a.fd("f", os.O_RDWR | os.O_DIRECT)
            a(ops.direct_write, fd, b"D", 4096)
            a(ops.direct_read, fd, 4096)
            a(ops.read_fd, buffered, 4094, 4)
            a(ops.map_read, buffered, 4096)

        return steps

    return build


for _kind in KINDS:
    FILES.add(f"fallocate-{_kind}", allocating(_kind))
    FILES.add(f"seek-and-copy-{_kind}", seeking(_kind))
    FILES.add(f"write-{_kind}", writing(_kind))
    FILES.add(f"direct-{_kind}", direct(_kind))


@FILES.case
def fallocate_modes_that_fuse_cannot_carry(b: Builder) -> Steps:
    b.upper.file("f", b"0123456789abcdef" * 4096)

    def steps(a: Actor) -> None:
        fd = os.open("f", os.O_RDWR)
        for mode in (FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE):
            # The FUSE protocol does not carry these modes; EOPNOTSUPP is what a filesystem without them answers.
            a.note("answer", ops.fails_or_not(fallocate, fd, mode, 4096, 4096) in (None, errno.EOPNOTSUPP))
        a(os.ftruncate, fd, 0)
        a(ops.write_fd, fd, b"both the same again")

    return steps


@FILES.case
def birth_time_exists(b: Builder) -> Steps:
    b.upper.file("upper")
    b.lower(0).file("lower")
    b.lower(0).dir("dir")

    def steps(a: Actor) -> None:
        for name in ("upper", "lower", "dir", "."):
            a(ops.has_btime, name)
        a(os.chmod, "lower", 0o600)
        a(ops.has_btime, "lower")

    return steps


@FILES.case
def open_flags(b: Builder) -> Steps:
    b.lower(0).file("f", b"data")
    b.lower(0).dir("d")
    b.lower(0).symlink("s", "f")
    b.lower(0).node("p", stat.S_IFIFO)
    b.lower(0).node("sock", stat.S_IFSOCK)

    def steps(a: Actor) -> None:
        for name in ("f", "d", "s", "p", "sock", "absent", "f/x", ""):
            for flags in (
                os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH, os.O_PATH | os.O_NOFOLLOW,
                os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_DIRECTORY, os.O_NOATIME,
            ):  # fmt: skip
                fd = a.fd(name, flags | os.O_NONBLOCK)
                if fd >= 0:
                    os.close(fd)
            if name == "absent":
                os.unlink(name)

    return steps


@FILES.case
def times_of_changes(b: Builder) -> Steps:
    b.upper.file("up", b"x")
    b.lower(0).file("low", b"x")
    b.lower(0).dir("d")

    def steps(a: Actor) -> None:
        for name in ("up", "low"):
            before = os.lstat(name)
            fd = a.fd(name, os.O_WRONLY)
            a.note(f"{name}: open changes no mtime", os.lstat(name).st_mtime_ns == before.st_mtime_ns)
            os.close(fd)
            a(os.chmod, name, 0o600)
            a.note(f"{name}: chmod changes no mtime", os.lstat(name).st_mtime_ns == before.st_mtime_ns)
            a.note(f"{name}: chmod changes ctime", os.lstat(name).st_ctime_ns > before.st_ctime_ns)
            a(ops.write, name, b"y")
            a.note(f"{name}: write changes mtime", os.lstat(name).st_mtime_ns > before.st_mtime_ns)
            a(ops.utime, name, 3 * 10**9 + 1, 4 * 10**9 + 2)
            a(ops.times, name)
            a(os.truncate, name, 1)
            a.note(f"{name}: truncate to its size changes mtime", os.lstat(name).st_mtime_ns > 4 * 10**9 + 2)
        before = os.lstat("d")
        a(ops.create, "d/new")
        a.note("create changes the directory's mtime", os.lstat("d").st_mtime_ns > before.st_mtime_ns)

    return steps


@FILES.case
def times_far_away(b: Builder) -> Steps:
    b.lower(0).file("f")

    def steps(a: Actor) -> None:
        for seconds in (0, -1, -(1 << 31), (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 33) + 12345):
            a(ops.utime, "f", seconds * 10**9, seconds * 10**9 + 999_999_999)
            a(ops.times, "f")

    return steps


@FILES.case
def locks(b: Builder) -> Steps:
    b.lower(0).file("f", b"data")

    def steps(a: Actor) -> None:
        first, second = a.fd("f", os.O_RDONLY), a.fd("f", os.O_RDWR)
        a(ops.flock, first, exclusive=True)
        a(ops.flock, second, exclusive=True)
        os.close(first)
        a(ops.flock, second, exclusive=True)
        a(ops.lockf, second)

    return steps


@FILES.case
def fifo_and_socket_carry_data(b: Builder) -> Steps:
    b.lower(0).node("low", stat.S_IFIFO)
    b.upper.node("up", stat.S_IFIFO)

    def steps(a: Actor) -> None:
        for name in ("low", "up"):
            reader = a.fd(name, os.O_RDONLY | os.O_NONBLOCK)
            writer = a.fd(name, os.O_WRONLY | os.O_NONBLOCK)
            a(os.write, writer, b"through the pipe")
            a(os.chmod, name, 0o600)
            a(os.read, reader, 100)
        a(ops.talk_over_socket, "sock")
        a(ops.lstat, "sock")

    return steps


@FILES.case
def devices_work(b: Builder) -> Steps:
    b.lower(0).node("null", stat.S_IFCHR, (1, 3), mode=0o666)
    b.upper.node("zero", stat.S_IFCHR, (1, 5), mode=0o666)

    def steps(a: Actor) -> None:
        a(ops.write, "null", b"gone")
        fd = a.fd("zero", os.O_RDWR)
        a(os.read, fd, 4)

    return steps


@FILES.case
def cloning_or_refusing(b: Builder) -> Steps:
    b.lower(0).file("f", b"data")

    def steps(a: Actor) -> None:
        target = a.fd("new", os.O_CREAT | os.O_RDWR)
        a(ops.clone, a.fd("f", os.O_RDONLY), target)
        a(ops.fstat, target)

    return steps
