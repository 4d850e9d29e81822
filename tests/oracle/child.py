"""Children: how does a test survive a mount that hangs, or a sequence that changes its process?"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from tests.support.syscalls import die_with_parent

T = TypeVar("T")


class ChildFailed(Exception):
    """The child raised (the message is its traceback), died, or did not end in time."""


def in_child(call: Callable[[], T], seconds: float, on_timeout: Callable[[], None]) -> T:
    """Runs `call` in a forked process and returns its (pickled) result.

    After `seconds` the child is killed; since a process inside a request to a dead-locked FUSE server cannot die, `on_timeout`
    must free it (kill the server).
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        die_with_parent()
        _run(call, writer)
    os.close(writer)
    try:
        data = _read_all(reader, time.monotonic() + seconds)
        if data is None:
            os.kill(pid, signal.SIGKILL)
            on_timeout()
    finally:
        os.close(reader)
        _, status = os.waitpid(pid, 0)
    if data is None:
        raise ChildFailed(f"no answer in {seconds:.0f} s")
    if not data:
        raise ChildFailed(f"ended with wait status {status:#x} and no result")
    good, value = pickle.loads(data)
    if not good:
        raise ChildFailed(value)
    result: T = value
    return result


def _run(call: Callable[[], object], writer: int) -> None:
    """The child: never returns, and runs none of the parent's exit handlers."""
    try:
        answer = pickle.dumps((True, call()))
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    try:
        view = memoryview(answer)
        while view:
            view = view[os.write(writer, view) :]
    finally:
        os._exit(0)


def _read_all(fd: int, deadline: float) -> bytes | None:
    """Everything up to end of file, or None when the deadline passes first."""
    chunks: list[bytes] = []
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
