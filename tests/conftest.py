"""Fixtures of every mounted test: layers on a real filesystem, the proof that lowers stay untouched, and that nothing is left."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.support import lowers, own_process, pyfuse3, seeds
from tests.support.disks import attached_loops, loop_disk, remove_disk
from tests.support.mounts import BINDING, Layers, mount_points, processes_naming
from tests.support.syscalls import own_mount_namespace

LayersFactory = Callable[..., Layers]

seeds.choose()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keeps tests that share an expensive group of mounts (mark `xdist_group`) on one worker, whatever --dist says."""
    scheduler: object = importlib.import_module("xdist.scheduler").LoadGroupScheduling(config, log)
    return scheduler


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the mark `both_bindings` runs with either, or with the one that the environment names."""
    if metafunc.definition.get_closest_marker("both_bindings") is not None:
        named = os.environ.get(BINDING)
        metafunc.fixturenames.insert(0, "binding")
        metafunc.parametrize("binding", [named] if named else ["native", "pyfuse3"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Over pyfuse3, what it can't do is left out."""
    if os.environ.get(BINDING) == "pyfuse3":
        config.hook.pytest_deselected(items=[item for item in items if pyfuse3.is_expected_to_differ(item.nodeid)])
        items[:] = [item for item in items if not pyfuse3.is_expected_to_differ(item.nodeid)]


@pytest.fixture
def binding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The binding with which the test mounts unionfs."""
    name: str = request.param
    monkeypatch.setenv(BINDING, name)
    return name


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

    Mounts and servers under it must be gone when the test ends, and every lower layer that was mounted be what it was before;
    it is removed afterwards.
    """
    kind = getattr(request, "param", "ext4")
    path = disks(kind) / f"t{time.monotonic_ns():x}"
    path.mkdir(mode=0o755)
    yield path
    assert_nothing_left(path)
    try:
        lowers.check()
    finally:
        lowers.forget(path)
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


@pytest.fixture(autouse=True)
def lowers_untouched() -> Iterator[None]:
    """The lowers that were mounted and lie elsewhere than in `scratch` are what they were before, too."""
    yield
    lowers.check()


@pytest.fixture(autouse=True)
def own_process_as_before() -> Iterator[None]:
    """The process of the tests is what it was: another umask or capability would change the outcome of later tests."""
    before = own_process.state()
    yield
    after = own_process.state()
    own_process.restore(before)
    assert after == before, f"the test changed its own process: {after}, not {before}"


@pytest.fixture
def make_layers(scratch: Path) -> Iterator[LayersFactory]:
    """`make_layers(lowers=2, upper=True, name="a")` gives fresh, empty layers on one filesystem.

    A union of them that was served without its lowers being watched (`tests.support.lowers`) is a mistake of the test.
    """
    made: list[Layers] = []

    def make(lowers: int = 1, upper: bool = True, name: str | None = None) -> Layers:
        made.append(Layers.create(scratch / (name or f"union{len(made) + 1}"), lowers, upper))
        return made[-1]

    yield make
    assert not unwatched(made), f"mounted without lowers.watch: {unwatched(made)}"


def unwatched(unions: Iterable[Layers]) -> list[Path]:
    """The work directories of unions that were opened, which leaves a directory there, but whose lowers nobody watched."""
    works = [layers.work for layers in unions if layers.work is not None and layers.work.is_dir()]
    return [work for work in works if os.listdir(work) and not lowers.was_watched(work)]


@pytest.fixture
def layers(make_layers: LayersFactory) -> Layers:
    """One empty lower, upper, work directory and mount point."""
    return make_layers()
