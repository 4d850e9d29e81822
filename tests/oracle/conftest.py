"""Fixtures of the differential suite: which implementation is compared, and each group of cases run once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import assert_nothing_left
from tests.oracle.case import Suite
from tests.oracle.compare import WHOLE, Finding, Findings, compare
from tests.support import lowers
from tests.support.mounts import Driver, FuseOverlayfs, Kernel, Options, Unionfs

SUBJECTS: dict[str, Callable[[], Driver]] = {"unionfs": Unionfs, "kernel": Kernel, "fuse-overlayfs": FuseOverlayfs}

RunCase = Callable[..., list[Finding]]


@pytest.fixture(scope="session")
def subject() -> Driver:
    """What is held against the oracle: unionfs, or, to try the suite itself, what UNIONFS_ORACLE_SUBJECT names."""
    return SUBJECTS[os.environ.get("UNIONFS_ORACLE_SUBJECT", "unionfs")]()


@pytest.fixture(scope="session")
def run_case(disks: Callable[[str], Path], subject: Driver) -> RunCase:
    """`run_case(suite, name)` gives the findings of one case, or with WHOLE those that belong to no case.

    `options` are unionfs's own; with `fixed_lowers` the lower layers lie on mounts that are read-only. The cases of a suite that
    share a mount run together, the first time one is asked for.
    """
    base = disks("ext4") / "oracle"
    base.mkdir(mode=0o755, exist_ok=True)
    done: dict[tuple[object, ...], Findings] = {}

    def run(suite: Suite, name: str, options: Options | None = None, fixed_lowers: bool = False) -> list[Finding]:
        ours = options if options and subject.name == "unionfs" else {}
        key = (suite.name, name if suite.alone else "", *ours.items(), fixed_lowers)
        if key not in done:
            place = base / f"{suite.name}-{len(done)}"
            place.mkdir()
            names = [name] if suite.alone else list(suite.cases)
            done[key], _ = compare(suite, names, place, subject, Kernel(), ours, fixed_lowers=fixed_lowers)
            assert_nothing_left(place)
            lowers.forget(place)
            shutil.rmtree(place)
        whole = done[key][WHOLE] if suite.alone else []
        return [*done[key][name], *(whole if name != WHOLE else [])]

    return run
