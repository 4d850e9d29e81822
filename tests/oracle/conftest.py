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
from tests.support.mounts import Driver, FuseOverlayfs, Kernel, Unionfs

SUBJECTS: dict[str, Callable[[], Driver]] = {"unionfs": Unionfs, "kernel": Kernel, "fuse-overlayfs": FuseOverlayfs}

RunCase = Callable[[Suite, str], list[Finding]]


@pytest.fixture(scope="session")
def subject() -> Driver:
    """What is held against the oracle: unionfs, or, to try the suite itself, what UNIONFS_ORACLE_SUBJECT names."""
    return SUBJECTS[os.environ.get("UNIONFS_ORACLE_SUBJECT", "unionfs")]()


@pytest.fixture(scope="session")
def run_case(disks: Callable[[str], Path], subject: Driver) -> RunCase:
    """`run_case(suite, name)` gives the findings of one case, or with WHOLE those that belong to no case.

    The cases of a suite that share a mount run together, the first time one is asked for.
    """
    base = disks("ext4") / "oracle"
    base.mkdir(mode=0o755, exist_ok=True)
    done: dict[tuple[str, str], Findings] = {}

    def run(suite: Suite, name: str) -> list[Finding]:
        key = (suite.name, name if suite.alone else "")
        if key not in done:
            place = base / f"{suite.name}-{len(done)}"
            place.mkdir()
            done[key], _ = compare(suite, [name] if suite.alone else list(suite.cases), place, subject, Kernel())
            assert_nothing_left(place)
            shutil.rmtree(place)
        whole = done[key][WHOLE] if suite.alone else []
        return [*done[key][name], *(whole if name != WHOLE else [])]

    return run
