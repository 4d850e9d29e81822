"""Does a copy-up outside the event loop end well for everybody: who waits for it, who gives it up, who does something else?"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import LARGE
from tests.serve.fake_kernel import PATIENCE, ROOT, FakeKernel
from tests.support.mounts import Layers
from tests.support.trees import snapshot
from tests.wire import answers, kernel
from unionfs.overlay import copydata
from unionfs.overlay.copydata import Cancelled
from unionfs.wire import abi


class Brake:
    """Holds every copy of data at its beginning until `release`; `started` says that one is there."""

    def __init__(self, copy: Callable[[int, int, int, int, Cancelled], int]) -> None:
        self._copy = copy
        self._go = threading.Event()
        self.started = threading.Event()
        self.copies = 0

    def __call__(self, source: int, target: int, start: int, end: int, cancelled: Cancelled) -> int:
        self.copies += 1
        self.started.set()
        assert self._go.wait(PATIENCE)
        return self._copy(source, target, start, end, cancelled)

    def release(self) -> None:
        """Let them go on, and all that come."""
        self._go.set()


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    """Copies of data wait until told to go on."""
    made = Brake(copydata._copy_range)
    monkeypatch.setattr(copydata, "_copy_range", made)
    yield made
    made.release()


@pytest.fixture
def large(connection: FakeKernel, brake: Brake) -> int:
    """The nodeid of a lower file too large to be copied up in passing."""
    return connection.lookup("large").nodeid


@pytest.fixture(scope="module")
def gone() -> int:
    """The id of a process that has ended: a caller that was killed."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def begin(connection: FakeKernel, brake: Brake, message: bytes) -> int:
    """Send a request that needs a copy-up, and return when that is under way."""
    unique = connection.send(message)
    assert brake.started.wait(PATIENCE)
    return unique


def upper_tree(filled: Layers) -> list[str]:
    """What is in the upper layer, by name."""
    return sorted(snapshot(filled.top).keys() - {"."})


