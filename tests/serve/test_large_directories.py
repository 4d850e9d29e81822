"""Does the scan of a very large directory let others go on?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.overlay.test_scan import fill
from tests.serve.fake_kernel import ROOT, FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import kernel
from unionfs.overlay import merge, scan
from unionfs.overlay.scan import Piece, Scan


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of more than 40 names count as large, and are read seven names at a time."""
    monkeypatch.setattr(merge, "INLINE_NAMES", 40)
    monkeypatch.setattr(scan, "SLICE", 7)


@pytest.mark.usefixtures("small_slices")
class TestServed:
    """The whole way of a request."""

    @pytest.fixture
    def connection(self, layers: Layers) -> Iterator[FakeKernel]:
        fill(layers)
        with fake_kernel(layers) as connection:
            yield connection

    @pytest.mark.parametrize("plus", [False, True])
    def test_a_listing(self, plus: bool, connection: FakeKernel) -> None:
        names = [entry.name for entry in connection.listing(connection.lookup("d").nodeid, plus=plus)]
        # 60 files of which 5 are hidden by devices, one by a `.wh.` file, 4 merged directories, two of one layer, `.` and `..`.
        assert len(names) == len(set(names)) == 60 - 6 + 4 + 2 + 2

    def test_several_wait_for_one_scan(self, connection: FakeKernel) -> None:
        here = connection.lookup("d").nodeid
        waiting = [connection.send(kernel.readdir(here, 0, 0, 1 << 16)) for _ in range(5)]
        bodies = {connection.wait(unique).body for unique in waiting}
        assert len(bodies) == 1

    def test_a_directory_that_cannot_be_removed(self, connection: FakeKernel) -> None:
        assert connection.error(kernel.rmdir(ROOT, b"d")) == 39

    def test_a_large_directory_of_whiteouts_can(self, layers: Layers) -> None:
        (layers.lowers[0] / "gone").mkdir()
        (layers.top / "gone").mkdir()
        for number in range(100):
            (layers.lowers[0] / "gone" / str(number)).write_bytes(b"")
            os.mknod(layers.top / "gone" / str(number), 0o20000, 0)
        with fake_kernel(layers) as connection:
            connection.ok(kernel.rmdir(ROOT, b"gone"))
            assert connection.error(kernel.lookup(ROOT, b"gone")) in (0, 2)
        assert (layers.top / "gone").is_char_device()

    def test_an_error_of_the_layer(self, connection: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        here = connection.lookup("d").nodeid

        def fail(running: Scan) -> list[Piece]:
            raise OSError(5, "the disk is broken")

        with monkeypatch.context() as broken:
            broken.setattr(Scan, "read", fail)
            assert connection.error(kernel.readdir(here, 0, 0, 4096)) == 5
        assert connection.listing(here)


NAMES = 60_000


@pytest.mark.parametrize("scratch", ["tmpfs"], indirect=True)
def test_others_are_answered_meanwhile(layers: Layers, scratch: Path) -> None:
    """While a merged directory of very many names is read, lookups elsewhere are answered."""
    for place in (layers.lowers[0], layers.top):
        (place / "d").mkdir()
    for number in range(NAMES):
        os.mknod(layers.lowers[0] / "d" / f"name{number}", 0o100644)
    for number in range(50):
        (layers.lowers[0] / f"other{number}").write_bytes(b"")
    with fake_kernel(layers) as connection:
        here = connection.lookup("d").nodeid
        listing = connection.send(kernel.readdir(here, 0, 0, 4096))
        answered = 0
        while not connection.is_answered(listing):
            connection.lookup(f"other{answered % 50}")
            answered += 1
        # Between any two slices; if all names were read at once, it would be one or two. No time is measured: machines are busy.
        assert answered >= NAMES // scan.SLICE // 3
        assert connection.wait(listing).error == 0
