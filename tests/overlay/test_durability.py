"""Does a volatile union leave the kernel's mark and heed it, and does it notice what the upper filesystem could not write?"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion, config_of, opened
from tests.support import own_process
from tests.support.losing_disk import lose_data, losing_disk
from tests.support.lowers import watch
from tests.support.mounts import Kernel, Layers, MountFailed
from tests.support.trees import diff, snapshot
from unionfs.linux import mount
from unionfs.overlay.config import Fsync
from unionfs.overlay.errors import LayerError
from unionfs.overlay.union import Union


def incompat(layers: Layers) -> Path:
    """Where a mount leaves the marks of features that must not be ignored."""
    assert layers.work is not None
    return layers.work / "work" / "incompat"


class TestTheMark:
    """workdir/work/incompat/volatile, as overlayfs.rst has it under "Volatile mount"."""

    def test_it_is_the_kernels(self, make_layers: LayersFactory) -> None:
        ours, theirs = make_layers(name="ours"), make_layers(name="theirs")
        with opened(ours, fsync=Fsync.VOLATILE):
            pass
        with Kernel().mount(theirs, {"volatile": None}):
            pass
        unequal = ("mtime_ns", "ctime_ns")
        assert diff(snapshot(incompat(ours), unequal), snapshot(incompat(theirs), unequal)) == []
        assert (incompat(ours) / "volatile" / "dirty").is_file()
        assert os.listdir(incompat(ours).parent) == ["incompat"], "nothing else is left"

    def test_it_bars_every_mount_until_it_is_removed(self, layers: Layers) -> None:
        with opened(layers, fsync=Fsync.VOLATILE):
            pass
        for mode in (Fsync.AUTO, Fsync.VOLATILE):
            with pytest.raises(LayerError, match=f"volatile mount.*`rm -r {incompat(layers)}/volatile`"):
                Union.open(config_of(layers, fsync=mode))
        with pytest.raises(MountFailed), Kernel().mount(layers):
            pass
        subprocess.run(["rm", "-r", incompat(layers) / "volatile"], check=True)
        with Kernel().mount(layers):
            pass
        with opened(layers):
            pass

    def test_the_kernels_is_heeded(self, layers: Layers) -> None:
        with Kernel().mount(layers, {"volatile": None}):
            pass
        with pytest.raises(LayerError, match="volatile mount"):
            Union.open(config_of(layers))
        subprocess.run(["rm", "-r", incompat(layers) / "volatile"], check=True)
        with opened(layers):
            pass
        assert not incompat(layers).exists()

    def test_a_feature_nobody_knows(self, layers: Layers) -> None:
        (incompat(layers) / "future").mkdir(parents=True)
        with pytest.raises(LayerError, match="future is the mark of a feature"):
            Union.open(config_of(layers))
        with pytest.raises(MountFailed), Kernel().mount(layers):
            pass
        assert os.listdir(incompat(layers)) == ["future"]

    @pytest.mark.parametrize("what", ["empty", "a file"])
    def test_what_is_no_mark(self, what: str, layers: Layers) -> None:
        incompat(layers).parent.mkdir()
        if what == "empty":
            incompat(layers).mkdir()
        else:
            incompat(layers).write_bytes(b"")
        with opened(layers):
            assert not os.path.lexists(incompat(layers))

    def test_a_mount_that_does_not_come_about_leaves_none(self, layers: Layers) -> None:
        with opened(layers, fsync=Fsync.VOLATILE) as union:
            assert incompat(layers).exists()
            union.withdraw()
        assert not incompat(layers).exists()

    @pytest.mark.parametrize("mode", [Fsync.AUTO, Fsync.STRICT])
    def test_others_leave_none(self, mode: Fsync, layers: Layers) -> None:
        with opened(layers, fsync=mode):
            assert not incompat(layers).exists()


@pytest.fixture
def failing(scratch: Path) -> Iterator[Layers]:
    """Layers on a filesystem that can lose what is written."""
    with losing_disk(scratch) as disk:
        yield Layers.create(disk / "union")


@pytest.fixture(params=["watched", "by file"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the kernel's overlayfs helps to notice errors, or can't."""
    if request.param == "by file":

        def refuse(options: object) -> int:
            raise OSError(errno.EPERM, "no privilege")

        monkeypatch.setattr(mount, "unmounted_overlay", refuse)
    return str(request.param)


class TestWriteErrors:
    """Once something was lost after a volatile mount, every sync fails for good."""

    def test_nothing_was_lost(self, way: str, layers: Layers, open_union: OpenUnion) -> None:
        union = open_union(layers, fsync=Fsync.VOLATILE)
        assert union.durability.needs_file == (way == "by file")
        fd = os.open(layers.top / "file", os.O_CREAT | os.O_RDWR)
        os.write(fd, b"data")
        union.durability.check(fd)
        union.sync()
        os.close(fd)

    def test_something_was_lost(self, way: str, failing: Layers) -> None:
        with opened(failing, fsync=Fsync.VOLATILE) as union:
            path = failing.top / "file"
            fd = os.open(path, os.O_CREAT | os.O_RDWR)
            union.durability.check(fd)
            lose_data(path)
            for _ in range(3):
                with pytest.raises(OSError, match="Errno") as failed:
                    union.durability.check(fd)
                assert failed.value.errno in (errno.EIO, errno.ENOSPC)
            with pytest.raises(OSError, match="Errno 5"):
                union.sync()
            # The error is not forgotten when somebody else has been told.
            subprocess.run(["sync", "-f", path], check=False, capture_output=True)
            with pytest.raises(OSError, match="Errno"):
                union.durability.check()
            os.close(fd)

    def test_an_error_nobody_was_told_of(self, failing: Layers) -> None:
        """From before the mount: the kernel refuses a volatile mount, and only that."""
        lose_data(failing.top / "file")
        watch(failing.lowers, failing.work)
        with pytest.raises(MountFailed), Kernel().mount(failing, {"volatile": None}):
            pass
        with own_process.as_before(), pytest.raises(LayerError, match=r"upperdir: .* failed to write .*sync -f"):
            Union.open(config_of(failing, fsync=Fsync.VOLATILE))
        assert not incompat(failing).exists()
        with opened(failing):
            pass
        subprocess.run(["sync", "-f", failing.top], check=False, capture_output=True)
        with opened(failing, fsync=Fsync.VOLATILE) as union:
            union.durability.check()


def test_a_probe_leaves_nothing(layers: Layers, open_union: OpenUnion) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    union = open_union(layers, fsync=Fsync.VOLATILE)
    assert not union.durability.needs_file
    assert sorted(os.listdir(incompat(layers).parent)) == sorted([*_shared_whiteout(incompat(layers).parent), "incompat"])
    assert Path("/proc/self/mountinfo").read_text() == before


def _shared_whiteout(work: Path) -> list[str]:
    """The whiteout that a live union keeps for linking."""
    return [name for name in os.listdir(work) if (work / name).is_char_device()]


@pytest.mark.parametrize("call", [lambda: mount.unmounted_overlay([(b"lowerdir", b"/nowhere")])])
def test_an_overlay_that_cannot_be_made(call: Callable[[], int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Errno"):
        call()
    assert len(os.listdir("/proc/self/fd")) == before
