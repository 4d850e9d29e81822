"""Do a file's data arrive whole, with their holes, whatever the source and the filesystems are?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.trees import data_extents
from unionfs.overlay import copydata
from unionfs.overlay.copydata import Cancelled, copy_data

BLOCK = 4096


class Pair(NamedTuple):
    """A source to be filled, and an empty target."""

    source: Path
    target: Path

    def copy(self, size: int | None = None, cancelled: Cancelled | None = None) -> None:
        """Copy `size` bytes, of the whole file if not said otherwise."""
        with open(self.source, "rb") as source, open(self.target, "r+b") as target:
            wanted = os.fstat(source.fileno()).st_size if size is None else size
            copy_data(source.fileno(), target.fileno(), wanted, cancelled or Cancelled())


@pytest.fixture(params=["ext4 to ext4", "ext4 to xfs", "xfs to xfs", "tmpfs to ext4", "btrfs to btrfs"])
def pair(request: pytest.FixtureRequest, disks: Callable[[str], Path]) -> Iterator[Pair]:
    """Files on one filesystem, with and without reflinks, or on two."""
    source, target = request.param.split(" to ")
    made = Pair(disks(source) / "copy source", disks(target) / "copy target")
    for path in made:
        path.write_bytes(b"")
    yield made
    for path in made:
        path.unlink()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 100_000, (8 << 20) + 5, 20 << 20])
def test_all_bytes_arrive(size: int, pair: Pair) -> None:
    data = os.urandom(1 << 20) * (size // (1 << 20) + 1)
    pair.source.write_bytes(data[:size])
    pair.copy()
    assert pair.target.read_bytes() == data[:size]


def test_holes_stay_holes(pair: Pair) -> None:
    with open(pair.source, "wb") as file:
        file.truncate(5 << 30)
        for offset in (1 << 20, (1 << 20) + 64 * BLOCK, 3 << 30, (5 << 30) - BLOCK):
            file.seek(offset)
            file.write(b"x" * BLOCK)
        file.truncate((5 << 30) + (1 << 20))
        file.flush()
        os.fsync(file.fileno())
    pair.copy()
    assert pair.target.stat().st_size == (5 << 30) + (1 << 20)
    assert data_extents(os.fspath(pair.target)) == data_extents(os.fspath(pair.source))
    with open(pair.target, "rb") as file:
        for offset in (1 << 20, (1 << 20) + 64 * BLOCK, 3 << 30, (5 << 30) - BLOCK):
            assert os.pread(file.fileno(), BLOCK, offset) == b"x" * BLOCK


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK * 3 + 1, 1 << 20])
def test_only_a_part(size: int, pair: Pair) -> None:
    data = os.urandom(2 << 20)
    pair.source.write_bytes(data)
    pair.copy(size)
    assert pair.target.read_bytes() == data[:size]


@pytest.mark.parametrize("there", [0, 10, 5000])
def test_a_source_that_ends_early_reads_as_zeros(there: int, pair: Pair) -> None:
    pair.source.write_bytes(b"x" * there)
    pair.copy(10_000)
    assert pair.target.read_bytes() == b"x" * there + bytes(10_000 - there)


def test_a_part_that_ends_in_a_hole(pair: Pair) -> None:
    with open(pair.source, "wb") as file:
        file.write(b"x" * BLOCK)
        file.truncate(1 << 20)
    pair.copy(100_001)
    assert pair.target.read_bytes() == b"x" * BLOCK + bytes(100_001 - BLOCK)


@pytest.fixture
def no_reflinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no filesystem had any."""
    monkeypatch.setattr(copydata, "_reflinked", lambda source, target, size: False)


def test_cancelled_before_the_first_byte(pair: Pair, no_reflinks: None) -> None:
    pair.source.write_bytes(b"x" * 100_000)
    cancelled = Cancelled()
    cancelled.value = True
    with pytest.raises(InterruptedError) as stopped:
        pair.copy(cancelled=cancelled)
    assert stopped.value.errno == errno.EINTR
    assert pair.target.stat().st_size == 0


def test_cancelled_on_the_way(pair: Pair, no_reflinks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.source.write_bytes(b"x" * (1 << 20))
    monkeypatch.setattr(copydata, "_CHUNK", 1 << 16)
    cancelled = Cancelled()
    sendfile, copy_file_range = os.sendfile, os.copy_file_range
    done: list[int] = []

    def counted(call: Callable[..., int]) -> Callable[..., int]:
        def copy(*arguments: int) -> int:
            result = call(*arguments)
            done.append(result)
            cancelled.value = len(done) == 3
            return result

        return copy

    monkeypatch.setattr(os, "sendfile", counted(sendfile))
    monkeypatch.setattr(os, "copy_file_range", counted(copy_file_range))
    with pytest.raises(InterruptedError):
        pair.copy(cancelled=cancelled)
    assert sum(done) == 3 << 16


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_without_copy_file_range(code: int, pair: Pair, no_reflinks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> int:
        raise OSError(code, "not here")

    data = os.urandom(3 << 20)
    with open(pair.source, "wb") as file:
        file.write(data[: 1 << 20])
        file.seek(2 << 20)
        file.write(data[2 << 20 :])
    monkeypatch.setattr(os, "copy_file_range", refuse)
    pair.copy()
    assert pair.target.read_bytes() == data[: 1 << 20] + bytes(1 << 20) + data[2 << 20 :]


def test_a_full_disk_is_told(pair: Pair, no_reflinks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    pair.source.write_bytes(b"x" * 10_000)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="full") as failed:
        pair.copy()
    assert failed.value.errno == errno.ENOSPC
