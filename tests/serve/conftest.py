"""Fixtures: a server whose kernel is the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.serve.fake_kernel import FakeKernel, fake_kernel
from tests.support.mounts import Layers

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
