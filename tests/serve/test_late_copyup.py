"""Is a copy-up that was given up in its last step really given up?"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.serve.conftest import LARGE
from tests.serve.fake_kernel import PATIENCE, ROOT, FakeKernel
from tests.serve.test_copyup import staged, upper_tree, wait_until_no_copy
from tests.support.lowers import changes_meant
from tests.support.mounts import Layers
from tests.support.syscalls import RENAME_EXCHANGE
from tests.wire import answers, kernel
from unionfs.overlay.copyup import CopyUp
from unionfs.wire import abi


class LastStep:
    """Holds one copy-up of a file where it looks at no flag any more, just before it is to be published.

    The first, or that after `passing` others.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        self.passing = 0
        self._sync = CopyUp._sync

    def __call__(self, copy_up: CopyUp, here: tuple[int, bytes]) -> None:
        self._sync(copy_up, here)
        if copy_up._target < 0:
            return  # a directory's, which the event loop makes itself
        if self.passing:
            self.passing -= 1
        elif not self.reached.is_set():
            self.reached.set()
            assert self.go.wait(PATIENCE)


@pytest.fixture
def last_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[LastStep]:
    """The first copy-up waits before it is published."""
    made = LastStep()
    monkeypatch.setattr(CopyUp, "_sync", lambda copy_up, here: made(copy_up, here))
    yield made
    made.go.set()


@pytest.fixture(scope="module")
def gone() -> int:
    """The id of a process that has ended: a caller that was killed."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def give_up(connection: FakeKernel, last_step: LastStep, message: bytes) -> None:
    """Ask for what needs a copy-up, and be killed when that is nearly done."""
    unique = connection.send(message)
    assert last_step.reached.wait(PATIENCE)
    connection.send(kernel.interrupt(unique))
    assert -connection.wait(unique).error == errno.EINTR


def test_nothing_is_published_for_who_has_gone(
    connection: FakeKernel, last_step: LastStep, filled: Layers, gone: int
) -> None:
    nodeid = connection.lookup("large").nodeid
    give_up(connection, last_step, kernel.open_(nodeid, os.O_RDWR, pid=gone))
    last_step.go.set()
    wait_until_no_copy(connection)
    assert upper_tree(filled) == ["own"]
    assert staged(filled) == []
    assert not connection.union.node(nodeid).upper


def test_the_node_was_forgotten_meanwhile(connection: FakeKernel, last_step: LastStep, filled: Layers, gone: int) -> None:
    """The name has a new node by then: a copy published for the old one would be in its way, and hidden from its readers."""
    old = connection.lookup("large").nodeid
    give_up(connection, last_step, kernel.open_(old, os.O_RDWR, pid=gone))
    connection.send(kernel.forget(old, 1))
    new = connection.lookup("large").nodeid
    assert new != old
    last_step.go.set()
    wait_until_no_copy(connection)
    assert connection.error(kernel.open_(new, os.O_RDWR)) == 0
    fh = answers.opened(connection.ok(kernel.open_(new, os.O_RDWR))).fh
    connection.ok(kernel.write(new, fh, 0, b"new"))
    assert connection.ok(kernel.read(new, fh, 0, 4)) == b"new\x03"
    assert (filled.top / "large").read_bytes()[:4] == b"new\x03"
    assert (filled.top / "large").stat().st_size == LARGE


@pytest.mark.parametrize("follow", ["open", "truncate", "chmod", "rename"])
def test_who_comes_while_it_ends_is_served(
    follow: str, connection: FakeKernel, last_step: LastStep, filled: Layers, gone: int
) -> None:
    """Nobody joins a copy-up that nobody waits for any more."""
    nodeid = connection.lookup("large").nodeid
    give_up(connection, last_step, kernel.open_(nodeid, os.O_RDWR, pid=gone))
    message = {
        "open": kernel.open_(nodeid, os.O_RDWR),
        "truncate": kernel.open_(nodeid, os.O_RDWR | os.O_TRUNC),
        "chmod": kernel.setattr_(nodeid, abi.FATTR_MODE, mode=0o100600),
        "rename": kernel.rename(ROOT, b"large", ROOT, b"moved"),
    }[follow]
    unique = connection.send(message)
    connection.settle()
    last_step.go.set()
    assert connection.wait(unique).error == 0
    made = filled.top / ("moved" if follow == "rename" else "large")
    assert made.stat().st_size == (0 if follow == "truncate" else LARGE)
    assert staged(filled) == []


def test_a_caller_is_killed_in_the_second_copy_up_of_its_operation(
    connection: FakeKernel, last_step: LastStep, filled: Layers, gone: int
) -> None:
    """Exchanging two large files copies up both, one after the other; the operation is started again after each."""
    (filled.lowers[0] / "dir" / "second").write_bytes(b"second" * (LARGE // 6))
    changes_meant(*filled.lowers)
    connection.lookup("large")
    directory = connection.lookup("dir").nodeid
    connection.lookup("second", directory)
    last_step.passing = 1
    exchange = kernel.rename2(ROOT, b"large", directory, b"second", RENAME_EXCHANGE, pid=gone)
    give_up(connection, last_step, exchange)
    last_step.go.set()
    wait_until_no_copy(connection)
    assert sum((filled.top / name).exists() for name in ("large", "dir/second")) == 1
    assert staged(filled) == []
