"""Do large reads that go through a pipe give exactly the bytes of the file, or else none at all?"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Layers, Unionfs, servers_of
from unionfs.serve.splicing import LIMIT, FileRange, Splicer

SIZE = 3 << 20
PAGE = 4096
UNIQUE = 42
OUT_HEADER = struct.Struct("=IiQ")
"""struct fuse_out_header: length of the whole message, error, unique (linux/fuse.h)."""
#: Offsets and lengths on, before and after every boundary that counts.
PARTS = [
    (0, 65536),
    (1, 65536),
    (4095, 65537),
    (4097, 70001),
    (12345, 131072),
    (0, LIMIT),
    (1, LIMIT),
    (4095, LIMIT),
    (4095, LIMIT - 1),
    (0, LIMIT + 1),
    (17, (1 << 20) - 1),
    (PAGE, 1 << 20),
    (SIZE - 65537, 65537),
]


def header(length: int) -> bytes:
    """Of an answer with so many bytes of data."""
    return OUT_HEADER.pack(OUT_HEADER.size + length, 0, UNIQUE)


@pytest.fixture(scope="module")
def content() -> bytes:
    """Bytes that are nowhere the same."""
    return random.Random(7).randbytes(SIZE)


@pytest.fixture
def file(scratch: Path, content: bytes) -> Iterator[int]:
    """A descriptor of a file of `content`."""
    (scratch / "file").write_bytes(content)
    fd = os.open(scratch / "file", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


class Device:
    """Takes for /dev/fuse: whatever is written comes out at the other end."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self.splicer = Splicer(self._here.fileno())

    def send(self, part: FileRange) -> bytes:
        """What arrives for a header and a part of a file."""
        received = bytearray()

        def receive() -> None:
            while data := self._there.recv(1 << 20):
                received.extend(data)

        reader = threading.Thread(target=receive)
        reader.start()
        try:
            self.splicer.send(header(part.length), part)
        finally:
            self._here.shutdown(socket.SHUT_WR)
            reader.join()
            self._here.close()
            self._there.close()
            self._here, self._there = socket.socketpair()
            self.splicer._device = self._here.fileno()
        return bytes(received)

    def close(self) -> None:
        self.splicer.close()
        self._here.close()
        self._there.close()


@pytest.fixture
def device() -> Iterator[Device]:
    """A splicer and what it writes to."""
    made = Device()
    yield made
    made.close()


def test_exact_bytes(device: Device, file: int, content: bytes) -> None:
    for offset, length in PARTS:
        expected = header(length) + content[offset : offset + length]
        assert device.send(FileRange(file, offset, length)) == expected, (offset, length)


def test_without_a_large_pipe(file: int, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's share of pipe pages may be used up."""

    def refuse(*_: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "fcntl", refuse)
        device = Device()
    try:
        for offset, length in PARTS:
            assert device.send(FileRange(file, offset, length)) == header(length) + content[offset : offset + length]
    finally:
        device.close()


def test_a_pipe_that_fills_in_steps(device: Device, file: int, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """splice(2) may move less than it was asked to."""
    whole = os.splice

    def step(source: int, target: int, count: int, offset: int | None = None) -> int:
        return whole(source, target, count) if offset is None else whole(source, target, min(count, 50_000), offset)

    monkeypatch.setattr(os, "splice", step)
    for offset, length in PARTS:
        assert device.send(FileRange(file, offset, length)) == header(length) + content[offset : offset + length]


def test_after_the_pipe_was_given_up(device: Device, file: int, content: bytes) -> None:
    """A source that yields nothing by splice leaves nothing in the pipe for the next one."""
    other = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(OSError, match="Errno"):
            device.send(FileRange(other, 0, 65536))
    finally:
        os.close(other)
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert device.send(FileRange(file, 3, 100_000)) == header(100_000) + content[3:100_003]


@pytest.mark.parametrize("left", [70_000, 4096, 0])
def test_a_file_shorter_than_it_was(left: int, device: Device, file: int, content: bytes) -> None:
    """It was cut after its length was looked at.

    The kernel refuses a message whose length is not the one in its header, and the reader would wait for ever.
    """
    os.ftruncate(file, left)
    message = device.send(FileRange(file, 5, 100_000))
    assert OUT_HEADER.unpack_from(message) == (len(message), 0, UNIQUE)
    there = content[5:left]
    data = message[OUT_HEADER.size :]
    assert data[: len(there)] == there
    assert data[len(there) :].strip(b"\0") == b""
    os.pwrite(file, content, 0)
    assert device.send(FileRange(file, 5, 100_000)) == header(100_000) + content[5:100_005]


def test_on_a_mount(layers: Layers, content: bytes) -> None:
    """Read directly, so that each read(2) is the server's READ, and through the page cache; of either layer."""
    for name, layer in (("lower", layers.lowers[0]), ("upper", layers.top)):
        (layer / name).write_bytes(content)
    with Unionfs().mount(layers, {"passthrough": "off"}) as mnt, mmap.mmap(-1, SIZE) as buffer:
        for name in ("lower", "upper"):
            direct = os.open(mnt / name, os.O_RDONLY | os.O_DIRECT)
            cached = os.open(mnt / name, os.O_RDONLY)
            before = bytes_read(mnt)
            for offset, length in PARTS:
                view = memoryview(buffer)[:length]
                done = os.preadv(direct, [view], offset)
                assert bytes(view[:done]) == content[offset : offset + length], (name, offset, length)
                view.release()
                assert os.pread(cached, length, offset) == content[offset : offset + length], (name, offset, length)
            os.close(direct)
            os.close(cached)
            assert bytes_read(mnt) - before < sum(length for _, length in PARTS), "most of it went through the pipe"


def bytes_read(mnt: Path) -> int:
    """What the server has taken in by read(2) and the like, but not by splice(2) (proc_pid_io(5), rchar)."""
    (server,) = servers_of(mnt)
    return int(Path(f"/proc/{server}/io").read_text().split()[1])


def test_reading_while_it_is_cut_and_filled(layers: Layers, content: bytes) -> None:
    """The upper file itself changes, behind the server: every read ends, with what was there at some time."""
    upper = layers.top / "file"
    upper.write_bytes(content)
    stop = threading.Event()

    def change() -> None:
        with open(upper, "r+b", buffering=0) as changing:
            while not stop.is_set():
                changing.truncate(100_001)
                changing.truncate(SIZE)
                os.pwrite(changing.fileno(), content, 0)

    with Unionfs().mount(layers, {"passthrough": "off"}) as mnt, mmap.mmap(-1, 512 * 1024) as buffer:
        fd = os.open(mnt / "file", os.O_RDONLY | os.O_DIRECT)
        changer = threading.Thread(target=change)
        changer.start()
        try:
            for number in range(300):
                offset = number * 8191 % (SIZE - len(buffer))
                done = os.preadv(fd, [buffer], offset)
                found, expected = bytes(buffer[:done]), content[offset : offset + done]
                assert all(one in (other, 0) for one, other in zip(found[::997], expected[::997], strict=True))
        finally:
            stop.set()
            changer.join()
            os.close(fd)
