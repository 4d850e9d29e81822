"""Does INIT end in an agreement, or in a clear refusal?"""

from __future__ import annotations

import errno
import struct

import pytest

from tests.serve.fake_kernel import OFFER, fake_kernel
from tests.support.mounts import Layers
from tests.wire import kernel
from tests.wire.answers import Answer
from unionfs.serve.errors import MountError
from unionfs.wire import abi


def version(answer: Answer) -> tuple[int, int]:
    """The major and minor version in a reply to INIT."""
    major, minor = struct.unpack_from("=II", answer.body)
    return major, minor


def flags(answer: Answer) -> int:
    """All 64 flags in a reply to INIT."""
    low, high = struct.unpack_from("=I", answer.body, 12)[0], struct.unpack_from("=I", answer.body, 32)[0]
    return int(low | high << 32)


@pytest.mark.parametrize("minor", [31, 36, 38, 45, 46, 47, 99])
def test_agreement(minor: int, filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        answer = connection.ask(kernel.init(7, minor, OFFER))
        assert (answer.error, version(answer)) == (0, (7, min(minor, 46)))
        assert len(answer.body) == 64
        assert flags(answer) & ~OFFER == 0
        assert flags(answer) & abi.POSIX_ACL
        assert not flags(answer) & abi.PASSTHROUGH
        assert struct.unpack_from("=I", answer.body, 36) == (0,), "max_stack_depth without passthrough"
        assert connection.error(kernel.getattr_(1)) == 0


def test_an_old_kernel_that_offers_nothing(filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        answer = connection.ask(kernel.init_old(7, 31, 0))
        assert (answer.error, flags(answer)) == (0, 0)
        # Without SETXATTR_EXT the request is shorter.
        assert connection.error(kernel.setxattr_compat(1, b"user.a", b"value")) == 0
        assert connection.ok(kernel.getxattr(1, b"user.a", 100)) == b"value"


def test_no_acls_if_not_wanted(filled: Layers) -> None:
    with fake_kernel(filled, agree=False, noacl=True) as connection:
        assert not flags(connection.agree()) & abi.POSIX_ACL
        assert connection.error(kernel.getxattr(1, b"system.posix_acl_access", 0)) == errno.EOPNOTSUPP


def test_a_newer_major_version_is_asked_to_come_down(filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        answer = connection.ask(kernel.init(8, 0, OFFER))
        assert (answer.error, version(answer)[0]) == (0, 7)
        assert version(connection.agree())[0] == 7
        connection.settle()


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 8), (6, 99)])
def test_a_kernel_that_is_too_old(major: int, minor: int, filled: Layers) -> None:
    with pytest.raises(MountError, match=rf"{major}\.{minor}"), fake_kernel(filled, agree=False) as connection:
        assert connection.error(kernel.init_old(major, minor, OFFER & 0xFFFFFFFF)) == errno.EPROTO


def test_requests_before_init_are_refused(filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        assert connection.error(kernel.getattr_(1)) == errno.EIO
        assert connection.agree().error == 0
        connection.settle()


@pytest.mark.parametrize("garbage", [b"x", bytes(40), kernel.init(7, 45, OFFER)[:50]], ids=["short", "zeros", "cut"])
def test_garbage_before_init_does_not_end_the_server(garbage: bytes, filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        connection.send_raw(garbage)
        assert connection.agree().error == 0
        connection.settle()


def test_unmounted_before_init(filled: Layers) -> None:
    with fake_kernel(filled, agree=False) as connection:
        assert connection.is_alive()
    assert not connection.is_alive()
    assert connection.failure is None
