"""Resources: does the server hold on to nothing, stay idle when nothing is asked, and live with few descriptors?"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.clients.command import in_foreground, wait_for, words
from tests.support.mounts import Layers, Options, Unionfs, is_mounted, option_string, servers_of, unmount

DESCRIPTORS = 128
"""How many the server may have in the test of that; fewer than a tenth of the directories that are used."""


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_ticks(pid: int) -> int:
    """User and system time of a process in clock ticks (proc(5), /proc/PID/stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def churn(mnt: Path) -> None:
    """Creates, copies up, renames, links, lists, maps and removes some hundred objects, and leaves none of them."""
    for number in range(100):
        path = mnt / f"file{number}"
        path.write_bytes(b"x" * number)
        os.link(path, mnt / f"link{number}")
        path.rename(mnt / f"renamed{number}")
        os.symlink("nowhere", mnt / f"symlink{number}")
        (mnt / f"directory{number}").mkdir()
        with open(mnt / "lower file", "r+b") as file, open(mnt / f"link{number}", "rb") as other:
            file.write(other.read())
        for name in ("link", "renamed", "symlink"):
            (mnt / f"{name}{number}").unlink()
        os.listdir(mnt)
        (mnt / f"directory{number}").rmdir()


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["auto", "served"])
def test_no_descriptor_is_left_open(options: Options, layers: Layers) -> None:
    (layers.lowers[0] / "lower file").write_bytes(b"below")
    with in_foreground(layers, options) as server:
        churn(layers.mnt)
        settled = descriptors(server.pid)
        for _ in range(3):
            churn(layers.mnt)
        # The last RELEASE and FORGET may still be on their way.
        wait_for(lambda: descriptors(server.pid) <= settled + 2, "an end of the descriptors")


def test_idle_takes_no_time(layers: Layers) -> None:
    (layers.lowers[0] / "lower file").write_bytes(b"below")
    with in_foreground(layers) as server:
        churn(layers.mnt)
        time.sleep(0.5)
        before = cpu_ticks(server.pid)
        time.sleep(2)
        assert cpu_ticks(server.pid) - before <= 1


def test_few_descriptors_serve_many_directories(layers: Layers) -> None:
    lower = layers.lowers[0]
    for number in range(1500):
        (lower / f"wide{number}").mkdir()
        (lower / f"wide{number}" / "file").write_bytes(b"%d" % number)
    deep = lower
    for number in range(150):
        deep = deep / f"d{number}"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    limited = ["sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh"]
    command = [*limited, *words("-o", option_string(layers, {}), layers.mnt)]
    done = subprocess.run(command, env=Unionfs().environment(), capture_output=True, text=True, timeout=60, check=False)
    try:
        assert done.returncode == 0, done.stderr
        assert is_mounted(layers.mnt)
        for _ in range(2):
            seen = sum(1 for _, _, names in os.walk(layers.mnt) for name in names if name == "file")
            assert seen == 1501
        for number in range(1500):
            path = layers.mnt / f"wide{number}" / "file"
            assert path.read_bytes() == b"%d" % number
            path.write_bytes(b"changed")
        there = layers.mnt / deep.relative_to(lower) / "file"
        there.chmod(0o600)
        assert there.read_bytes() == b"deep"
        (server,) = servers_of(layers.mnt)
        assert descriptors(server) <= DESCRIPTORS
    finally:
        unmount(layers.mnt)
    assert (layers.top / "wide1499" / "file").read_bytes() == b"changed"
