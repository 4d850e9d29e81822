"""Fixtures: an open directory on a real filesystem, and a FUSE device that the test itself answers."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import is_mounted
from unionfs.linux import mount
from unionfs.wire import abi, init, request


@pytest.fixture
def directory(scratch: Path) -> Iterator[int]:
    """An O_PATH descriptor of `scratch`."""
    fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def device(scratch: Path) -> Iterator[int]:
    """A FUSE device with a mount on which passthrough was negotiated; nobody ever looks at the mount."""
    point = scratch / "mnt"
    point.mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
    mount.mount(b"x", os.fsencode(point), b"fuse", 0, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd)
    try:
        answer_init(fd)
        yield fd
    finally:
        os.close(fd)
        if is_mounted(point):
            mount.unmount(os.fsencode(point), mount.MNT_DETACH)


def answer_init(fd: int) -> None:
    """INIT, agreed to with passthrough and nothing else."""
    select.select([fd], [], [])
    message = os.read(fd, 1 << 21)
    header = request.decode_header(message)
    asked = request.DECODERS[abi.Opcode.INIT](memoryview(message)[40:], header)
    caps, _ = init.negotiate(asked, init.Wanted(abi.PASSTHROUGH | abi.INIT_EXT, max_stack_depth=1))
    assert caps.flags & abi.PASSTHROUGH
    os.write(fd, init.encode_init(header.unique, caps))
