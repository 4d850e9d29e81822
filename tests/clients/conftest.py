"""Fixtures of the tests with real clients: a Debian root file system, and containers that run on a union over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.clients.container import Container, container
from tests.clients.rootfs import Rootfs, archive, unpack
from tests.support.mounts import Options, Unionfs

MakeContainer = Callable[..., AbstractContextManager[Container]]


@pytest.fixture(scope="session")
def rootfs(disks: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rootfs]:
    """A worker's Debian root file system, on its ext4 disk; read in full before its first test and after its last."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with archive(shared) as tarball:
        made = unpack(tarball, disks("ext4") / "rootfs")
        yield made
    made.assert_unchanged(contents=True)


@pytest.fixture
def make_container(rootfs: Rootfs, scratch: Path) -> MakeContainer:
    """`with make_container() as box:` a union over the root file system, checked from all sides when the block ends."""

    def make(options: Options | None = None) -> AbstractContextManager[Container]:
        return container(rootfs, scratch, Unionfs(), options)

    return make
