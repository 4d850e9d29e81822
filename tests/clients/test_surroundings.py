"""Surroundings: does it matter from where, by whom and in what state of a process the command is started?"""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import wait_for, words
from tests.conftest import LayersFactory
from tests.support.mounts import Layers, Unionfs, is_mounted, option_string, servers_of, unmount


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union with one file and one directory in its lower layer."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    (layers.lowers[0] / "directory").mkdir()
    return layers


def start_by_shell(script: str, layers: Layers, flags: str = "") -> None:
    """Runs a shell script whose `"$@"` is the mount command, and uses the mount that this makes."""
    command = [*words("-o", option_string(layers, {})), *flags.split(), str(layers.mnt)]
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command], env=Unionfs().environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    try:
        assert done.returncode == 0, done.stderr
        wait_for(lambda: is_mounted(layers.mnt), "the mount")
        use(layers.mnt)
    finally:
        unmount(layers.mnt)


def use(mnt: Path) -> None:
    """Reads, writes, creates and removes in the mount."""
    assert (mnt / "file").read_bytes() == b"below\n"
    with open(mnt / "file", "ab") as file:
        file.write(b"more\n")
    assert (mnt / "file").read_bytes() == b"below\nmore\n"
    (mnt / "directory").rmdir()
    (mnt / "new").write_bytes(b"new\n")
    (mnt / "new").rename(mnt / "renamed")
    assert sorted(os.listdir(mnt)) == ["file", "renamed"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_started_with_streams_closed(closed: str, filled: Layers) -> None:
    """The first descriptors that are opened are then 0, 1 and 2, and those must not be taken for the streams."""
    start_by_shell(f'"$@" {closed}', filled)


def test_started_in_the_foreground_with_streams_closed(filled: Layers) -> None:
    start_by_shell('"$@" <&- >&- 2>&- &', filled, "-f")


@pytest.mark.parametrize(
    "state", ["trap '' CHLD HUP INT TERM PIPE", "cd / && unset HOME PATH LANG TMPDIR", "ulimit -s 1024 -n 100"]
)
def test_inherited_state(state: str, filled: Layers) -> None:
    """Ignored signals, an empty environment and small limits."""
    start_by_shell(f'{state}; exec "$@"', filled)


def test_ignored_signals_still_end_the_server(filled: Layers) -> None:
    """nohup(1) and shells in the background start programs with signals ignored; they work all the same."""
    command = words("-o", option_string(filled, {}), filled.mnt)
    ignoring = ["sh", "-c", "trap '' HUP INT TERM; exec \"$@\"", "sh"]
    subprocess.run([*ignoring, *command], env=Unionfs().environment(), timeout=60, check=True)
    try:
        (server,) = servers_of(filled.mnt)
        os.kill(server, 15)
        wait_for(lambda: not is_mounted(filled.mnt), "the end of the mount")
    finally:
        unmount(filled.mnt)


def test_the_umask_of_the_server_is_not_the_callers(filled: Layers) -> None:
    command = words("-o", option_string(filled, {}), filled.mnt)
    subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command], env=Unionfs().environment(), timeout=60, check=True
    )
    try:
        made = "umask 022; touch file2; mkdir directory2; mkfifo fifo; umask 0; touch open; mkdir -p directory/inside"
        subprocess.run(["sh", "-euc", made], cwd=filled.mnt, check=True)
        names = ("file2", "directory2", "fifo", "open", "directory/inside", "directory", "file")
        modes = {name: stat.S_IMODE((filled.mnt / name).stat().st_mode) for name in names}
        assert modes == {
            "file2": 0o644, "directory2": 0o755, "fifo": 0o644, "open": 0o666, "directory/inside": 0o777,
            "directory": 0o755, "file": 0o644,
        }  # fmt: skip
    finally:
        unmount(filled.mnt)


def test_containers_share_a_lower_layer(filled: Layers, make_layers: LayersFactory) -> None:
    """Each has an upper of its own and sees nothing of the others' changes."""
    unions = [replace(make_layers(), lowers=filled.lowers) for _ in range(4)]
    driver = Unionfs()
    started: list[Layers] = []
    try:
        for union in unions:
            driver.start(union)
            started.append(union)
        for number, union in enumerate(unions):
            with open(union.mnt / "file", "ab") as file:
                file.write(b"%d" % number)
            (union.mnt / f"only{number}").mkdir()
        for number, union in enumerate(unions):
            assert (union.mnt / "file").read_bytes() == b"below\n%d" % number
            assert sorted(os.listdir(union.mnt)) == ["directory", "file", f"only{number}"]
    finally:
        for union in started:
            unmount(union.mnt)
    assert (filled.lowers[0] / "file").read_bytes() == b"below\n"
