"""Non-standard behaviour: what do ours do about each point of that section of the kernel's overlayfs.rst?

The manual page says the same under "STANDARDS".
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import wait_for
from tests.support.mounts import REPOSITORY, Driver, Kernel, Layers, Options, Unionfs

LayersFactory = Callable[..., Layers]
DRIVERS = pytest.mark.parametrize("driver", [Unionfs(), Kernel()], ids=["unionfs", "kernel"])
LOWER_IO = pytest.mark.parametrize("lower_io", ["auto", "cached", "passthrough"])
PAGE = mmap.PAGESIZE
OLD = 1_000_000_000


# ------------------------------------------------------------------- "a) POSIX mandates updating st_atime for reads"

@DRIVERS
def test_reading_a_lower_file_does_not_update_its_atime(driver: Driver, layers: Layers) -> None:
    """Lower layers are never written to, not even their times."""
    for name in ("read", "mapped"):
        (layers.lowers[0] / name).write_bytes(b"data" * PAGE)
        os.utime(layers.lowers[0] / name, (OLD, OLD))
    with driver.mount(layers) as mnt:
        assert (mnt / "read").read_bytes().startswith(b"data")
        with open(mnt / "mapped", "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
            assert mapping[:4] == b"data"
        assert [(mnt / name).stat().st_atime for name in ("read", "mapped")] == [OLD, OLD]
    assert os.listdir(layers.top) == []


def test_an_atime_that_is_set_stays(layers: Layers) -> None:
    """That takes a copy-up, like every change."""
    (layers.lowers[0] / "file").write_bytes(b"data")
    with Unionfs().mount(layers) as mnt:
        os.utime(mnt / "file", (OLD, OLD + 5))
        assert (mnt / "file").stat().st_atime == OLD
    with Unionfs().mount(layers) as mnt:
        assert (mnt / "file").stat().st_atime == OLD


# ------------------- "b) If a file residing on a lower layer is opened for read-only and then memory mapped with MAP_SHARED"

@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A shared mapping for reading."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        yield mapping


def changed_in_a_mapping(driver: Driver, layers: Layers, options: Options, name: str, mode: int) -> tuple[bytes, bytes]:
    """What a mapping from before a change shows of it, and what read(2) on the descriptor of then does."""
    (layers.lowers[0] / name).write_bytes(b"old " + bytes(2 * PAGE))
    (layers.lowers[0] / name).chmod(mode)
    with driver.mount(layers, options) as mnt, mapped(mnt / name) as mapping:
        fd = os.open(mnt / name, os.O_RDONLY)
        try:
            assert mapping[:4] == b"old "
            with open(mnt / name, "r+b", buffering=0) as file:
                file.write(b"new!")
            assert (mnt / name).read_bytes()[:4] == b"new!"
            with mapped(mnt / name) as later:
                assert later[:4] == b"new!"
            return mapping[:4], os.pread(fd, 4, 0)
        finally:
            os.close(fd)


def test_a_mapping_from_before_the_copy_up_on_the_kernels(layers: Layers) -> None:
    assert changed_in_a_mapping(Kernel(), layers, {}, "file", 0o644) == (b"old ", b"new!")


@pytest.mark.parametrize(
    ("lower_io", "name", "mode", "mapping", "descriptor"),
    [
        ("auto", "file", 0o644, b"new!", b"new!"),
        ("cached", "file", 0o644, b"new!", b"new!"),
        ("auto", "lib.so", 0o755, b"old ", b"new!"),
        ("cached", "lib.so", 0o755, b"new!", b"new!"),
        ("passthrough", "file", 0o644, b"old ", b"old "),
    ],
)
def test_a_mapping_from_before_the_copy_up(
    lower_io: str, name: str, mode: int, mapping: bytes, descriptor: bytes, layers: Layers
) -> None:
    """Ours does better for all files but those that are mapped straight from the lower layer, which `lower_io` says."""
    found = changed_in_a_mapping(Unionfs(), layers, {"lower_io": lower_io}, name, mode)
    assert found == (mapping, descriptor)


def test_a_mapping_without_passthrough(layers: Layers) -> None:
    assert changed_in_a_mapping(Unionfs(), layers, {"passthrough": "off"}, "lib.so", 0o755) == (b"new!", b"new!")


# --------------------- "c) If a file residing on a lower layer is being executed, then opening that file for write ... ETXTBSY"

@contextmanager
def running(program: Path) -> Iterator[None]:
    """The copy of sleep(1) at this path runs during the block."""
    with subprocess.Popen([program, "60"]) as process:
        try:
            wait_for(lambda: os.readlink(f"/proc/{process.pid}/exe") == str(program), "the program")
            yield
        finally:
            process.terminate()


def outcome(call: Callable[[], object]) -> int:
    """0, or the errno it fails with."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def write_to(path: Path, flags: int = os.O_WRONLY) -> None:
    """Opens it for writing, and changes nothing."""
    os.close(os.open(path, flags))


