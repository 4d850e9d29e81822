"""Fixtures: a server whose kernel is the test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serve.fake_kernel import FakeKernel, fake_kernel
from tests.serve.passthrough_kernel import PassthroughKernel, passthrough_kernel
from tests.support.mounts import Layers

LayersFactory = Callable[..., Layers]

LARGE = 4 << 20
"""Bytes of the file `large`: a copy-up of that many is made outside the event loop."""


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union of one lower layer with some of everything, and its upper layer."""
    lower = layers.lowers[0]
    (lower / "file").write_bytes(b"below")
    (lower / "file").chmod(0o644)
    (lower / "large").write_bytes(bytes(range(256)) * (LARGE // 256))
    (lower / "symlink").symlink_to("file")
    (lower / "dir" / "inner").mkdir(parents=True)
    (lower / "dir" / "other").write_bytes(b"other")
    (layers.top / "own").write_bytes(b"above")
    os.setxattr(lower / "file", "user.colour", b"red")
    return layers


@pytest.fixture
def connection(filled: Layers) -> Iterator[FakeKernel]:
    """A server of `filled`, agreed with."""
    with fake_kernel(filled) as made:
        yield made


def fill_every_type(directory: Path) -> None:
    """Objects of every type, and a directory with a directory in it."""
    (directory / "plain").write_bytes(b"plain data")
    (directory / "symlink").symlink_to("plain")
    (directory / "tree" / "below").mkdir(parents=True)
    (directory / "tree" / "leaf").write_bytes(b"leaf")
    (directory / "tree" / "below" / "deep").write_bytes(b"deep")
    os.mkfifo(directory / "fifo")
    os.mknod(directory / "device", 0o020644, os.makedev(1, 3))


@pytest.fixture
def one_lower(make_layers: LayersFactory) -> Layers:
    """A union of one lower layer alone: nothing in it can ever change its place."""
    layers = make_layers(1, upper=False)
    fill_every_type(layers.lowers[0])
    return layers


@pytest.fixture
def written(make_layers: LayersFactory) -> Layers:
    """A union with objects on the upper layer alone, on the lower one alone, and a directory on both."""
    layers = make_layers(1)
    lower, upper = layers.lowers[0], layers.top
    (lower / "file").write_bytes(b"below")
    (lower / "first").write_bytes(b"two names")
    os.link(lower / "first", lower / "second")
    (lower / "only").mkdir()
    (lower / "only" / "inner").write_bytes(b"inner")
    (lower / "both").mkdir()
    (upper / "both").mkdir()
    fill_every_type(upper)
    return layers


@pytest.fixture
def static(one_lower: Layers) -> Iterator[PassthroughKernel]:
    """The server of `one_lower`, to a kernel with the draft."""
    with passthrough_kernel(one_lower, draft=True) as connection:
        yield connection


@pytest.fixture
def live(written: Layers) -> Iterator[PassthroughKernel]:
    """The server of `written`, to a kernel with the draft."""
    with passthrough_kernel(written, draft=True) as connection:
        yield connection
