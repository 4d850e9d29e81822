"""Is the kernel's word on a file's times heeded when it holds writes back, in whatever order it comes with the data?"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.serve.fake_kernel import OFFER, ROOT, FakeKernel, fake_kernel
from tests.serve.test_handshake import flags
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from unionfs.wire import abi

TIMES = abi.FATTR_MTIME | abi.FATTR_CTIME
FIRST, SECOND = 1_000_000_000, 1_100_000_000
"""Seconds since the epoch."""


def writeback(layers: Layers, offer: int = OFFER, *, wanted: bool = True) -> bool:
    """Is it agreed on with a kernel that offers this?"""
    with fake_kernel(layers, agree=False, writeback=wanted) as connection:
        return bool(flags(connection.ask(kernel.init(7, 45, offer))) & abi.WRITEBACK_CACHE)


def test_agreement(filled: Layers) -> None:
    assert writeback(filled)
    assert not writeback(filled, wanted=False)
    assert not writeback(filled, OFFER & ~abi.WRITEBACK_CACHE)
    assert not writeback(filled, OFFER & ~abi.HANDLE_KILLPRIV_V2), "no error would be told at close(2)"


def test_nothing_is_held_back_where_nothing_can_be_written(one_lower: Layers) -> None:
    assert not writeback(one_lower)


def opened(connection: FakeKernel, name: str, how: int = os.O_RDWR) -> tuple[int, int]:
    """The nodeid, and the handle of an open."""
    nodeid = connection.lookup(name).nodeid
    return nodeid, answers.opened(connection.ok(kernel.open_(nodeid, how))).fh


def tell(connection: FakeKernel, nodeid: int, fh: int, seconds: int) -> None:
    """The kernel says what modification time a file has, as when it writes an inode back."""
    valid = TIMES | (abi.FATTR_FH if fh else 0)
    connection.ok(kernel.setattr_(nodeid, valid, fh=fh, times=(0, seconds, seconds), nanoseconds=(0, 5, 5)))


def write_late(connection: FakeKernel, nodeid: int, fh: int, data: bytes = b"late") -> None:
    connection.ok(kernel.write(nodeid, fh, 0, data, write_flags=abi.WRITE_CACHE))


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.mark.parametrize("how", ["release", "fsync", "end"])
def test_data_that_come_after_the_time(how: str, filled: Layers) -> None:
    with fake_kernel(filled) as connection:
        nodeid, fh = opened(connection, "file")
        write_late(connection, nodeid, fh, b"first")
        tell(connection, nodeid, fh, FIRST)
        write_late(connection, nodeid, fh)
        if how == "release":
            connection.ok(kernel.release(nodeid, fh))
        if how == "fsync":
            connection.ok(kernel.fsync(nodeid, fh))
    assert (filled.top / "file").read_bytes() == b"latet"
    assert mtime(filled.top / "file") == FIRST * 10**9 + 5


def test_the_last_word_counts(connection: FakeKernel, filled: Layers) -> None:
    nodeid, fh = opened(connection, "own")
    other = answers.opened(connection.ok(kernel.open_(nodeid, os.O_WRONLY))).fh
    tell(connection, nodeid, fh, FIRST)
    write_late(connection, nodeid, fh)
    connection.ok(kernel.release(nodeid, fh))
    assert mtime(filled.top / "own") > SECOND * 10**9, "somebody may still write"
    tell(connection, nodeid, other, SECOND)
    connection.ok(kernel.release(nodeid, other))
    assert mtime(filled.top / "own") == SECOND * 10**9 + 5


def test_a_time_that_nothing_was_said_of(connection: FakeKernel, filled: Layers) -> None:
    """Its clock ticks coarsely: for the kernel a new file that is written within the tick has the time that it was made with."""
    made = connection.ok(kernel.create(ROOT, b"new", os.O_RDWR, 0o100644))
    entry = answers.node(made)
    nodeid, fh = entry.nodeid, answers.opened(made, 128).fh
    shown = answers.attributes(connection.ok(kernel.getattr_(nodeid)))[1]
    write_late(connection, nodeid, fh)
    connection.ok(kernel.release(nodeid, fh))
    assert mtime(filled.top / "new") == shown.mtime * 10**9 + shown.mtimensec


def test_a_removed_lower_file_is_not_copied_up_to_be_told_its_time(connection: FakeKernel, filled: Layers) -> None:
    """With a name's removal the kernel has a new change time, and says both."""
    nodeid = connection.lookup("large").nodeid
    seconds, nanoseconds = divmod(mtime(filled.lowers[0] / "large"), 10**9)
    connection.ok(kernel.unlink(ROOT, b"large"))
    connection.ok(kernel.setattr_(nodeid, TIMES, times=(0, seconds, SECOND), nanoseconds=(0, nanoseconds, 0)))
    assert (filled.top / "large").is_char_device()
    assert not connection.union.node(nodeid).upper