@DRIVERS
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_running_program_and_open_for_writing(where: str, driver: Driver, layers: Layers) -> None:
    """Both refuse on either layer; the kernel's documentation still says that overlayfs does not on a lower one."""
    place = layers.lowers[0] if where == "lower" else layers.top
    shutil.copy(shutil.which("sleep") or "", place / "program")
    content = (place / "program").read_bytes()
    with driver.mount(layers) as mnt, running(mnt / "program"):
        found = [
            outcome(lambda: write_to(mnt / "program")),
            outcome(lambda: write_to(mnt / "program", os.O_RDWR | os.O_APPEND)),
            outcome(lambda: write_to(mnt / "program", os.O_WRONLY | os.O_TRUNC)),
            outcome(lambda: os.truncate(mnt / "program", 0)),
        ]
        assert found == [errno.ETXTBSY] * 4
        assert (mnt / "program").read_bytes() == content
        assert subprocess.run([mnt / "program", "0"], check=False).returncode == 0


@LOWER_IO
def test_a_running_program_is_not_written_however_it_is_served(lower_io: str, layers: Layers) -> None:
    shutil.copy(shutil.which("sleep") or "", layers.lowers[0] / "program")
    with Unionfs().mount(layers, {"lower_io": lower_io}) as mnt, running(mnt / "program"):
        assert outcome(lambda: write_to(mnt / "program")) == errno.ETXTBSY
        # What a package manager does instead works.
        (mnt / "new").write_bytes(b"new version")
        os.rename(mnt / "new", mnt / "program")
        assert (mnt / "program").read_bytes() == b"new version"


# ------------------------------------------------------------------------------------------------------ "redirect_dir"

def test_without_redirects_a_lower_directory_cannot_be_renamed(layers: Layers) -> None:
    (layers.lowers[0] / "dir").mkdir()
    (layers.lowers[0] / "dir" / "file").write_bytes(b"data")
    with Unionfs().mount(layers, {"redirect_dir": "off"}) as mnt:
        assert outcome(lambda: os.rename(mnt / "dir", mnt / "moved")) == errno.EXDEV
        subprocess.run(["mv", mnt / "dir", mnt / "moved"], check=True)
        assert (mnt / "moved/file").read_bytes() == b"data"
    with Unionfs().mount(layers) as mnt:
        os.rename(mnt / "moved", mnt / "again")


# --------------------------------------------------------------------------------------------------------------- "index"

@DRIVERS
def test_without_an_index_a_copy_up_breaks_hard_links(driver: Driver, layers: Layers) -> None:
    """Changes made by one name are not seen by the others, before and after a remount alike."""
    (layers.lowers[0] / "one").write_bytes(b"shared")
    os.link(layers.lowers[0] / "one", layers.lowers[0] / "two")
    for again in (False, True):
        with driver.mount(layers, {"index": "off"}) as mnt:
            if not again:
                (mnt / "one").write_bytes(b"changed")
            assert ((mnt / "one").read_bytes(), (mnt / "two").read_bytes()) == (b"changed", b"shared")


# ---------------------------------------------------------------------------------------------------------------- "xino"

