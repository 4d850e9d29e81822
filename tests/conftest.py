"""Fixtures of every mounted test: layers on a real filesystem, the proof that lowers stay untouched, and that nothing is left."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disks import attached_loops, loop_disk, remove_disk
from tests.support.mounts import Layers, mount_points, processes_naming
from tests.support.syscalls import own_mount_namespace
from tests.support.trees import Tree, diff, snapshot

LayersFactory = Callable[..., Layers]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keeps tests that share an expensive group of mounts (mark `xdist_group`) on one worker, whatever --dist says."""
    scheduler: object = importlib.import_module("xdist.scheduler").LoadGroupScheduling(config, log)
    return scheduler


@pytest.fixture(scope="session")
def can_mount() -> None:
    """A mount namespace of this worker's own, in which unions can be mounted.

    Fails where none can be: the tests need root and /dev/fuse, and an absent one is a failure, never a skip.
    """
    if os.geteuid() != 0:
        pytest.fail("these tests mount filesystems: run them as root")
    if not os.path.exists("/dev/fuse"):
        pytest.fail("/dev/fuse is missing: load the fuse module or hand the device to the container")
    # Another process that copies the mount namespace while a test has its mount there would keep that mount, and so its server,
    # alive.
    own_mount_namespace()


@pytest.fixture(scope="session")
def disks(can_mount: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Filesystems of this worker: `disks("ext4")`, also xfs, btrfs, tmpfs; made on first use, kept until the session ends."""
    base = tmp_path_factory.mktemp("disks")
    base.chmod(0o755)
    made: dict[str, Path] = {}

    def disk(kind: str) -> Path:
        if kind not in made:
            made[kind] = loop_disk(kind, base / kind)
        return made[kind]

    yield disk
    for path in made.values():
        remove_disk(path)
    loops = attached_loops(base)
    assert not loops, f"loop devices left: {loops}"


@pytest.fixture
def scratch(disks: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory on a filesystem of this worker that can carry an upper (ext4, or the one given by indirect
    parametrisation).

    Mounts and servers under it must be gone when the test ends; it is removed afterwards.
    """
    kind = getattr(request, "param", "ext4")
    path = disks(kind) / f"t{time.monotonic_ns():x}"
    path.mkdir(mode=0o755)
    yield path
    assert_nothing_left(path)
    shutil.rmtree(path)


def assert_nothing_left(base: Path) -> None:
    """Fails, after removing it, if a mount at or below `base` or a process that names it is left."""
    mounts = [point for point in mount_points() if point.startswith(f"{base}/")]
    processes = processes_naming(base)
    for point in reversed(mounts):
        subprocess.run(["umount", "-l", point], check=False)
    for pid in processes:
        os.kill(pid, 9)
    assert not mounts, f"still mounted: {mounts}"
    assert not processes, f"still running: {processes}"


@pytest.fixture
def make_layers(scratch: Path) -> LayersFactory:
    """`make_layers(lowers=2, upper=True, name="a")` gives fresh, empty layers on one filesystem."""
    count = 0

    def make(lowers: int = 1, upper: bool = True, name: str | None = None) -> Layers:
        nonlocal count
        count += 1
        return Layers.create(scratch / (name or f"union{count}"), lowers, upper)

    return make


@pytest.fixture
def layers(make_layers: LayersFactory) -> Layers:
    """One empty lower, upper, work directory and mount point."""
    return make_layers()


@pytest.fixture
def lower_guard(scratch: Path) -> Iterator[Callable[[Layers], None]]:
    """Call it with the layers once the lowers are filled: when the test ends, every lower must be what it was, ctime included.

    Call it before mounting (it needs `scratch` only so that the layers still exist when it looks again); the trees are compared
    byte for byte and attribute for attribute.
    """
    before: list[tuple[Path, Tree]] = []

    def watch(layers: Layers) -> None:
        for lower in layers.lowers:
            before.append((lower, snapshot(lower, leave_out=())))

    yield watch
    for lower, tree in before:
        changes = diff(tree, snapshot(lower, leave_out=()), ("before", "after"))
        assert not changes, f"the lower {lower} changed:\n" + "\n".join(changes)
