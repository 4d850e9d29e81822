"""Is a copy-up whole at every instant?

The upper filesystem lies in an image, which is cloned again and again while a union changes it: each clone is what a
crash at that moment would leave behind, before its journal is replayed.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.overlay import hammer
from tests.overlay.hammer import Change, Subject
from tests.support.mounts import Layers, Options, Unionfs

SNAPSHOTS = 8
IMAGE_SIZE = 1 << 30
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-J", "size=16"],
    # Without reflinks the data of a copy-up are really written.
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=0"],
}
MOUNT_OPTIONS = {"ext4": "loop,commit=1", "xfs": "loop,nouuid"}
Entry = tuple[os.stat_result, dict[str, bytes]]


def run(*command: str | Path) -> None:
    """A command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def mounted(kind: str, image: Path, place: Path) -> Iterator[Path]:
    """The image, mounted on `place`; a journal in it is replayed first."""
    place.mkdir(exist_ok=True)
    run("mount", "-t", kind, "-o", MOUNT_OPTIONS[kind], image, place)
    try:
        yield place
    finally:
        run("umount", place)


@pytest.fixture
def lower(disks: Callable[[str], Path]) -> Iterator[Path]:
    """The files to be changed, on another filesystem than the upper layer."""
    path = disks("ext4") / f"crash{time.monotonic_ns():x}"
    path.mkdir()
    hammer.build(path)
    yield path
    run("rm", "-rf", path)


@pytest.mark.parametrize("options", [{}, {"metacopy": "on"}], ids=["copies", "metacopy"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("scratch", ["xfs"], indirect=True)
def test_every_instant_is_a_state_before_or_after(kind: str, options: Options, scratch: Path, lower: Path) -> None:
    image = scratch / "image"
    with open(image, "wb") as file:
        file.truncate(IMAGE_SIZE)
    run(*MKFS[kind], image)
    journal = scratch / "journal"
    journal.touch()
    with mounted(kind, image, scratch / "live") as live:
        layers = Layers((lower,), live / "upper", live / "work", scratch / "mnt")
        for path in (layers.top, live / "work", layers.mnt):
            path.mkdir()
        run("sync", "-f", live)
        with Unionfs().mount(layers, options) as mnt:
            taken = take_snapshots(image, mnt, journal, scratch)
    changed: list[int] = []
    for snapshot, synced in taken:
        with mounted(kind, snapshot, scratch / "frozen") as frozen:
            changed.append(check(frozen, lower, synced))
            check_as_union(Layers((lower,), frozen / "upper", frozen / "work", layers.mnt), options)
        snapshot.unlink()
    assert len(set(changed)) >= SNAPSHOTS // 3, f"the snapshots show too few different states: {changed}"


def take_snapshots(image: Path, mnt: Path, journal: Path, place: Path) -> list[tuple[Path, set[int]]]:
    """Clones of the image while the hammer works, each with the numbers of the files that were synced before."""
    chance = random.Random()
    taken: list[tuple[Path, set[int]]] = []
    process = subprocess.Popen([sys.executable, "-m", "tests.overlay.hammer", mnt, journal], stderr=subprocess.PIPE, text=True)
    try:
        while not journal.stat().st_size:
            assert process.poll() is None, "the hammer ended early"
        while process.poll() is None and len(taken) < SNAPSHOTS:
            time.sleep(chance.uniform(0, 0.1))
            synced = {int(line) for line in journal.read_text().split()}
            snapshot = place / f"snapshot{len(taken)}"
            run("cp", "--reflink=always", image, snapshot)
            taken.append((snapshot, synced))
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.wait()
    return taken


def check(frozen: Path, lower: Path, synced: set[int]) -> int:
    """Holds the frozen upper layer against the files; how many of them it has."""
    upper = frozen / "upper"
    known = {subject.path: subject for subject in hammer.subjects()}
    found: set[int] = set()
    for directory, names, files in os.walk(upper):
        place = os.path.relpath(directory, upper)
        assert (lower / place).is_dir(), f"{place}: no such directory in the lower layer"
        assert stat.S_IMODE(os.stat(directory).st_mode) == stat.S_IMODE(os.stat(lower / place).st_mode), place
        assert "trusted.overlay.opaque" not in os.listxattr(directory), place
        for name in files:
            path = os.path.normpath(os.path.join(place, name))
            assert path in known, f"{path} is no file of the union"
            check_file(upper / path, known[path], known[path].number in synced)
            found.add(known[path].number)
        assert set(names) <= set(os.listdir(lower / place)), place
    assert synced <= found, f"synced, but not there: {sorted(synced - found)}"
    work = frozen / "work"
    assert os.listdir(work) == ["work"]
    assert [name for name in os.listdir(work / "work") if not name.startswith("#")] == []
    return len(found)


def check_file(path: Path, subject: Subject, synced: bool) -> None:
    """One name of the upper layer: a whiteout of what was removed, or all of the file's data, before or after its change."""
    status = os.lstat(path)
    if stat.S_ISCHR(status.st_mode):
        assert (status.st_rdev, subject.change) == (0, Change.UNLINK), subject
        return
    assert stat.S_ISREG(status.st_mode), subject
    data = path.read_bytes()
    before = hammer.content(subject)
    if "trusted.overlay.metacopy" in os.listxattr(path):
        # As long as the mark is there the data are the lower file's, and what the upper one has of them means nothing.
        assert len(data) == len(before), subject
        data = before
    assert len(data) >= len(before), f"{subject}: only {len(data)} bytes"
    assert data[: len(before)] == before, f"{subject}: other data"
    tail = data[len(before) :]
    if subject.change is Change.APPEND:
        # What the caller wrote and did not sync may be missing as after any crash: not there, or not yet written.
        assert tail in {b"", hammer.TAIL, bytes(len(tail))}, subject
    else:
        assert tail == b"", subject
    owner, mode, attributes = status.st_uid, stat.S_IMODE(status.st_mode), os.listxattr(path)
    assert owner in ({0, hammer.OWNER} if subject.change is Change.CHOWN else {0}), subject
    assert mode in ({0o644, hammer.MODE} if subject.change in {Change.CHMOD, Change.APPEND} else {0o644}), subject
    assert "trusted.overlay.origin" in attributes, subject
    if synced:
        match subject.change:
            case Change.APPEND:
                assert tail == hammer.TAIL, subject
            case Change.CHOWN:
                assert owner == hammer.OWNER, subject
            case Change.CHMOD:
                assert mode == hammer.MODE, subject
            case Change.XATTR:
                assert hammer.ATTRIBUTE in attributes, subject


def check_as_union(layers: Layers, options: Options) -> None:
    """The frozen layers mount, every file is whole, and the work directory is empty afterwards."""
    with Unionfs().mount(layers, options) as mnt:
        for subject in hammer.subjects():
            path = mnt / subject.path
            if not path.exists():
                assert subject.change is Change.UNLINK, subject
                continue
            with open(path, "rb") as file:
                assert file.read(subject.size) == hammer.content(subject), subject
    assert layers.work is not None
    assert os.listdir(layers.work / "work") == []
