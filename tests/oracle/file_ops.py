"""Operations on open files: what can be done to a descriptor beyond reading, writing and truncating it?

As in `tests.oracle.ops`, results mean the same on every implementation.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from tests.oracle.child import in_child

P = ParamSpec("P")
T = TypeVar("T")

FICLONERANGE = 0x4020940D
FIDEDUPERANGE = 0xC0189436
"""linux/fs.h."""

F_OFD_GETLK, F_OFD_SETLK = 36, 37
_FLOCK = "@hhqqi4x"
"""struct flock (fcntl(2)): type, whence, start, length, process."""

READ, WRITE, NONE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
LOCK_NAMES = {READ: "read", WRITE: "write", NONE: "none"}


def elsewhere(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls in another process, which ends then, and so gives its locks back; raises what the call does."""

    def run() -> tuple[int | None, T | None]:
        try:
            return None, call(*args, **kwargs)
        except OSError as error:
            return error.errno, None

    failed, value = in_child(run, 10, lambda: None)
    if failed is not None:
        raise OSError(failed, os.strerror(failed))
    return value  # type: ignore[return-value]


def splice_in(data: bytes, fd: int, offset: int) -> int:
    """splice(2) of data from a pipe to `offset`; the number of bytes."""
    with _pipe() as (reader, writer):
        os.write(writer, data)
        return os.splice(reader, fd, len(data), offset_dst=offset)


def splice_out(fd: int, offset: int, size: int) -> bytes:
    """splice(2) of up to `size` bytes (no more than a pipe holds) at `offset` to a pipe."""
    with _pipe() as (reader, writer):
        count = os.splice(fd, writer, size, offset_src=offset)
        return os.read(reader, count) if count else b""


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def send_out(fd: int, offset: int, size: int) -> bytes:
    """sendfile(2) of up to `size` bytes (a few pages) at `offset` to a socket."""
    left, right = socket.socketpair()
    with left, right:
        count = os.sendfile(left.fileno(), fd, offset, size)
        return right.recv(size) if count else b""


def write_with(fd: int, data: bytes, offset: int, flags: int) -> int:
    """pwritev2(2) with RWF_* flags."""
    return os.pwritev(fd, [data], offset, flags)


def read_with(fd: int, size: int, offset: int, flags: int) -> bytes:
    """preadv2(2) with RWF_* flags."""
    buffer = bytearray(size)
    count = os.preadv(fd, [buffer], offset, flags)
    return bytes(buffer[:count])


def direct_read_at(fd: int, offset: int, size: int) -> bytes:
    """A read into an aligned buffer of pages, of any `size`."""
    with mmap.mmap(-1, size) as buffer:
        view = memoryview(buffer)[:size]
        try:
            count = os.preadv(fd, [view], offset)
        finally:
            view.release()
        return buffer[:count]


def direct_write_at(fd: int, data: bytes, offset: int) -> int:
    """A write from an aligned buffer of pages, of any size."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        return os.pwritev(fd, [buffer], offset)


def clone_range(source: int, target: int, offset: int, length: int) -> None:
    """ioctl FICLONERANGE, to the same offset."""
    fcntl.ioctl(target, FICLONERANGE, struct.pack("=qQQQ", source, offset, length, offset))


def dedupe(source: int, target: int, length: int) -> int:
    """ioctl FIDEDUPERANGE of the first `length` bytes of both: how many are shared now.

    None where it is refused, whether all of it (by FUSE, which does not carry it) or the range.
    """
    request = bytearray(struct.pack("=QQHHIqQQiI", 0, length, 1, 0, 0, target, 0, 0, 0, 0))
    try:
        fcntl.ioctl(source, FIDEDUPERANGE, request)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return int(struct.unpack_from("=Q", request, 40)[0])


def posix_lock(fd: int, kind: int, start: int, length: int) -> None:
    """fcntl(2), F_SETLK."""
    fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def posix_conflict(fd: int, kind: int, start: int, length: int) -> tuple[str, int, int]:
    """fcntl(2), F_GETLK: the lock that is in the way (kind, start, length), or `none` and what was asked for."""
    return _conflict(fd, fcntl.F_GETLK, kind, start, length)


def ofd_lock(fd: int, kind: int, start: int, length: int) -> None:
    """fcntl(2), F_OFD_SETLK."""
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def ofd_conflict(fd: int, kind: int, start: int, length: int) -> tuple[str, int, int]:
    """fcntl(2), F_OFD_GETLK, as `posix_conflict`."""
    return _conflict(fd, F_OFD_GETLK, kind, start, length)


def _conflict(fd: int, command: int, kind: int, start: int, length: int) -> tuple[str, int, int]:
    answer = fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))
    found, _whence, first, count, _pid = struct.unpack(_FLOCK, answer)
    return LOCK_NAMES[found], first, count


def lock_whole(fd: int, operation: int) -> None:
    """flock(2) without waiting; `operation` is LOCK_SH, LOCK_EX or LOCK_UN."""
    fcntl.flock(fd, operation | fcntl.LOCK_NB)


def lease(fd: int, kind: int) -> None:
    """fcntl(2), F_SETLEASE."""
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


def lease_of(fd: int) -> str:
    """fcntl(2), F_GETLEASE."""
    return LOCK_NAMES[fcntl.fcntl(fd, fcntl.F_GETLEASE)]


def breaks(path: str, flags: int) -> str:
    """Opens a file without waiting in another process: `waits` where that has to break a lease of this one, with the number
    of signals (SIGIO) that came here meanwhile.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, frame: came.append(number))
    try:
        try:
            elsewhere(lambda: os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)))
        except BlockingIOError:
            return f"waits, {len(came)} signals"
        return f"opens, {len(came)} signals"
    finally:
        signal.signal(signal.SIGIO, before)


def set_flags(fd: int, flags: int) -> int:
    """fcntl(2), F_SETFL; the flags it has now, of those that can be set."""
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    return fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_DIRECT | os.O_NOATIME | os.O_NONBLOCK)


RECORD = 16


def append_together(path: str, processes: int, records: int) -> tuple[int, bool]:
    """Several processes append records at once: the file's size then, and whether all are whole, and each process's in order."""
    before = os.stat(path).st_size
    children = []
    for process in range(processes):
        pid = os.fork()
        if pid == 0:
            try:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                done = [os.write(fd, f"{process:04}-{number:010}\n".encode()) for number in range(records)]
                os._exit(0 if done == [RECORD] * records else 1)
            finally:
                os._exit(2)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    if any(codes):
        raise OSError(errno.EIO, "a process that appends has failed")
    with open(path, "rb") as file:
        file.seek(before)
        lines = file.read().splitlines()
    wanted = [f"{process:04}-{number:010}".encode() for process in range(processes) for number in range(records)]
    return os.stat(path).st_size, sorted(lines) == wanted and sorted(lines, key=lambda line: line[:4]) == wanted


def touch_mapping(fd: int, length: int, offset: int) -> str:
    """Maps `length` bytes, shared, and reads one in another process: its value, or the signal that this ends in."""
    pid = os.fork()
    if pid == 0:
        try:
            with mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
                os._exit(mapping[offset] & 0x7F)
        finally:
            os._exit(255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return signal.Signals(-code).name if code < 0 else str(code)


def map_writable(fd: int) -> None:
    """Maps a page shared and writable, and does nothing with it."""
    with mmap.mmap(fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE):
        pass


def advise(fd: int, advice: int) -> None:
    """posix_fadvise(2) for the whole file."""
    os.posix_fadvise(fd, 0, 0, advice)
