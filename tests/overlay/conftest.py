"""Fixtures: a union without a mount, in the test's own process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import lowers, own_process
from tests.support.mounts import Layers
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.creator import SERVER
from unionfs.overlay.union import Union

OpenUnion = Callable[..., Union]


def config_of(layers: Layers, **options: Any) -> UnionConfig:
    """The configuration of a union of these layers; `options` are further fields of it."""
    return UnionConfig(
        tuple(os.fsencode(lower) for lower in layers.lowers),
        None if layers.upper is None else os.fsencode(layers.upper),
        None if layers.work is None else os.fsencode(layers.work),
        **options,
    )


@contextmanager
def opened(layers: Layers, **options: Any) -> Iterator[Union]:
    """A union of these layers, closed when the block ends; the lowers must be untouched then."""
    with lowers.untouched(layers.lowers, layers.work), own_process.as_before():
        union = Union.open(config_of(layers, **options))
        try:
            yield union
        finally:
            union.identity.assume(SERVER)
            union.close()


@pytest.fixture
def open_union() -> Iterator[OpenUnion]:
    """`open_union(layers, xino=Xino.OFF)`; closed when the test ends."""
    with ExitStack() as stack:
        yield lambda layers, **options: stack.enter_context(opened(layers, **options))


@pytest.fixture
def directory(scratch: Path) -> Iterator[int]:
    """An O_PATH descriptor of `scratch`."""
    fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)
