"""Is every open answered in the mode that the table says, and never in one that the kernel turns into EIO?"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

import pytest

from unionfs.serve.config import LowerIo
from unionfs.serve.policy import FLAGS, FMODE_EXEC, Mode, decide, is_mappable, is_writing
from unionfs.wire import abi

READ, WRITE, EXECUTE = os.O_RDONLY, os.O_RDWR, os.O_RDONLY | FMODE_EXEC


@dataclass(frozen=True)
class Case:
    """The arguments of `decide`, as they are for the first open of a plain lower file."""

    cached: int = 0
    backed: int = 0
    current: bool = True
    flags: int = READ
    settled: bool = False
    mappable: bool = False
    backable: bool = True
    lower_io: LowerIo = LowerIo.AUTO
    former: bool = False
    asked_before: bool = False

    def decided(self) -> Mode:
        return decide(
            self.cached, self.backed, self.current, self.flags, settled=self.settled, mappable=self.mappable,
            backable=self.backable, lower_io=self.lower_io, former=self.former, asked_before=self.asked_before,
        )  # fmt: skip


PLAIN = Case()
SETTLED = Case(settled=True)
PROGRAM = Case(mappable=True)
MOVED = Case(settled=True, backed=1, current=False)
FORMER = replace(MOVED, former=True, asked_before=True)


@pytest.mark.parametrize(
    ("case", "mode"),
    [
        (SETTLED, Mode.PASSTHROUGH),
        (replace(SETTLED, flags=WRITE), Mode.PASSTHROUGH),
        (replace(SETTLED, mappable=True), Mode.PASSTHROUGH),
        (replace(SETTLED, lower_io=LowerIo.CACHED), Mode.PASSTHROUGH),
        (replace(SETTLED, backable=False), Mode.CACHED),
        (replace(SETTLED, cached=1), Mode.CACHED),
        (replace(SETTLED, backed=3), Mode.PASSTHROUGH),
        (PLAIN, Mode.CACHED),
        (PROGRAM, Mode.MAPPED),
        (replace(PROGRAM, flags=EXECUTE), Mode.PASSTHROUGH),
        (replace(PROGRAM, flags=EXECUTE, lower_io=LowerIo.CACHED), Mode.CACHED),
        (replace(PROGRAM, backed=1), Mode.MAPPED),
        (replace(PROGRAM, backed=1, flags=EXECUTE), Mode.PASSTHROUGH),
        (replace(PLAIN, flags=EXECUTE), Mode.CACHED),
        (replace(PROGRAM, flags=READ | os.O_NOFOLLOW | os.O_NONBLOCK), Mode.CACHED),
        (replace(PROGRAM, flags=READ | os.O_NOATIME), Mode.CACHED),
        (replace(PROGRAM, flags=READ | os.O_NOFOLLOW, backed=1), Mode.MAPPED),
        (replace(SETTLED, flags=READ | os.O_NOFOLLOW), Mode.PASSTHROUGH),
        (replace(PROGRAM, cached=1), Mode.CACHED),
        (replace(PROGRAM, backable=False), Mode.CACHED),
        (replace(PROGRAM, lower_io=LowerIo.CACHED), Mode.CACHED),
        (replace(PROGRAM, lower_io=LowerIo.PASSTHROUGH), Mode.PASSTHROUGH),
        (replace(PLAIN, lower_io=LowerIo.PASSTHROUGH), Mode.PASSTHROUGH),
        (replace(PLAIN, lower_io=LowerIo.CACHED), Mode.CACHED),
        (MOVED, Mode.SPLIT),
        (replace(MOVED, flags=WRITE), Mode.SPLIT),
        (replace(MOVED, lower_io=LowerIo.PASSTHROUGH), Mode.SPLIT),
        (replace(FORMER, asked_before=False), Mode.STALE),
        (replace(FORMER, asked_before=False, backed=0), Mode.STALE),
        (FORMER, Mode.MAPPED),
        (replace(FORMER, flags=WRITE), Mode.BUSY),
        (replace(FORMER, flags=EXECUTE), Mode.BUSY),
        (replace(FORMER, backed=0), Mode.PASSTHROUGH),
        (replace(FORMER, backed=0, flags=WRITE), Mode.PASSTHROUGH),
        (replace(FORMER, backed=0, backable=False), Mode.CACHED),
    ],
)
def test_the_table(case: Case, mode: Mode) -> None:
    assert case.decided() is mode


def every_case() -> list[Case]:
    """All combinations that can occur: an inode is in one mode at a time, and what is settled has nowhere else to be."""
    both = (False, True)
    return [
        Case(*values)
        for values in itertools.product(
            (0, 1), (0, 1), both, (READ, WRITE, EXECUTE), both, both, both, LowerIo, both, both
        )
        if not (values[0] and values[1])
    ]


def refusal(case: Case, mode: Mode) -> str | None:
    """What the kernel has against an open in that mode (fs/fuse/iomode.c, fs/fuse/passthrough.c)."""
    bits = FLAGS[mode]
    allowed = abi.FOPEN_PASSTHROUGH | abi.FOPEN_DIRECT_IO | abi.FOPEN_PARALLEL_DIRECT_WRITES | abi.FOPEN_NOFLUSH
    if bits & abi.FOPEN_PASSTHROUGH:
        if bits & ~allowed:
            return "EINVAL: a flag that may not accompany FOPEN_PASSTHROUGH"
        if case.cached:
            return "ETXTBSY: opens through the page cache live"
        if case.backed and not case.current and is_writing(case.flags):
            return "EROFS: the backing file in use is a lower one"
        return None
    return "EINVAL: opens with a backing file live" if case.backed else None


def test_the_kernel_takes_every_answer() -> None:
    opened = 0
    for case in every_case():
        mode = case.decided()
        if mode in FLAGS:
            opened += 1
            assert refusal(case, mode) is None, (case, mode)
    assert opened > 100


def test_what_holds_for_every_case() -> None:
    for case in every_case():
        mode = case.decided()
        lower = not case.settled
        if mode is Mode.PASSTHROUGH:
            assert case.settled or case.lower_io is LowerIo.PASSTHROUGH or case.flags & FMODE_EXEC, case
            assert case.current or not case.backed, f"would show outdated data: {case}"
        if mode is Mode.MAPPED and case.current:
            assert lower, case
        if lower and case.lower_io is LowerIo.CACHED and not case.backed:
            assert mode in (Mode.CACHED, Mode.STALE), case
        if mode in (Mode.STALE, Mode.BUSY):
            assert case.former, case
        if mode is Mode.SPLIT:
            assert case.backed, case
            assert not case.current, case
            assert not case.former, case
        if case.asked_before or not case.former:
            assert mode is not Mode.STALE, f"would ask for ever: {case}"


@pytest.mark.parametrize(
    ("name", "mode", "start", "mapped"),
    [
        (b"ls", 0o100755, b"\x7fE", True),
        (b"ls", 0o100644, b"\x7fE", False),
        (b"ls", 0o100001, b"\x7fE", True),
        (b"libc.so", 0o100644, b"\x7fE", True),
        (b"libc.so.6", 0o100644, b"\x7fE", True),
        (b"libc.so.6", 0o100644, b"", True),
        (b"libc.sock", 0o100644, b"\x7fE", False),
        (b"ldd", 0o100755, b"#!", False),
        (b"run.so", 0o100755, b"#!/bin/sh", False),
        (b"notes", 0o100644, b"ab", False),
    ],
)
def test_what_is_mapped_by_nature(name: bytes, mode: int, start: bytes, mapped: bool) -> None:
    assert is_mappable(name, mode, start) is mapped


@pytest.mark.parametrize(
    ("flags", "writing"),
    [(READ, False), (WRITE, True), (os.O_WRONLY, True), (EXECUTE, False), (os.O_RDONLY | os.O_APPEND, False)],
)
def test_who_writes(flags: int, writing: bool) -> None:
    assert is_writing(flags) is writing
