"""Mount options: do flags of mount(2) hold, and may the mount be a layer itself?"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import NOBODY
from tests.conftest import LayersFactory
from tests.support.mounts import Kernel, Layers, Options, Unionfs

LONG_AGO = 1_000_000_000_000_000_000
"""Nanoseconds since the epoch: a time of 2001, long enough ago for relatime to set a new one at the next reading."""


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A lower layer with a set-id program, a device and a file; all may be used by everybody."""
    lower = layers.lowers[0]
    shutil.copy(os.path.realpath("/usr/bin/id"), lower / "id")
    (lower / "id").chmod(0o4755)
    os.mknod(lower / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (lower / "null").chmod(0o666)
    (lower / "file").write_bytes(b"below\n")
    return layers


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program as the user nobody."""
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return subprocess.run([*user, *map(str, command)], capture_output=True, text=True, check=False)


@pytest.fixture
def public_point() -> Iterator[Path]:
    """A mount point that everybody reaches; pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory(prefix="unionfs-test-") as name:
        os.chmod(name, 0o755)
        (Path(name) / "mnt").mkdir(mode=0o755)
        yield Path(name) / "mnt"


def test_roots_mounts_are_for_everybody_with_set_ids_and_devices(filled: Layers, public_point: Path) -> None:
    with Unionfs().mount(replace(filled, mnt=public_point)) as mnt:
        assert as_nobody(mnt / "id", "-u").stdout == "0\n"
        shutil.copy2(mnt / "id", mnt / "upper id")
        assert as_nobody(mnt / "upper id", "-u").stdout == "0\n"
        assert as_nobody("cat", mnt / "null").returncode == 0
        assert as_nobody("cat", mnt / "file").stdout == "below\n"
        assert as_nobody("touch", mnt / "file").returncode == 1


def test_flags_that_forbid(filled: Layers, public_point: Path) -> None:
    forbid = {"nosuid": None, "nodev": None}
    with Unionfs().mount(replace(filled, mnt=public_point), forbid) as mnt:
        assert as_nobody(mnt / "id", "-u").stdout == f"{NOBODY}\n"
        assert "Permission denied" in as_nobody("cat", mnt / "null").stderr
    with Unionfs().mount(replace(filled, mnt=public_point), {"noexec": None}) as mnt:
        assert as_nobody(mnt / "id", "-u").returncode != 0
    with Unionfs().mount(replace(filled, mnt=public_point), {"allow_other": None, "noatime": None}) as mnt:
        assert as_nobody("cat", mnt / "file").stdout == "below\n"


def test_read_only_with_an_upper(filled: Layers) -> None:
    (filled.top / "upper file").write_bytes(b"above\n")
    with Unionfs().mount(filled, {"ro": None}) as mnt:
        assert sorted(os.listdir(mnt)) == ["file", "id", "null", "upper file"]
        for action in (
            lambda: (mnt / "file").write_bytes(b""),
            lambda: (mnt / "upper file").write_bytes(b""),
            lambda: (mnt / "file").unlink(),
            lambda: (mnt / "new").mkdir(),
            lambda: (mnt / "upper file").chmod(0o600),
        ):
            with pytest.raises(OSError, match="Read-only") as refused:
                action()
            assert refused.value.errno == errno.EROFS
    assert os.listdir(filled.top) == ["upper file"]


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["auto", "served"])
def test_reading_leaves_the_access_times_of_a_lower_alone(options: Options, disks: Callable[[str], Path]) -> None:
    """Its filesystem is mounted relatime, which would set them (mount(8))."""
    base = disks("tmpfs") / f"atime-{len(options)}"
    layers = Layers.create(base)
    lower = layers.lowers[0]
    (lower / "directory").mkdir()
    for name, size in (("small", 10), ("large", 1 << 20), ("program.so", 1 << 16)):
        (lower / name).write_bytes(os.urandom(size))
    os.symlink("small", lower / "link")
    names = ["directory", "small", "large", "program.so", "link"]
    for name in names:
        os.utime(lower / name, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    with Unionfs().mount(layers, options) as mnt:
        for name in ("small", "large", "program.so"):
            assert len((mnt / name).read_bytes()) == (mnt / name).stat().st_size
        with open(mnt / "large", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert len(bytes(mapped)) == 1 << 20
        os.listdir(mnt / "directory")
        os.readlink(mnt / "link")
    assert {name: os.lstat(lower / name).st_atime_ns for name in names} == dict.fromkeys(names, LONG_AGO)
    shutil.rmtree(base)


def test_the_kernels_overlayfs_over_a_union(filled: Layers, make_layers: LayersFactory) -> None:
    """Our mount is a lower layer of an overlay, which copies up from it."""
    above = make_layers()
    with Unionfs().mount(filled) as mnt:
        (mnt / "new").write_bytes(b"ours\n")
        with Kernel().mount(replace(above, lowers=(mnt,))) as top:
            assert (top / "file").read_bytes() == b"below\n"
            (top / "file").write_bytes(b"overlay\n")
            (top / "new").unlink()
            assert sorted(os.listdir(top)) == ["file", "id", "null"]
        assert (mnt / "file").read_bytes() == b"below\n"
    assert (above.top / "file").read_bytes() == b"overlay\n"


@pytest.mark.parametrize("below", [Unionfs(), Kernel()], ids=["unionfs", "overlay"])
def test_a_union_over_a_union(below: Unionfs | Kernel, filled: Layers, make_layers: LayersFactory) -> None:
    above = make_layers()
    with below.mount(filled) as mnt:
        (mnt / "new").write_bytes(b"first\n")
        (mnt / "directory").mkdir()
        with Unionfs().mount(replace(above, lowers=(mnt,))) as top:
            assert (top / "file").read_bytes() == b"below\n"
            with open(top / "file", "rb") as reader:
                (top / "file").write_bytes(b"second\n")
                assert reader.read() == b"second\n"
            (top / "new").unlink()
            (top / "directory" / "inside").write_bytes(b"")
            assert sorted(os.listdir(top)) == ["directory", "file", "id", "null"]
        assert (mnt / "file").read_bytes() == b"below\n"
        assert (mnt / "new").read_bytes() == b"first\n"
        assert os.listdir(mnt / "directory") == []
    assert (filled.lowers[0] / "file").read_bytes() == b"below\n"
