"""Does a failed call become the right exception?"""

from __future__ import annotations

import errno
import os
import platform

import pytest

from unionfs.linux import libc


def test_a_call_that_fails() -> None:
    with pytest.raises(OSError, match="Invalid argument") as failed:
        libc.syscall("openat2", -100, b"/", bytes(24), 0)
    assert failed.value.errno == errno.EINVAL


def test_an_exception_of_its_own_class() -> None:
    how = bytes(24)
    with pytest.raises(FileNotFoundError):
        libc.syscall("openat2", -100, b"/no such file", how, len(how))


def test_a_call_that_succeeds() -> None:
    how = os.O_PATH.to_bytes(8, "little") + bytes(16)
    fd = libc.syscall("openat2", -100, b"/", how, len(how))
    assert os.path.samestat(os.fstat(fd), os.stat("/"))
    os.close(fd)


def test_system_call_numbers_of_this_machine() -> None:
    """setfsuid(2) tells the present id, so that a wrong number shows."""
    assert platform.machine() in ("x86_64", "aarch64", "riscv64")
    assert libc.quick.syscall(libc.NUMBERS["setfsuid"], -1) == os.geteuid()
    assert libc.quick.syscall(libc.NUMBERS["setfsgid"], -1) == os.getegid()
