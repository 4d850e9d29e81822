"""What becomes of an open that waits for a copy-up when a signal comes, or another open overtakes it, on a real mount?

The server is stopped while the requests are made: the kernel then has them all ready for it, in the order they were made in.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serve.fake_kernel import PATIENCE
from tests.support.mounts import Layers, Unionfs, servers_of
from tests.support.syscalls import die_with_parent

SIZE = 1 << 20
"""Bytes; more than is copied up in passing."""

HUGE = 96 << 20
"""Bytes that take long enough to be copied for the copy to be seen."""

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def mnt(layers: Layers) -> Iterator[Path]:
    """A mount with a lower file `large` of SIZE bytes; what is known of it needs no further request."""
    (layers.lowers[0] / "large").write_bytes(b"below..." * (SIZE // 8))
    with Unionfs().mount(layers) as mounted:
        (mounted / "large").stat()
        yield mounted


@contextmanager
def stopped(mnt: Path) -> Iterator[int]:
    """The server does nothing while the block runs; its process id."""
    (server,) = servers_of(mnt)
    os.kill(server, signal.SIGSTOP)
    try:
        wait_for(lambda: state(server) == "T")
        yield server
    finally:
        os.kill(server, signal.SIGCONT)


def state(pid: int) -> str:
    """The letter for a process's state (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Opener:
    """A process that opens a file with one open(2), which Python would make again after EINTR."""

    def __init__(self, path: Path, flags: int, handled: int | None = None) -> None:
        """`handled`: a signal it has a handler for, with SA_RESTART."""
        ready, tell = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _open(path, flags, handled, tell)
        os.close(tell)
        assert os.read(ready, 1) == b"!"
        os.close(ready)
        wait_for(lambda: state(self.pid) in "SD" and self._waits())

    def _waits(self) -> bool:
        # The number of the system call it sleeps in (proc_pid_syscall(5)); pipes and exits are over by now.
        return Path(f"/proc/{self.pid}/syscall").read_text().split()[0].isdigit()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def result(self) -> int:
        """The errno of the open, 0 if it went well; less than zero if a signal killed the process."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def _open(path: Path, flags: int, handled: int | None, ready: int) -> None:
    """The child; never returns."""
    result = 255
    try:
        die_with_parent()
        if handled is not None:
            signal.signal(handled, lambda *_: None)
            signal.siginterrupt(handled, False)
        name = os.fsencode(path)
        os.write(ready, b"!")
        result = 0 if _libc.open(name, flags) >= 0 else ctypes.get_errno()
    finally:
        os._exit(result)


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH])
def test_a_handled_signal_does_not_interrupt_an_open(number: int, mnt: Path, layers: Layers) -> None:
    with stopped(mnt):
        opener = Opener(mnt / "large", os.O_RDWR, handled=number)
        opener.signal(number)
        wait_for(lambda: not pending(opener.pid, number) or state(opener.pid) != "S")
    assert opener.result() == 0
    assert (layers.top / "large").stat().st_size == SIZE


def pending(pid: int, number: int) -> bool:
    """Waits this signal to be delivered to the process?"""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) >> (number - 1) & 1)


def test_a_killed_caller_gives_the_copy_up_up(layers: Layers) -> None:
    """It ends soon, nothing is left of the copy, and the file can be opened by the next one."""
    lower = layers.lowers[0] / "huge"
    lower.write_bytes(b"below..." * (HUGE // 8))
    with Unionfs().mount(layers) as mnt:
        (mnt / "huge").stat()
        (server,) = servers_of(mnt)
        before = opened_by(server)
        opener = Opener(mnt / "huge", os.O_RDWR)
        wait_for(lambda: any("(deleted)" in name for name in opened_by(server)))
        with stopped(mnt):
            opener.signal(signal.SIGKILL)
            wait_for(lambda: state(opener.pid) == "D" or killed(opener.pid))
        assert opener.result() == -signal.SIGKILL
        wait_for(lambda: opened_by(server) == before)
        assert os.listdir(layers.top) == []
        assert (mnt / "huge").stat().st_ino == lower.stat().st_ino
        assert Opener(mnt / "huge", os.O_RDWR | os.O_APPEND).result() == 0
        assert (layers.top / "huge").stat().st_size == HUGE
    assert layers.work is not None
    assert [name for name in os.listdir(layers.work / "work") if (layers.work / "work" / name).is_file()] == []


def killed(pid: int) -> bool:
    """Is SIGKILL on its way to the process's only thread?"""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status.get("SigPnd", "0"), 16) >> 8 & 1) or state(pid) == "Z"


def opened_by(pid: int) -> list[str]:
    """What a process has open that is a file."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if "huge" in target or "(deleted)" in target:
            found.append(target)
    return sorted(found)


@pytest.mark.parametrize("second", [os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC, os.O_WRONLY])
def test_an_open_that_truncates_overtakes_a_copy_up(second: int, mnt: Path, layers: Layers) -> None:
    """Truncating needs no copy of the data: the file is an upper one before the copy for the first open has begun."""
    with stopped(mnt):
        openers = [Opener(mnt / "large", os.O_RDWR), Opener(mnt / "large", second)]
    assert [opener.result() for opener in openers] == [0, 0]
    size = 0 if second & os.O_TRUNC else SIZE
    assert [path.stat().st_size for path in (mnt / "large", layers.top / "large")] == [size, size]
