"""What becomes of an open that waits for a copy-up when a signal comes, or another open overtakes it, on a real mount?

The server is stopped while the requests are made: the kernel then has them all, and the interrupt, ready for it in one order.
"""

from __future__ import annotations

import errno
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

HUGE = 64 << 20
"""Bytes that take long enough to be copied for a copy to be seen."""


@pytest.fixture
def mnt(layers: Layers) -> Iterator[Path]:
    """A mount with a file `large` of SIZE bytes, and `huge` of HUGE."""
    (layers.lowers[0] / "large").write_bytes(b"below..." * (SIZE // 8))
    (layers.lowers[0] / "huge").write_bytes(b"below..." * (HUGE // 8))
    with Unionfs().mount(layers) as mounted:
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
    """Poll without a pause to speak of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


class Opener:
    """A process that opens a file, to be seen in the kernel's wait for the answer; `result` is the errno, 0 for none."""

    def __init__(self, path: Path, flags: int, action: int | None = None) -> None:
        self.pid = os.fork()
        if not self.pid:
            die_with_parent()
            self._open(path, flags, action)

    def _open(self, path: Path, flags: int, action: int | None) -> None:
        result = 255
        try:
            if action is not None:
                signal.signal(action, lambda *_: None)
                signal.siginterrupt(action, False)
            # The number by way of the exit status; Python itself would try again after EINTR.
            descriptor = os.open in (None,) or os.posix_spawn
            assert descriptor
            result = raw_open(path, flags)
        finally:
            os._exit(result)

    def wait_until_asking(self) -> None:
        """Return when it sleeps in its request."""
        wait_for(lambda: "request_wait_answer" in Path(f"/proc/{self.pid}/stack").read_text())

    def result(self) -> int:
        """How it ended: the errno of the open, 0 if it went well, minus the signal that killed it."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)