def test_others_are_served_meanwhile(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    opening = begin(connection, brake, kernel.open_(large, os.O_WRONLY))
    assert connection.lookup("dir/other").attr.size == 5
    assert answers.attributes(connection.ok(kernel.getattr_(large)))[1].size == LARGE
    fh = answers.opened(connection.ok(kernel.open_(large, os.O_RDONLY))).fh
    assert connection.ok(kernel.read(large, fh, 0, 4)) == b"\0\1\2\3"
    assert not connection.is_answered(opening)
    assert upper_tree(filled) == ["own"]
    brake.release()
    assert connection.wait(opening).error == 0
    assert (filled.top / "large").read_bytes() == (filled.lowers[0] / "large").read_bytes()


def test_a_copy_up_whose_caller_is_killed_leaves_no_trace(
    connection: FakeKernel, brake: Brake, large: int, filled: Layers, gone: int
) -> None:
    before = descriptors()
    opening = begin(connection, brake, kernel.open_(large, os.O_RDWR, pid=gone))
    connection.send(kernel.interrupt(opening))
    assert -connection.wait(opening).error == errno.EINTR
    brake.release()
    wait_until_no_copy(connection)
    assert upper_tree(filled) == ["own"]
    assert staged(filled) == []
    assert descriptors() == before
    assert connection.error(kernel.open_(large, os.O_RDWR)) == 0, "it can be done again"
    assert (filled.top / "large").stat().st_size == LARGE


def descriptors() -> list[str]:
    """What this process, and so the server, has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # that of the listing itself
            continue
    return sorted(found)


def staged(filled: Layers) -> list[str]:
    """What lies in the work directory but the whiteout kept there for linking."""
    assert filled.work is not None
    return [name for name in os.listdir(filled.work / "work") if not is_whiteout(filled.work / "work" / name)]


def is_whiteout(path: Path) -> bool:
    return path.is_char_device() and path.stat().st_rdev == 0


def wait_until_no_copy(connection: FakeKernel) -> None:
    """Wait for the last copy-up to be over, however it ends."""
    for _ in range(2000):
        connection.settle()
        if not connection.union.copying:
            return
        threading.Event().wait(0.005)
    raise AssertionError("a copy-up goes on")


def test_a_caller_that_only_got_a_signal_is_not_disturbed(connection: FakeKernel, brake: Brake, large: int) -> None:
    """The kernel interrupts for every signal; a program whose handler asks for restarts must not get EINTR from open."""
    opening = begin(connection, brake, kernel.open_(large, os.O_RDWR, pid=os.getpid()))
    connection.send(kernel.interrupt(opening))
    connection.send(kernel.interrupt(opening))
    connection.settle()
    brake.release()
    assert connection.wait(opening).error == 0


def test_an_interrupt_of_one_waiter_does_not_stop_the_other(
    connection: FakeKernel, brake: Brake, large: int, filled: Layers, gone: int
) -> None:
    first = begin(connection, brake, kernel.open_(large, os.O_RDWR, pid=gone))
    second = connection.send(kernel.setattr_(large, abi.FATTR_MODE, mode=0o100600))
    connection.send(kernel.interrupt(first))
    assert -connection.wait(first).error == errno.EINTR
    assert not connection.is_answered(second)
    brake.release()
    assert connection.wait(second).error == 0
    assert (filled.top / "large").stat().st_mode == 0o100600
    assert brake.copies == 1


def test_who_comes_after_an_interrupt_is_not_interrupted(
    connection: FakeKernel, brake: Brake, large: int, filled: Layers, gone: int
) -> None:
    """The copy that nobody waited for any more is still ending when the next one asks for the file."""
    first = begin(connection, brake, kernel.open_(large, os.O_RDWR, pid=gone))
    connection.send(kernel.interrupt(first))
    assert -connection.wait(first).error == errno.EINTR
    second = connection.send(kernel.open_(large, os.O_RDWR))
    connection.settle()
    brake.release()
    assert connection.wait(second).error == 0
    assert (filled.top / "large").stat().st_size == LARGE


def test_many_wait_for_one_copy(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    waiting = [begin(connection, brake, kernel.open_(large, os.O_RDWR))]
    waiting += [connection.send(kernel.open_(large, os.O_WRONLY)) for _ in range(5)]
    waiting.append(connection.send(kernel.setattr_(large, abi.FATTR_UID, owner=(1000, 0))))
    waiting.append(connection.send(kernel.setxattr(large, b"user.a", b"value")))
    waiting.append(connection.send(kernel.rename(ROOT, b"large", ROOT, b"moved")))
    connection.settle()
    brake.release()
    assert [connection.wait(unique).error for unique in waiting] == [0] * len(waiting)
    assert brake.copies == 1
    moved = filled.top / "moved"
    assert (moved.stat().st_uid, os.getxattr(moved, "user.a"), moved.stat().st_size) == (1000, b"value", LARGE)
    assert is_whiteout(filled.top / "large")


def test_interrupts_of_what_is_not_under_way(connection: FakeKernel) -> None:
    unique = connection.send(kernel.statfs(ROOT))
    assert connection.wait(unique).error == 0
    for number in (unique, 4711, 0):
        connection.send(kernel.interrupt(number))
    connection.settle()


def test_the_file_is_removed_during_its_copy_up(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    """The open succeeds all the same, on a file without a name."""
    opening = begin(connection, brake, kernel.open_(large, os.O_RDWR))
    connection.ok(kernel.unlink(ROOT, b"large"))
    assert answers.node(connection.ok(kernel.lookup(ROOT, b"large"))).nodeid == 0
    brake.release()
    opened = connection.wait(opening)
    assert opened.error == 0
    fh = answers.opened(opened.body).fh
    assert answers.attributes(connection.ok(kernel.getattr_(large)))[1].nlink == 0
    connection.ok(kernel.write(large, fh, LARGE, b"more"))
    assert connection.ok(kernel.read(large, fh, LARGE - 2, 100)) == b"\xfe\xffmore"
    assert is_whiteout(filled.top / "large")
    assert staged(filled) == []


def test_the_name_is_taken_during_the_copy_up(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    """Somebody removes the file and makes another of its name: that one is left alone."""
    opening = begin(connection, brake, kernel.open_(large, os.O_RDWR))
    connection.ok(kernel.unlink(ROOT, b"large"))
    made = connection.ok(kernel.create(ROOT, b"large", os.O_RDWR, 0o100640))
    nodeid, fh = answers.node(made).nodeid, answers.opened(made, 128).fh
    connection.ok(kernel.write(nodeid, fh, 0, b"another"))
    brake.release()
    assert connection.wait(opening).error == 0
    assert (filled.top / "large").read_bytes() == b"another"
    assert answers.attributes(connection.ok(kernel.getattr_(large)))[1].size == LARGE


def test_another_file_is_renamed_over_it_during_its_copy_up(
    connection: FakeKernel, brake: Brake, large: int, filled: Layers
) -> None:
    connection.lookup("own")
    opening = begin(connection, brake, kernel.open_(large, os.O_RDWR))
    renaming = connection.send(kernel.rename(ROOT, b"own", ROOT, b"large"))
    connection.settle()
    brake.release()
    assert connection.wait(opening).error == 0
    assert connection.wait(renaming).error == 0
    assert (filled.top / "large").read_bytes() == b"above"
    assert answers.attributes(connection.ok(kernel.getattr_(large)))[1][:2] == (connection.union.node(large).ino, LARGE)


def test_truncation_copies_no_more_than_stays(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    brake.release()
    connection.ok(kernel.setattr_(large, abi.FATTR_SIZE, size=10))
    assert (filled.top / "large").read_bytes() == bytes(range(10))
    dir_node = connection.lookup("dir").nodeid
    other = connection.lookup("other", dir_node).nodeid
    copies = brake.copies
    connection.ok(kernel.open_(other, os.O_RDWR | os.O_TRUNC))
    assert (filled.top / "dir" / "other").read_bytes() == b""
    assert brake.copies == copies


def test_a_copy_that_fails_is_told_to_all_and_leaves_nothing(
    connection: FakeKernel, large: int, filled: Layers, monkeypatch: pytest.MonkeyPatch, brake: Brake
) -> None:
    def full(*_: object) -> None:
        brake.started.set()
        raise OSError(errno.ENOSPC, "no space")

    before = descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(copydata, "_copy_range", full)
        assert connection.error(kernel.open_(large, os.O_RDWR)) == errno.ENOSPC
        assert connection.error(kernel.setxattr(large, b"user.a", b"x")) == errno.ENOSPC
    assert upper_tree(filled) == ["own"]
    assert descriptors() == before
    brake.release()
    connection.ok(kernel.open_(large, os.O_RDWR))


def test_a_defect_in_a_copy_is_an_eio(
    connection: FakeKernel, large: int, monkeypatch: pytest.MonkeyPatch, brake: Brake, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(copydata, "_copy_range", broken)
        assert connection.error(kernel.open_(large, os.O_RDWR)) == errno.EIO
    assert len([record for record in caplog.records if record.exc_info]) == 1
    brake.release()
    connection.ok(kernel.open_(large, os.O_RDWR))


def test_the_kernel_is_told_of_what_a_copy_up_changes(connection: FakeKernel, brake: Brake, large: int) -> None:
    """Its attributes, cached without limit, are those of the lower file."""
    brake.release()
    connection.notifications.clear()
    connection.ok(kernel.open_(large, os.O_RDWR))
    told = [answer for answer in connection.notifications if answer.error == 2]
    assert any(int.from_bytes(answer.body[:8], "little") == large for answer in told)


def test_unmounting_during_a_copy_up(connection: FakeKernel, brake: Brake, large: int, filled: Layers) -> None:
    begin(connection, brake, kernel.open_(large, os.O_RDWR))
    closing = threading.Timer(0.1, brake.release)
    closing.start()
    connection.close()
    closing.join()
    assert staged(filled) == []
    assert upper_tree(filled) in (["own"], ["large", "own"])
