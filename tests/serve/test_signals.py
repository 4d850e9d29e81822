"""How does a mount end that is still in use when it is told to?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clients.command import PATIENCE, in_foreground, wait_for
from tests.support.mounts import Layers, Unionfs, is_mounted, option_string

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture
def busy(layers: Layers) -> Layers:
    """A union whose file will be held open."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    return layers


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_it_at_once(number: signal.Signals, busy: Layers, tmp_path: Path) -> None:
    """The first takes the mount away and lets those inside go on; the second does not wait for them."""
    log = tmp_path / "log"
    with in_foreground(busy, log=log) as server, open(busy.mnt / "file", "r+b", buffering=0) as file:
        server.send_signal(number)
        wait_for(lambda: not is_mounted(busy.mnt), "the end of the mount")
        file.write(b"still served\n")
        assert os.fstat(file.fileno()).st_size == 13
        assert server.poll() is None
        began = time.monotonic()
        server.send_signal(number)
        assert server.wait(PATIENCE) == 0
        assert time.monotonic() - began < 3, "less than the grace"
        with pytest.raises(OSError, match="not connected"):
            os.fstat(file.fileno())
    assert "still in use" in log.read_text()
    assert (busy.top / "file").read_bytes() == b"still served\n"


def test_the_last_user_ends_it(busy: Layers, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with in_foreground(busy, log=log) as server:
        file = os.open(busy.mnt / "file", os.O_RDONLY)
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: not is_mounted(busy.mnt), "the end of the mount")
        assert server.poll() is None
        os.close(file)
        assert server.wait(PATIENCE) == 0
    assert log.read_text() == ""


def test_other_signals_leave_it_alone(busy: Layers) -> None:
    with in_foreground(busy) as server:
        for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT, signal.SIGPIPE):
            server.send_signal(number)
        assert (busy.mnt / "file").read_bytes() == b"below\n"
        assert server.poll() is None


EARLY = """
import os, signal, sys
from unionfs.cli.main import main
from unionfs.serve import run
mount = run.open_mount
def mount_and_be_told(config):
    mounted = mount(config)
    os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))
    return mounted
run.open_mount = mount_and_be_told
sys.exit(main(["-f", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_before_it_is_served(number: signal.Signals, busy: Layers) -> None:
    """It is not lost, and leaves no mount without a server."""
    words = [sys.executable, "-c", EARLY, str(int(number)), "-o", option_string(busy, {}), os.fspath(busy.mnt)]
    done = subprocess.run(words, env=Unionfs().environment(), stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 0
    assert not is_mounted(busy.mnt)
