"""What the process of the tests must remain, though some tests open a union, or a server's part, inside it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from unionfs.linux import libc

PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28
"""linux/prctl.h."""


class State(NamedTuple):
    """What a union changes of the process that serves it."""

    umask: int
    secure_bits: int
    limits: tuple[int, int]
    """Of open files."""


def state() -> State:
    """This thread's and its process's."""
    umask = os.umask(0o022)
    os.umask(umask)
    return State(umask, libc.quick.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_NOFILE))


def restore(before: State) -> None:
    """Undo what was changed since `before`."""
    os.umask(before.umask)
    libc.quick.prctl(PR_SET_SECUREBITS, before.secure_bits, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, before.limits)


@contextmanager
def as_before() -> Iterator[None]:
    """Undo at the end what was changed in the block."""
    before = state()
    try:
        yield
    finally:
        restore(before)
