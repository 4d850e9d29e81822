"""Deeds: what can be done to an open file beyond reading and writing it, call by call?

After each call every way to ask for the file's attributes must give the same, and its times must have moved where the kernel
moves them. Which files this is done to, cases_passthrough says.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ParamSpec

from tests.oracle import file_ops, ops
from tests.oracle.actor import Actor, Fd
from tests.support import async_io
from tests.support.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_UNSHARE_RANGE,
    FALLOC_FL_ZERO_RANGE,
    capability,
    fallocate,
    sync_file_range,
    syncfs,
)

P = ParamSpec("P")

PAGE = mmap.PAGESIZE
DATA = bytes(range(256)) * (4 * PAGE // 256)
USER = 1001
CLOCK_REALTIME_COARSE = 5
"""linux/time.h."""


@dataclass
class Opened:
    """The file `f` of a case, opened for reading and then for reading and writing."""

    actor: Actor
    reader: Fd
    fd: Fd
    before: os.stat_result

    def __post_init__(self) -> None:
        self._wait(self.before)

    def __call__(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Makes a call and looks at the file then."""
        self.actor(call, *args, **kwargs)
        self.look()

    def look(self) -> None:
        """Records the file's attributes, whether its times moved since the last look, and whether all ways to ask agree."""
        now = os.lstat("f")
        ways = [os.fstat(fd) for fd in (self.reader, self.fd) if fd >= 0]
        moved = (now.st_mtime_ns != self.before.st_mtime_ns, now.st_ctime_ns != self.before.st_ctime_ns)
        agreed = [exactly(way) == exactly(now) for way in ways]
        self.actor.note("f, mtime moved, ctime moved, asked otherwise", (ops.seen(now), *moved, agreed))
        self.before = now
        self._wait(now)

    def look_away(self) -> None:
        """What has happened since the last look is not recorded."""
        self.before = os.lstat("f")
        self._wait(self.before)

    def _wait(self, seen: os.stat_result) -> None:
        """The next change must not fall into the same tick."""
        while self.actor.ticking and time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= max(seen.st_mtime_ns, seen.st_ctime_ns):
            time.sleep(0.0005)


