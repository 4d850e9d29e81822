"""Do few descriptors do for many directories?"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.overlay.conftest import OpenUnion
from tests.overlay.test_lookup import directory_of
from tests.support.mounts import Layers
from unionfs.linux import at
from unionfs.overlay import marks, realdir
from unionfs.overlay.layer import Layer
from unionfs.overlay.realdir import DescriptorCache, RealDir

DEEP = 40


@pytest.fixture
def layer(layers: Layers, open_union: OpenUnion) -> Layer:
    """A lower layer with 30 directories, and a chain of DEEP of them."""
    lower = layers.lowers[0]
    for number in range(30):
        (lower / f"d{number}").mkdir()
        (lower / f"d{number}" / "file").write_bytes(b"%d" % number)
    Path(lower, *["deep"] * DEEP).mkdir(parents=True)
    union = open_union(layers)
    return union.layers[1]


def is_open(real: RealDir) -> bool:
    return real._fd >= 0


def test_the_oldest_are_closed(layer: Layer) -> None:
    cache = layer.descriptors = DescriptorCache(10)
    reals = [RealDir(layer, layer.root, b"d%d" % number) for number in range(30)]
    for real in reals[:10]:
        real.fd()
    cache.trim()
    assert all(is_open(real) for real in reals[:10])
    for real in reals[10:]:
        real.fd()
    assert all(is_open(real) for real in reals), "none goes while an operation runs"
    cache.trim()
    left = [real for real in reals if is_open(real)]
    assert left == reals[-len(left) :]
    assert 8 <= len(left) <= 10
    for number, real in enumerate(reals):
        assert os.stat("file", dir_fd=real.fd()).st_size == len(str(number))
    cache.close()
    assert not any(is_open(real) for real in reals)


def test_a_closed_one_opens_again_as_itself(layer: Layer) -> None:
    real = RealDir(layer, layer.root, b"d7")
    number = os.stat(real.fd()).st_ino
    real.close()
    real.close()
    assert not is_open(real)
    assert os.stat(real.fd()).st_ino == number
    real.close()


def test_the_root_stays_open(layer: Layer) -> None:
    layer.root.close()
    layer.descriptors.close()
    assert is_open(layer.root)


@pytest.mark.parametrize("openat2", [True, False])
def test_a_deep_one_needs_no_other(openat2: bool, layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSYS, "an older kernel")

    if not openat2:
        monkeypatch.setattr(at, "open_beneath", unknown)
    chain = [layer.root]
    for _ in range(DEEP):
        chain.append(RealDir(layer, chain[-1], b"deep"))
    before = len(os.listdir("/proc/self/fd"))
    assert os.readlink(f"/proc/self/fd/{chain[-1].fd()}").endswith("/deep" * DEEP)
    assert [is_open(real) for real in chain[1:]] == [False] * (DEEP - 1) + [True]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert chain[-1].path() == b"/".join([layer.path, *[b"deep"] * DEEP])
    chain[-1].close()


def test_a_deep_one_in_a_mount_inside_of_a_layer_that_could_not_be_cloned(layers: Layers) -> None:
    """An ordinary user's layer shows what is mounted in it, however its directories are opened again."""
    inside = layers.lowers[0] / "deep" / "deep"
    inside.mkdir(parents=True)
    layer = Layer(1, os.fsencode(layers.lowers[0]), marks.USER, DescriptorCache(10))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inside], check=True)
    try:
        (inside / "deep").mkdir()
        layer.adopt_root(os.open(layers.lowers[0], os.O_PATH | os.O_DIRECTORY))
        chain = [layer.root]
        for _ in range(3):
            chain.append(RealDir(layer, chain[-1], b"deep"))
        assert os.stat(chain[-1].fd()).st_dev == inside.stat().st_dev
        chain[-1].close()
    finally:
        layer.close()
        subprocess.run(["umount", inside], check=True)


def test_what_is_gone(layer: Layer) -> None:
    for name, code in ((b"absent", errno.ENOENT), (b"d1/file", errno.ENOTDIR)):
        with pytest.raises(OSError, match="Errno") as failed:
            RealDir(layer, layer.root, name).fd()
        assert failed.value.errno == code


def test_marks_are_read_once(layers: Layers, open_union: OpenUnion) -> None:
    (layers.top / "d").mkdir()
    union = open_union(layers)
    real = directory_of(union, "d").reals[0]
    assert real.marks() == marks.NO_MARKS
    os.setxattr(layers.top / "d", "trusted.overlay.impure", b"y")
    assert real.marks() == marks.NO_MARKS
    real.note_impure()
    assert real.marks().impure


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_marker_files(limit: int, layers: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one scan, or in a large directory by a look for each name."""
    monkeypatch.setattr(realdir, "_SCAN_LIMIT", limit)
    (layers.lowers[0] / ".wh.hidden").write_bytes(b"")
    real = open_union(layers).layers[1].root
    assert real.has_marker(b"hidden")
    assert not real.has_marker(b"shown")
    real.note_marker(b"other", True)
    assert real.has_marker(b"other") == bool(limit), "only what was scanned has to be kept up to date"
    real.note_marker(b"hidden", False)
    assert real.has_marker(b"hidden") != bool(limit)
