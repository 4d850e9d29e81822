"""Is a descriptor closed exactly once, by its owner?"""

from __future__ import annotations

import os

import pytest

from unionfs.linux.fd import Fd


def is_open(number: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{number}")


def null() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def test_close_forgets_the_number() -> None:
    number = null()
    fd = Fd(number)
    assert (fd.fileno(), fd.closed, repr(fd)) == (number, False, f"<Fd {number}>")
    fd.close()
    assert (is_open(number), fd.closed, repr(fd)) == (False, True, "<Fd closed>")
    with pytest.raises(ValueError, match="closed"):
        fd.fileno()


def test_a_second_close_does_not_hit_a_reused_number() -> None:
    number = null()
    fd = Fd(number)
    fd.close()
    again = null()
    assert again == number
    fd.close()
    del fd
    assert is_open(number)
    os.close(again)


def test_block() -> None:
    number = null()
    with Fd(number) as fd:
        assert fd.fileno() == number
    assert not is_open(number)
    number = null()
    with pytest.raises(RuntimeError, match="inside"), Fd(number):
        raise RuntimeError("inside")
    assert not is_open(number)


def test_detach() -> None:
    number = null()
    fd = Fd(number)
    assert fd.detach() == number
    fd.close()
    assert is_open(number)
    with pytest.raises(ValueError, match="closed"):
        fd.detach()
    os.close(number)


def test_the_last_reference_closes() -> None:
    number = null()
    fd = Fd(number)
    del fd
    assert not is_open(number)