def test_a_time_that_a_user_sets(connection: FakeKernel, filled: Layers) -> None:
    """utimensat(2) with UTIME_OMIT looks the same; it copies up."""
    tell(connection, connection.lookup("file").nodeid, 0, FIRST)
    assert mtime(filled.top / "file") == FIRST * 10**9 + 5


def test_of_a_file_without_names(connection: FakeKernel) -> None:
    nodeid, fh = opened(connection, "own")
    connection.ok(kernel.unlink(ROOT, b"own"))
    write_late(connection, nodeid, fh)
    tell(connection, nodeid, fh, FIRST)
    shown = answers.attributes(connection.ok(kernel.getattr_(nodeid, fh)))[1]
    assert (shown.mtime, shown.size) == (FIRST, 5)
    connection.ok(kernel.release(nodeid, fh))


def test_protection_that_came_meanwhile(connection: FakeKernel, filled: Layers) -> None:
    """What was written before a file became immutable has its time; nobody's utimensat(2) has."""
    nodeid, fh = opened(connection, "own")
    os.setxattr(filled.top / "own", "trusted.overlay.protattr", b"i")
    connection.union.node(nodeid).protected = -1
    write_late(connection, nodeid, fh)
    tell(connection, nodeid, fh, FIRST)
    connection.ok(kernel.release(nodeid, fh))
    assert mtime(filled.top / "own") == FIRST * 10**9 + 5
    message = kernel.setattr_(nodeid, TIMES, times=(0, SECOND, SECOND))
    assert -connection.ask(message).error == errno.EPERM


def test_truncation_to_the_same_size(connection: FakeKernel, filled: Layers) -> None:
    """The kernel names no time then, and takes it for unchanged."""
    nodeid = connection.lookup("own").nodeid
    before = mtime(filled.top / "own")
    connection.ok(kernel.setattr_(nodeid, abi.FATTR_SIZE, size=5))
    assert mtime(filled.top / "own") == before
    connection.ok(kernel.setattr_(nodeid, abi.FATTR_SIZE | TIMES, size=3, times=(0, FIRST, FIRST)))
    assert (mtime(filled.top / "own"), (filled.top / "own").read_bytes()) == (FIRST * 10**9, b"abo")


def test_of_times_that_only_a_change_time_is_named_of(connection: FakeKernel, filled: Layers) -> None:
    """chown(2) with no id: set-id bits go, and a stranger may not have them go."""
    (filled.top / "own").chmod(0o6755)
    nodeid = connection.lookup("own").nodeid
    refused = connection.ask(kernel.setattr_(nodeid, abi.FATTR_CTIME, times=(0, 0, FIRST), uid=1000, gid=1000))
    assert -refused.error == errno.EPERM
    connection.ok(kernel.setattr_(nodeid, abi.FATTR_CTIME, times=(0, 0, FIRST), uid=0, gid=0))
    assert (filled.top / "own").stat().st_mode & 0o7777 == 0o755


def test_a_write_that_fails_is_told_and_the_file_forgotten(connection: FakeKernel) -> None:
    nodeid, fh = opened(connection, "own")
    message = kernel.write(nodeid, fh, 1 << 62, b"far", write_flags=abi.WRITE_CACHE)
    assert -connection.ask(message).error == errno.EFBIG
    connection.ok(kernel.release(nodeid, fh))
    notices = [notice.error for notice in connection.notifications]
    assert notices == [int(abi.NotifyCode.STORE), int(abi.NotifyCode.INVAL_ENTRY)]