def exactly(status: os.stat_result) -> tuple[int, ...]:
    """All of a stat result that must not depend on how it was asked for."""
    owner = (status.st_mode, status.st_ino, status.st_dev, status.st_nlink, status.st_uid, status.st_gid)
    return (*owner, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


Deed = Callable[[Opened], None]
DEEDS: dict[str, Deed] = {}
LOWER_DEEDS: dict[str, Deed] = {}


def deed(function: Deed) -> Deed:
    """Decorator: something to do to a file that is open for writing."""
    DEEDS[function.__name__.replace("_", "-")] = function
    return function


def reading(function: Deed) -> Deed:
    """Decorator: something to do to a file that is open for reading; also done where it is open for writing."""
    LOWER_DEEDS[function.__name__.replace("_", "-")] = function
    return deed(function)


# ---------------------------------------------------------------------------------------------- what a reader can do, too

@reading
def sync(f: Opened) -> None:
    for fd in (f.fd, f.reader):
        f(ops.write_fd, fd, b"to be synced", 5)
        for call in (os.fsync, os.fdatasync, async_io.uring_fsync, async_io.aio_fsync, syncfs):
            f(call, fd)
        f(sync_file_range, fd, 0, PAGE)


@reading
def seek(f: Opened) -> None:
    f(ops.write_fd, f.fd, b"far", 1 << 20)
    f(ops.write_fd, f.fd, b"farther", (1 << 30) + 5)
    for fd in (f.fd, f.reader):
        for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (0, 1, PAGE, 5 * PAGE, 1 << 20, (1 << 20) + PAGE, 1 << 31, -1, -PAGE):
                f.actor(ops.seek, fd, offset, whence)


@reading
def read_by_other_calls(f: Opened) -> None:
    for fd in (f.reader, f.fd):
        for offset in (0, PAGE - 3, len(DATA) - 5, len(DATA), 1 << 40, -1):
            f.actor(file_ops.splice_out, fd, offset, 10)
            f.actor(file_ops.send_out, fd, offset, 10)
            if offset >= 0:  # -1 is the descriptor's own, which reads that end later need not move (as with O_DIRECT)
                f.actor(async_io.uring_read, fd, 10, offset)
            f.actor(async_io.aio_read, fd, 10, offset)
            f.actor(file_ops.read_with, fd, 10, offset, 0)
            f.actor(file_ops.read_with, fd, 10, offset, os.RWF_HIPRI)
        f.actor(os.read, fd, 10)
        f.actor(os.readv, fd, [bytearray(3), bytearray(4)])
        f.actor(ops.seek, fd, 0, os.SEEK_CUR)
        for advice in (os.POSIX_FADV_WILLNEED, os.POSIX_FADV_RANDOM, os.POSIX_FADV_DONTNEED):
            f.actor(file_ops.advise, fd, advice)
        f.actor(ops.read_fd, fd, 0, 10)


@reading
def read_directly(f: Opened) -> None:
    fd = f.actor.fd("f", os.O_RDONLY | os.O_DIRECT)
    f.actor(ops.read_fd, f.reader, 0, 10)
    for offset, size in ((0, PAGE), (PAGE, 2 * PAGE), (512, 512), (3 * PAGE, 4 * PAGE), (4 * PAGE, PAGE)):
        f.actor(file_ops.direct_read_at, fd, offset, size)
        f.actor(async_io.uring_read, fd, size, offset)
        f.actor(async_io.aio_read, fd, size, offset)
    f(file_ops.set_flags, f.reader, os.O_DIRECT)
    f.actor(file_ops.direct_read_at, f.reader, 0, PAGE)
    f(file_ops.set_flags, f.reader, 0)
    f.actor(ops.read_fd, f.reader, 0, 10)


@reading
def refused_to_a_reader(f: Opened) -> None:
    f(ops.write_fd, f.reader, b"no", 0)
    f(fallocate, f.reader, 0, 0, 10)
    f(os.ftruncate, f.reader, 10)
    f(file_ops.map_writable, f.reader)
    f(file_ops.splice_in, b"no", f.reader, 0)
    f(async_io.uring_write, f.reader, b"no", 0)
    f(async_io.aio_write, f.reader, b"no", 0)
    f(ops.copy_range, f.actor.fd("source", os.O_RDONLY), f.reader, 10)


@reading
def noatime(f: Opened) -> None:
    fd = f.actor.fd("f", os.O_RDONLY | os.O_NOATIME)
    f.actor(ops.read_fd, fd, 0, 10)
    f.actor(file_ops.set_flags, f.reader, os.O_NOATIME)
    f.actor(file_ops.set_flags, f.reader, os.O_NONBLOCK)
    with f.actor.user(USER):
        f.actor.fd("f", os.O_RDONLY | os.O_NOATIME)
        f.actor(file_ops.set_flags, f.reader, os.O_NOATIME)
    f.look()


@reading
def flock(f: Opened) -> None:
    a = f.actor
    other = a.fd("f", os.O_RDONLY)
    for first, second in ((fcntl.LOCK_SH, fcntl.LOCK_SH), (fcntl.LOCK_SH, fcntl.LOCK_EX), (fcntl.LOCK_EX, fcntl.LOCK_SH)):
        a(file_ops.lock_whole, f.fd, first)
        a(file_ops.lock_whole, other, second)
        a(file_ops.elsewhere, ops.flock, os.dup(f.reader), True)
        a(file_ops.lock_whole, f.fd, fcntl.LOCK_UN)
        a(file_ops.lock_whole, f.reader, fcntl.LOCK_EX)
        a(file_ops.lock_whole, other, fcntl.LOCK_UN)
        a(file_ops.lock_whole, f.reader, fcntl.LOCK_UN)
    f.look()


@reading
def locks_of_processes(f: Opened) -> None:
    """Reader and writer are one process: they are never in each other's way, and closing any descriptor gives all back."""
    a = f.actor
    for kind in (file_ops.READ, file_ops.WRITE):
        a(file_ops.posix_lock, f.fd, kind, 10, 20)
        a(file_ops.posix_lock, f.reader, kind, 20, 20)
        for asked in (file_ops.READ, file_ops.WRITE):
            for start, length in ((0, 10), (0, 11), (35, 0), (40, 5)):
                a(file_ops.elsewhere, file_ops.posix_conflict, f.fd, asked, start, length)
                a(file_ops.elsewhere, file_ops.posix_lock, f.fd, asked, start, length)
        a(file_ops.posix_lock, f.fd, file_ops.NONE, 15, 5)
        a(file_ops.elsewhere, file_ops.posix_conflict, f.fd, file_ops.WRITE, 15, 20)
        a(file_ops.ofd_conflict, f.fd, file_ops.WRITE, 0, 0)
        os.close(os.open("f", os.O_RDONLY))
        a(file_ops.elsewhere, file_ops.posix_conflict, f.fd, file_ops.WRITE, 0, 0)
    f.look()


@reading
def locks_of_descriptors(f: Opened) -> None:
    a = f.actor
    for kind in (file_ops.READ, file_ops.WRITE):
        a(file_ops.ofd_lock, f.fd, kind, 10, 20)
        for asked in (file_ops.READ, file_ops.WRITE):
            a(file_ops.ofd_conflict, f.reader, asked, 0, 11)
            a(file_ops.ofd_lock, f.reader, asked, 0, 11)
            a(file_ops.ofd_lock, f.reader, asked, 30, 5)
            a(file_ops.posix_conflict, f.fd, asked, 0, 0)
            a(file_ops.elsewhere, file_ops.ofd_conflict, f.fd, asked, 0, 0)
            a(file_ops.ofd_lock, f.reader, file_ops.NONE, 0, 0)
        a(file_ops.ofd_lock, f.fd, file_ops.NONE, 0, 0)
    f.look()


@reading
def leases(f: Opened) -> None:
    a = f.actor
    a(file_ops.lease, f.reader, file_ops.READ)
    a(file_ops.lease, f.fd, file_ops.READ)
    a(file_ops.lease, f.fd, file_ops.WRITE)
    for fd in (f.reader, f.fd):
        a(file_ops.lease_of, fd)
    os.close(f.fd)
    a(file_ops.lease, f.reader, file_ops.WRITE)
    a(file_ops.lease, f.reader, file_ops.READ)
    a(file_ops.lease_of, f.reader)
    a(file_ops.breaks, "f", os.O_RDONLY)
    a(file_ops.lease, f.reader, file_ops.NONE)
    a(file_ops.lease_of, f.reader)
    f.fd = Fd(-1)
    f.look()


@reading
def copy_from(f: Opened) -> None:
    target = f.actor.fd("target", os.O_RDWR | os.O_CREAT)
    for fd in (f.reader, f.fd):
        f(ops.copy_range, fd, target, 100, 50, 10)
        f(ops.copy_range, fd, target, 1 << 20, 0, PAGE)
        f(ops.sendfile, fd, target, 30)
    f(ops.digest, "target")
    f(ops.lstat, "target")
    f(ops.clone, f.reader, target)
    f(file_ops.clone_range, f.reader, target, 0, PAGE)
    f(file_ops.dedupe, f.reader, target, PAGE)
    f(ops.digest, "target")


# ------------------------------------------------------------------------------------------------------- what changes it

@deed
def copy_into(f: Opened) -> None:
    source = f.actor.fd("source", os.O_RDONLY)
    f(ops.copy_range, source, f.fd, 100, 50, 10)
    f(ops.copy_range, source, f.fd, 1 << 20, PAGE, 5 * PAGE)
    f(ops.copy_range, f.fd, f.fd, PAGE, 0, 7 * PAGE)
    f(ops.copy_range, f.fd, f.fd, PAGE, 0, PAGE - 1)
    f(ops.copy_range, f.reader, f.fd, 5, 1, 20)
    f(ops.sendfile, source, f.fd, 2 * PAGE)
    f(ops.seek, f.fd, 0, os.SEEK_CUR)
    f(ops.clone, source, f.fd)
    f(file_ops.clone_range, source, f.fd, 0, PAGE)
    f(file_ops.dedupe, source, f.fd, PAGE)
    f(ops.copy_range, source, f.actor.fd("f", os.O_WRONLY | os.O_APPEND), 10)


@deed
def allocate_while_mapped(f: Opened) -> None:
    with mmap.mmap(f.fd, 0, mmap.MAP_SHARED) as mapping:
        mapping[PAGE : PAGE + 4] = b"mapp"
        f(fallocate, f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE)
        f.actor.note("punched", mapping[PAGE - 2 : PAGE + 4])
        f(fallocate, f.fd, FALLOC_FL_ZERO_RANGE, 2 * PAGE + 100, PAGE)
        f.actor.note("zeroed", (mapping[2 * PAGE + 98 : 2 * PAGE + 102], mapping[3 * PAGE + 98 : 3 * PAGE + 102]))
        f(fallocate, f.fd, FALLOC_FL_KEEP_SIZE, 4 * PAGE, 4 * PAGE)
        f(fallocate, f.fd, 0, 4 * PAGE, 2 * PAGE)
        f(ops.seek, f.reader, 0, os.SEEK_HOLE)
        f(ops.seek, f.reader, PAGE, os.SEEK_DATA)
        f(fallocate, f.fd, FALLOC_FL_UNSHARE_RANGE, 0, PAGE)
        mapping[:4] = b"head"
        mapping.flush()
        f(ops.read_fd, f.reader, 0, 6)


@deed
def truncate_while_mapped(f: Opened) -> None:
    with mmap.mmap(f.fd, 4 * PAGE, mmap.MAP_SHARED) as mapping:
        mapping[2 * PAGE : 2 * PAGE + 3] = b"cut"
        f(os.ftruncate, f.fd, PAGE + 10)
        f.actor.note("the rest of the page", mapping[PAGE + 8 : PAGE + 14])
        f.actor(file_ops.touch_mapping, f.fd, 4 * PAGE, 2 * PAGE)
        f(os.ftruncate, f.fd, 3 * PAGE)
        f.actor.note("grown", mapping[PAGE + 8 : PAGE + 14] + mapping[2 * PAGE : 2 * PAGE + 3])
        f(os.truncate, "f", 10)
        f(os.truncate, "f", 4 * PAGE)
        mapping[3 * PAGE : 3 * PAGE + 3] = b"new"
        mapping.flush()
    f(ops.read_fd, f.reader, 3 * PAGE, 10)
    f(os.ftruncate, f.fd, os.fstat(f.fd).st_size)
    f(os.ftruncate, f.fd, -1)
    f.actor.fd("f", os.O_WRONLY | os.O_TRUNC)
    f.look()


@deed
def map_and_write(f: Opened) -> None:
    with mmap.mmap(f.fd, 0, mmap.MAP_SHARED) as mapping, mmap.mmap(f.fd, 0, mmap.MAP_PRIVATE) as private:
        mapping[10:14] = b"MAP1"
        mapping.flush()
        f(ops.read_fd, f.fd, 8, 8)
        f(ops.read_fd, f.reader, 8, 8)
        f(ops.write_fd, f.fd, b"WRITE", 12)
        f.actor.note("seen in the mappings", (mapping[8:18], private[8:18]))
        private[8:10] = b"PR"
        f(ops.write_fd, f.fd, b"again", 9)
        f.actor.note("seen in the mappings", (mapping[8:18], private[8:18]))
        mapping[len(DATA) - 4 :] = b"tail"
        f.actor(ops.read_fd, f.reader, len(DATA) - 6, 10)
        mapping.flush()  # before which the times may have moved, or not
    second = f.actor.fd("f", os.O_RDWR)
    f(ops.map_write, second, b"through another", PAGE)
    f(ops.read_fd, f.reader, PAGE, 20)


@deed
def grow_while_mapped(f: Opened) -> None:
    with mmap.mmap(f.fd, 0, mmap.MAP_SHARED) as mapping:
        f.actor(file_ops.touch_mapping, f.fd, 8 * PAGE, 5 * PAGE)
        f(ops.write_fd, f.fd, b"grown", 5 * PAGE)
        f.actor(file_ops.touch_mapping, f.fd, 8 * PAGE, 5 * PAGE)
        f.actor(file_ops.touch_mapping, f.reader, 8 * PAGE, 6 * PAGE)
        mapping.resize(8 * PAGE)  # which makes the file as long
        f.look()
        mapping[7 * PAGE : 7 * PAGE + 3] = b"end"
        mapping.flush()
    f(ops.read_fd, f.reader, 7 * PAGE, 5)
    f(os.posix_fallocate, f.fd, 0, 9 * PAGE)
    f(ops.map_write, f.fd, b"last", 9 * PAGE - 4)


@deed
def write_by_other_calls(f: Opened) -> None:
    for size in (10, PAGE, 5 * PAGE):
        f(file_ops.splice_in, b"s" * size, f.fd, 1)
        f(async_io.uring_write, f.fd, b"u" * size, 2)
        f(async_io.aio_write, f.fd, b"a" * size, 3)
        f(ops.read_fd, f.reader, 0, 20)
    f(os.writev, f.fd, [b"one", b"", b"two"])
    f(async_io.uring_write, f.fd, b"at the offset", -1)
    f(ops.seek, f.fd, 0, os.SEEK_CUR)
    for flags in (os.RWF_DSYNC, os.RWF_SYNC, os.RWF_APPEND, os.RWF_APPEND | os.RWF_DSYNC, os.RWF_HIPRI):
        f(file_ops.write_with, f.fd, b"flags", 7, flags)
    f(ops.write_fd, f.fd, b"", 3)
    f(ops.write_fd, f.fd, b"x", -1)
    f(ops.write_fd, f.fd, b"x", (1 << 63) - 1)
    f(ops.read_fd, f.reader, 0, 20)


@deed
def write_directly(f: Opened) -> None:
    a = f.actor
    fd = a.fd("f", os.O_RDWR | os.O_DIRECT)
    append = a.fd("f", os.O_WRONLY | os.O_DIRECT | os.O_APPEND)
    with mmap.mmap(f.fd, 0, mmap.MAP_SHARED) as mapping:
        mapping[PAGE : PAGE + 3] = b"map"
        for offset, size in ((0, PAGE), (PAGE, 2 * PAGE), (512, 512), (8 * PAGE, PAGE)):
            f(file_ops.direct_write_at, fd, b"D" * size, offset)
            f(async_io.uring_write, fd, b"U" * size, offset)
            f(async_io.aio_write, fd, b"A" * size, offset)
            f(ops.read_fd, f.reader, offset, 5)
            a.note("seen in the mapping", mapping[PAGE : PAGE + 5])
    f(file_ops.direct_write_at, append, b"E" * PAGE, 0)
    f(ops.write_fd, f.fd, b"buffered", 5)
    a(file_ops.direct_read_at, fd, 0, 512)
    f(file_ops.set_flags, f.fd, os.O_DIRECT)
    f(file_ops.direct_write_at, f.fd, b"F" * PAGE, PAGE)


@deed
def append(f: Opened) -> None:
    a = f.actor
    fd = a.fd("f", os.O_RDWR | os.O_APPEND)
    f(os.write, fd, b"appended")
    f(ops.write_fd, fd, b"at the end whatever the offset", 3)
    f(async_io.uring_write, fd, b"uring", 0)
    f(async_io.aio_write, fd, b"aio", 0)
    f(file_ops.splice_in, b"refused", fd, 0)
    f(os.write, f.fd, b"at the start")
    f(file_ops.set_flags, f.fd, os.O_APPEND)
    f(os.write, f.fd, b"appended, too")
    f(ops.seek, f.fd, 0, os.SEEK_CUR)
    f(ops.copy_range, f.reader, fd, 10)
    f(os.ftruncate, fd, len(DATA))
    f(file_ops.append_together, "f", 4, 50)
    f(os.ftruncate, fd, 100)  # in what order they come is theirs


@deed
def write_synchronously(f: Opened) -> None:
    for flags in (os.O_SYNC, os.O_DSYNC):
        fd = f.actor.fd("f", os.O_RDWR | flags)
        f(os.write, fd, b"synced")
        f(ops.write_fd, fd, b"far", 1 << 20)
        f(ops.map_write, fd, b"mapped", 20)
        f(async_io.uring_write, fd, b"uring", 40)
        f(fallocate, fd, 0, 0, 2 << 20)
        f(os.ftruncate, fd, len(DATA))


@deed
def limits(f: Opened) -> None:
    """RLIMIT_FSIZE of the caller, not of a server."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(DATA) + 10, hard))
    try:
        for offset in (len(DATA), len(DATA) + 5, len(DATA) + 10, len(DATA) + 11, 1 << 30):
            f(ops.write_fd, f.fd, b"0123456789ABC", offset)
            f(async_io.uring_write, f.fd, b"uring", offset)
        for size in (len(DATA) + 9, len(DATA) + 11):
            f(os.truncate, "f", size)
            f(os.ftruncate, f.fd, size)
            f.actor(fallocate, f.fd, 0, 0, size)  # even one that is refused moves the times of a file on ext4
            f.actor(fallocate, f.fd, FALLOC_FL_KEEP_SIZE, 0, size)
            f.look_away()
        f(ops.copy_range, f.actor.fd("source", os.O_RDONLY), f.fd, 30, 0, len(DATA))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    f(os.ftruncate, f.fd, 1 << 62)


@deed
def beyond_the_filesystem(f: Opened) -> None:
    """Where no file of the upper layer can reach."""
    f(ops.write_fd, f.fd, b"x", 1 << 62)


WRITES: dict[str, Callable[[Opened], object]] = {
    "pwrite": lambda f: f(ops.write_fd, f.fd, b"W"),
    "splice": lambda f: f(file_ops.splice_in, b"S", f.fd, 0),
    "sendfile": lambda f: f(ops.sendfile, f.reader, f.fd, 10),
    "uring": lambda f: f(async_io.uring_write, f.fd, b"U", 0),
    "aio": lambda f: f(async_io.aio_write, f.fd, b"A", 0),
    "dsync": lambda f: f(file_ops.write_with, f.fd, b"D", 0, os.RWF_DSYNC),
    "copy": lambda f: f(ops.copy_range, f.reader, f.fd, 10, 0, PAGE),
    "fallocate": lambda f: f(fallocate, f.fd, 0, 0, 10),
    "punch": lambda f: f(ops.punch, f.fd, 0, PAGE),
    "truncate": lambda f: f(os.ftruncate, f.fd, 100),
    "nothing": lambda f: f(ops.write_fd, f.fd, b""),
}


@deed
def kill_privileges(f: Opened) -> None:
    """Root, and a user by root's descriptors, change the file: set-id bits and capabilities go, or stay."""
    a = f.actor
    for name, write in WRITES.items():
        for uid in (0, USER):
            a.note("by", name)
            os.fchown(f.fd, USER, USER)
            f(os.fchmod, f.fd, 0o6777)
            f(os.setxattr, "f", "security.capability", capability(1 << 13))
            with a.user(uid) if uid else nullcontext():
                write(f)
            a(os.listxattr, f.reader)


@deed
def write_leases(f: Opened) -> None:
    a = f.actor
    os.close(f.reader)
    f.reader = Fd(-1)
    a(file_ops.lease, f.fd, file_ops.WRITE)
    a(file_ops.lease_of, f.fd)
    a(file_ops.breaks, "f", os.O_RDONLY)
    a(file_ops.lease, f.fd, file_ops.NONE)
    a(file_ops.lease, f.fd, file_ops.READ)
    a(file_ops.breaks, "f", os.O_WRONLY)
    f.reader = a.fd("f", os.O_RDONLY)
    f.look()
