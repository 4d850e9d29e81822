"""Does a server under an account serve as any other, and is what it reports what was asked of it?"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.command import errno_of, wait_for
from tests.support.mounts import Layers, Options, Unionfs, option_string, servers_of


class Measured(Unionfs):
    """Ours, with its time kept."""

    def __init__(self, report: Path) -> None:
        self.report = report

    def command(self, layers: Layers, options: Options) -> list[str]:
        launcher = [sys.executable, "-m", "tests.bench.profile.launcher", os.fspath(self.report)]
        return [*launcher, "-o", option_string(layers, options), os.fspath(layers.mnt)]


@pytest.fixture
def rows(layers: Layers, tmp_path: Path) -> dict[str, Any]:
    """What is reported of three lookups, one of them in vain, an open for writing with a copy-up, and its fsync."""
    lower = layers.lowers[0]
    for name in ("first", "second"):
        (lower / name).write_bytes(b"four")
    (lower / "big").write_bytes(bytes(1 << 20))
    report = tmp_path / "report.json"
    with Measured(report).mount(layers) as mnt:
        (server,) = servers_of(mnt)
        os.kill(server, signal.SIGUSR1)
        assert [errno_of(mnt / name) for name in ("first", "second", "missing")] == [0, 0, 2]
        fd = os.open(mnt / "big", os.O_WRONLY | os.O_APPEND)
        os.fsync(fd)
        os.close(fd)
        os.kill(server, signal.SIGUSR2)
        wait_for(report.exists, "the report")
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_requests_and_system_calls_are_counted(rows: dict[str, Any]) -> None:
    assert rows["LOOKUP"]["requests"] == 4
    # Three at most for each: its absence from the upper layer, that of a `.wh.` file there, the lower layer.
    assert 4 <= rows["LOOKUP"]["system_calls"]["statx"] <= 12
    assert rows["OPEN"]["requests"] == rows["FSYNC"]["requests"] == 1


def test_work_in_threads_is_told_apart(rows: dict[str, Any]) -> None:
    assert rows["(copy-up)"]["requests"] == 0
    assert rows["(copy-up)"]["worker_ns"] > 0
    assert rows["(copy-up)"]["ns"]["system calls"] > 0
    assert rows["LOOKUP"]["worker_ns"] == 0


def test_every_stage_of_a_lookup_has_its_time(rows: dict[str, Any]) -> None:
    spent = rows["LOOKUP"]["ns"]
    assert all(spent[stage] > 0 for stage in ("reading", "decoding", "union", "system calls", "encoding", "replying"))
