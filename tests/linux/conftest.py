"""Fixtures: an open directory on a real filesystem."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory(scratch: Path) -> Iterator[int]:
    """An O_PATH descriptor of `scratch`."""
    fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)
