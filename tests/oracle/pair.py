"""Pairs: does a sequence answer the same on unionfs and on the kernel's overlayfs, where the layers need more than a builder?

The suites (tests.oracle.suites) date everything in the layers and compare what is left there; that can't be done with
chattr(1)'s flags, with work directories that have attributes of their own, or with what only one of the two should refuse.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.oracle.actor import perform
from tests.oracle.case import Builder, Steps
from tests.support.mounts import Driver, Kernel, Layers, Options

LayersFactory = Callable[..., Layers]
Fill = Callable[[Layers, Builder], None]


def both(
    make_layers: LayersFactory, subject: Driver, fill: Fill, steps: Steps, *,
    lowers: int = 1, ours: Options | None = None, theirs: Options | None = None,
) -> list[list[str]]:  # fmt: skip
    """What the steps answered on `subject` and on the kernel's overlayfs, each over layers of its own made by `fill`.

    `lowers` is how many lower layers they have; `ours` and `theirs` are the two mounts' options.
    """
    answers = []
    for name, driver, options in (("subject", subject, ours), ("oracle", Kernel(), theirs)):
        layers = make_layers(lowers, name=name)
        fill(layers, Builder(layers, "."))
        with driver.mount(layers, options) as mnt:
            answers.append([str(step) for step in perform(steps, mnt, mnt)])
    return answers


def chattr(flags: str, *paths: Path) -> None:
    """chattr(1), `flags` such as `+i`."""
    subprocess.run(["chattr", flags, *(os.fspath(path) for path in paths)], check=True, capture_output=True)


def unprotected(base: Path) -> Iterator[None]:
    """For a fixture: when the test ends, nothing below `base` is immutable or append-only, so that it can be removed."""
    try:
        yield
    finally:
        subprocess.run(["chattr", "-R", "-f", "-ia", os.fspath(base)], check=False, capture_output=True)
