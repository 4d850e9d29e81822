"""Fixtures: a union without a mount, in the test's own process."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import lowers
from tests.support.mounts import Layers
from unionfs.linux import libc
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.creator import SERVER
from unionfs.overlay.union import Union

PR_GET_SECUREBITS, PR_SET_SECUREBITS = 27, 28

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
def own_process_as_before() -> Iterator[None]:
    """Undo what a union changes of the process that serves it: umask, identity, secure bits, limits."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    bits = libc.quick.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
    umask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(umask)
        libc.quick.prctl(PR_SET_SECUREBITS, bits, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def opened(layers: Layers, **options: Any) -> Iterator[Union]:
    """A union of these layers, closed when the block ends; the lowers must be untouched then."""
    with lowers.untouched(layers.lowers, layers.work), own_process_as_before():
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
