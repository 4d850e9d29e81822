"""Does the server answer whatever comes, and outlive it?"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.fake_kernel import ROOT, FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import kernel
from tests.wire.samples import SAMPLES, Sample
from unionfs.wire.abi import Opcode

SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.NOTIFY_REPLY, Opcode.INTERRUPT}
"""What is never answered."""

ENOSYS = {
    Opcode.FLUSH, Opcode.OPENDIR, Opcode.RELEASEDIR, Opcode.ACCESS, Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW, Opcode.BMAP,
    Opcode.POLL, Opcode.SETUPMAPPING, Opcode.REMOVEMAPPING, Opcode.INIT, Opcode.CUSE_INIT,
}  # fmt: skip
"""What the kernel does better by itself: the answer makes it do so from then on."""

WITHOUT_NODE = {Opcode.STATFS, Opcode.DESTROY, Opcode.RELEASE, Opcode.SYNCFS}
"""What succeeds for a node that is not there: these ask nothing of it."""

fuzz = settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def quiet() -> Iterator[None]:
    """No log of what random requests do."""
    logging.getLogger("unionfs").disabled = True
    yield
    logging.getLogger("unionfs").disabled = False


def test_the_samples_are_all_operations() -> None:
    assert {int.from_bytes(sample.message[4:8], "little") for sample in SAMPLES} == {int(opcode) for opcode in Opcode}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.label)
def test_every_operation_on_a_node_that_is_not_there(sample: Sample, connection: FakeKernel) -> None:
    opcode = Opcode(int.from_bytes(sample.message[4:8], "little"))
    unique = connection.send(sample.message)
    connection.settle()
    if opcode in SILENT:
        assert not connection.is_answered(unique)
        return
    found = -connection.wait(unique).error
    if opcode in ENOSYS:
        assert found == errno.ENOSYS
    elif opcode is Opcode.SETXATTR and not sample.setxattr_ext:
        assert found == errno.EINVAL, "its layout was not agreed on"
    elif opcode is Opcode.IOCTL:
        assert found in (errno.ESTALE, errno.ENOTTY)
    else:
        assert found == (0 if opcode in WITHOUT_NODE else errno.ESTALE)


@pytest.mark.parametrize("opcode", [0, 7, 19, 54, 200, 4095, 4097, 0xFFFFFFFF])
def test_an_unknown_operation(opcode: int, connection: FakeKernel) -> None:
    assert connection.error(kernel.request(opcode, ROOT, b"whatever")) == errno.ENOSYS


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.label)
def test_truncated_requests(sample: Sample, connection: FakeKernel, quiet: None) -> None:
    """The length in the header is that of the message, but the arguments are not all there."""
    opcode = Opcode(int.from_bytes(sample.message[4:8], "little"))
    fixed = [length for length in range(40, len(sample.message)) if length < 60 or length % 7 == 0]
    for length in fixed:
        unique = connection.send(struct.pack("=I", length) + sample.message[4:length])
        connection.settle()
        if opcode not in SILENT:
            assert connection.wait(unique).error <= 0
    connection.settle()


@pytest.mark.parametrize("length", [1, 4, 39])
def test_less_than_a_header(length: int, connection: FakeKernel, caplog: pytest.LogCaptureFixture) -> None:
    connection.send_raw(kernel.getattr_(ROOT)[:length])
    connection.settle()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("claimed", [0, 39, 55, 57, 1 << 31])
def test_a_length_that_is_wrong(claimed: int, connection: FakeKernel, quiet: None) -> None:
    connection.send_raw(struct.pack("=I", claimed) + kernel.getattr_(ROOT)[4:])
    connection.settle()


def test_malformed_is_answered_and_logged(connection: FakeKernel, caplog: pytest.LogCaptureFixture) -> None:
    assert connection.error(kernel.request(Opcode.LOOKUP, ROOT, b"no end")) == errno.EINVAL
    assert connection.error(kernel.request(Opcode.LOOKUP, ROOT, b"a/b\0")) == errno.EINVAL
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "LOOKUP" in caplog.text


def test_a_handler_that_fails_is_answered_eio_and_logged_once(
    connection: FakeKernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(header: object, request: object) -> None:
        raise ZeroDivisionError("a defect")

    routes = connection.session._routes
    monkeypatch.setitem(routes, int(Opcode.STATFS), routes[Opcode.STATFS]._replace(handle=broken))
    assert connection.error(kernel.statfs(ROOT)) == errno.EIO
    assert [(record.levelname, record.exc_info is not None) for record in caplog.records] == [("ERROR", True)]
    assert "STATFS" in caplog.text
    connection.settle()


def test_a_task_that_fails_is_answered_eio_and_logged_once(
    connection: FakeKernel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(header: object, request: object) -> None:
        raise ZeroDivisionError("a defect")

    routes = connection.session._routes
    monkeypatch.setitem(routes, int(Opcode.SYNCFS), routes[Opcode.SYNCFS]._replace(handle=broken))
    assert connection.error(kernel.syncfs(ROOT)) == errno.EIO
    assert [(record.levelname, record.exc_info is not None) for record in caplog.records] == [("ERROR", True)]
    connection.settle()


def test_an_answer_that_cannot_be_encoded(connection: FakeKernel, monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    def nonsense(unique: int, value: object) -> bytes:
        raise struct.error("out of range")

    routes = connection.session._routes
    monkeypatch.setitem(routes, int(Opcode.STATFS), routes[Opcode.STATFS]._replace(encode=nonsense))
    assert connection.error(kernel.statfs(ROOT)) == errno.EIO
    connection.settle()


@fuzz
@given(message=st.binary(min_size=1, max_size=300))
def test_any_bytes(message: bytes, connection: FakeKernel, quiet: None) -> None:
    connection.send_raw(struct.pack("=I", len(message)) + message[4:] if len(message) > 4 else message)
    drain(connection)


NODES = st.integers(0, 12)


@fuzz
@given(opcode=st.sampled_from(sorted(int(opcode) for opcode in Opcode)), nodeid=NODES, body=st.binary(max_size=120))
def test_any_arguments_for_nodes_that_are_there(
    opcode: int, nodeid: int, body: bytes, connection: FakeKernel, quiet: None
) -> None:
    for path in ("file", "symlink", "dir", "own", "large"):
        connection.send(kernel.lookup(ROOT, path.encode()))
    if opcode == Opcode.FALLOCATE:
        body = body[:8] + bytes(5) + body[13:16] + bytes(5) + body[21:]
    connection.send(kernel.request(opcode, nodeid, body))
    drain(connection)


def drain(connection: FakeKernel) -> None:
    """Wait for the server to have done with it all; answers to a random number of requests count for nothing."""
    assert connection.is_alive()
    connection.settle()
    connection._waiting.clear()


def test_many_requests_in_flight(filled: Layers) -> None:
    """Requests come in bursts while tasks are under way; every one gets its own answer."""
    with fake_kernel(filled) as connection:
        file = connection.lookup("file").nodeid
        sent: list[tuple[int, int]] = []
        for number in range(300):
            sent.append((connection.send(kernel.getattr_(file if number % 2 else ROOT)), 0))
            sent.append((connection.send(kernel.lookup(ROOT, b"absent%d" % number)), 0))
            if number % 50 == 0:
                sent.append((connection.send(kernel.syncfs(ROOT)), 0))
            sent.append((connection.send(kernel.getattr_(999)), errno.ESTALE))
        for unique, expected in sent:
            assert -connection.wait(unique).error == expected