@pytest.mark.parametrize("xino", ["off", "auto", "on"])
def test_numbers_over_several_filesystems(
    xino: str, make_layers: LayersFactory, disks: Callable[[str], Path], scratch: Path
) -> None:
    """Always one st_dev, unique numbers that agree with d_ino, and the same ones after a copy-up and a remount."""
    layers = make_layers()
    other = disks("xfs") / scratch.name
    other.mkdir()
    try:
        for place, name in ((layers.lowers[0], "ext4"), (other, "xfs")):
            (place / "merged").mkdir()
            for path in (name, f"merged/{name}"):
                (place / path).write_bytes(b"data")
        wide = Layers((*layers.lowers, other), layers.upper, layers.work, layers.mnt)
        paths = ["ext4", "xfs", "merged", "merged/ext4", "merged/xfs", "."]
        numbers = []
        for _ in range(2):
            with Unionfs().mount(wide, {"xino": xino}) as mnt:
                found = [(mnt / path).lstat() for path in paths]
                assert len({status.st_dev for status in found}) == 1
                numbers.append([status.st_ino for status in found])
                listed = {entry.name: entry.inode() for entry in os.scandir(mnt)}
                assert [listed[path] for path in paths[:3]] == numbers[-1][:3]
                for path in ("xfs", "merged/ext4"):
                    (mnt / path).chmod(0o600)
                numbers.append([(mnt / path).lstat().st_ino for path in paths])
        assert numbers == [numbers[0]] * 4
        assert len(set(numbers[0])) == len(paths)
    finally:
        shutil.rmtree(other)


# ---------------------------------------------------------------------- "Changes to underlying filesystems", and "readdir"

def test_changes_below_a_live_mount_neither_crash_nor_escape(layers: Layers) -> None:
    """What is seen of them is undefined; afterwards everything works."""
    for place in (layers.lowers[0], layers.top):
        for name in ("d/file", "e/file", "gone/file"):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(place.name.encode())
    with Unionfs().mount(layers) as mnt:
        os.listdir(mnt / "d")
        (mnt / "e/file").read_bytes()
        shutil.rmtree(layers.top / "gone")
        (layers.top / "d/new").write_bytes(b"new")
        (layers.top / "d/file").unlink()
        (layers.top / "e").rename(layers.top / "f")
        (layers.top / "e").symlink_to("/etc")
        for path in ("d/file", "d/new", "e/file", "e/passwd", "gone/file", "f/file"):
            outcome(lambda path=path: (mnt / path).read_bytes())  # type: ignore[misc]
            outcome(lambda path=path: (mnt / path).write_bytes(b"written"))  # type: ignore[misc]
        for path in ("d", "e", "gone", "f"):
            outcome(lambda path=path: os.listdir(mnt / path))  # type: ignore[misc]
        (mnt / "alive").write_bytes(b"yes")
        assert (mnt / "alive").read_bytes() == b"yes"
    assert not os.path.exists("/etc/file")
    assert Path("/etc/passwd").read_bytes() != b"written"


def test_changes_show_while_a_directory_is_read(layers: Layers) -> None:
    """The kernel's overlayfs keeps a list for each open directory; ours shows what is new at the next part, or from the start."""
    for number in range(10):
        (layers.lowers[0] / f"f{number}").write_bytes(b"")
        (layers.top / f"g{number}").write_bytes(b"")
    with Unionfs().mount(layers) as mnt:
        fd = os.open(mnt, os.O_RDONLY)
        try:
            first = os.listdir(fd)
            (mnt / "new").write_bytes(b"")
            time.sleep(0.01)
            assert set(os.listdir(fd)) == {*first, "new"}
        finally:
            os.close(fd)


def test_the_manual_page_says_it() -> None:
    manual = (REPOSITORY / "man/unionfs.8").read_text()
    section = manual.partition(".SH STANDARDS")[2].partition("\n.SH ")[0]
    for word in ("st_atime", "MAP_SHARED", "ETXTBSY", "redirect_dir", "index", "xino"):
        assert word in section, word
