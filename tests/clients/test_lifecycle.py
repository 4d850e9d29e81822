"""Life of a mount: does the command return, end, and clean up after itself however the mount begins and ends?"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import PATIENCE, errno_of, in_foreground, unionfs, wait_for, words
from tests.conftest import LayersFactory
from tests.support.mounts import (
    Kernel,
    Layers,
    Unionfs,
    is_mounted,
    option_string,
    servers_of,
    unmount,
    wait_until_gone,
)
from tests.support.trees import diff, snapshot

pytestmark = pytest.mark.both_bindings


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union with one file and one directory in its lower layer."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    (layers.lowers[0] / "directory").mkdir()
    return layers


def test_background_returns_when_mounted_and_lets_its_streams_go(filled: Layers) -> None:
    command = words("-o", option_string(filled, {}), filled.mnt)
    process = subprocess.Popen(
        command, env=Unionfs().environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.wait(PATIENCE) == 0
        assert (filled.mnt / "file").read_bytes() == b"below\n"
        # A server that kept one of the streams would keep this waiting.
        output, errors = process.communicate(timeout=PATIENCE)
        assert (output, errors) == (b"", b"")
        (server,) = servers_of(filled.mnt)
        assert server != process.pid
        assert [os.readlink(f"/proc/{server}/fd/{stream}") for stream in range(3)] == ["/dev/null"] * 3
        assert os.readlink(f"/proc/{server}/cwd") == "/"
        assert os.getsid(server) != os.getsid(0)
    finally:
        process.kill()
        unmount(filled.mnt)


def test_unmounting_ends_the_foreground_process_with_success(filled: Layers) -> None:
    with in_foreground(filled) as process:
        (filled.mnt / "new").write_bytes(b"above\n")
        subprocess.run(["umount", str(filled.mnt)], check=True)
        assert process.wait(PATIENCE) == 0
    assert (filled.top / "new").read_bytes() == b"above\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends(number: signal.Signals, filled: Layers) -> None:
    with in_foreground(filled) as process:
        (filled.mnt / "file").write_bytes(b"changed\n")
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert not is_mounted(filled.mnt)
    assert (filled.top / "file").read_bytes() == b"changed\n"


def test_a_signal_ends_the_background_server(filled: Layers) -> None:
    Unionfs().start(filled)
    try:
        (server,) = servers_of(filled.mnt)
        os.kill(server, signal.SIGTERM)
        assert wait_until_gone(filled.mnt) == []
        assert not is_mounted(filled.mnt)
    finally:
        unmount(filled.mnt)


def test_a_signal_ends_a_busy_mount(filled: Layers) -> None:
    """Somebody has a file open and a working directory inside: the mount goes away all the same."""
    with in_foreground(filled) as process:
        sleeper = subprocess.Popen(["sleep", "60"], cwd=filled.mnt / "directory")
        try:
            with open(filled.mnt / "file", "ab", buffering=0) as file:
                file.write(b"more\n")
                process.send_signal(signal.SIGTERM)
                wait_for(lambda: not is_mounted(filled.mnt), "the end of the mount")
        finally:
            sleeper.kill()
            sleeper.wait()
        assert process.wait(PATIENCE) == 0
    assert (filled.top / "file").read_bytes() == b"below\nmore\n"


def test_a_busy_mount_stays_when_unmounted_in_vain(filled: Layers) -> None:
    with in_foreground(filled) as process, open(filled.mnt / "file", "ab", buffering=0) as file:
        assert subprocess.run(["umount", str(filled.mnt)], capture_output=True, check=False).returncode == 32
        file.write(b"still works\n")
        assert process.poll() is None
    assert (filled.top / "file").read_bytes() == b"below\nstill works\n"


def test_a_lazy_unmount_serves_the_last_user(filled: Layers) -> None:
    with in_foreground(filled) as process:
        with open(filled.mnt / "file", "ab", buffering=0) as file:
            subprocess.run(["umount", "-l", str(filled.mnt)], check=True)
            file.write(b"after\n")
            assert os.fstat(file.fileno()).st_size == 12
            assert process.poll() is None
        assert process.wait(PATIENCE) == 0
    assert (filled.top / "file").read_bytes() == b"below\nafter\n"


def test_a_killed_server_leaves_enotconn_and_the_union_mounts_again(filled: Layers) -> None:
    with in_foreground(filled) as process:
        (filled.mnt / "new").write_bytes(b"kept")
        (filled.mnt / "directory").rmdir()
        process.kill()
        process.wait()
        assert errno_of(filled.mnt) == errno.ENOTCONN
        assert errno_of(filled.mnt / "file") == errno.ENOTCONN
        assert is_mounted(filled.mnt)
        subprocess.run(["umount", str(filled.mnt)], check=True)
    with Unionfs().mount(filled) as mnt:
        assert sorted(os.listdir(mnt)) == ["file", "new"]
        ours = snapshot(mnt)
    with Kernel().mount(filled) as mnt:
        assert diff(ours, snapshot(mnt)) == []


def test_leftovers_of_a_crash_are_cleaned_at_the_next_mount(filled: Layers) -> None:
    assert filled.work is not None
    with Unionfs().mount(filled) as mnt:
        (mnt / "new").write_bytes(b"kept")
    (filled.work / "work").chmod(0o700)
    (filled.work / "work" / "#1f").write_bytes(b"half a copy")
    (filled.work / "work" / "#20").mkdir()
    (filled.work / "work" / "#20" / "inside").write_bytes(b"")
    with Unionfs().mount(filled) as mnt:
        assert sorted(os.listdir(mnt)) == ["directory", "file", "new"]
    assert [name for name in os.listdir(filled.work / "work") if name.startswith("#")] == []


def test_mounts_on_top_of_each_other(make_layers: LayersFactory) -> None:
    """A second union on the first one's mount point hides it; unmounting shows the first again."""
    below, above = make_layers(), make_layers()
    (below.lowers[0] / "below").write_bytes(b"")
    (above.lowers[0] / "above").write_bytes(b"")
    Unionfs().start(below)
    try:
        Unionfs().start(replace(above, mnt=below.mnt))
        assert os.listdir(below.mnt) == ["above"]
        assert len(servers_of(below.mnt)) == 2
        subprocess.run(["umount", str(below.mnt)], check=True)
        assert os.listdir(below.mnt) == ["below"]
        wait_for(lambda: len(servers_of(below.mnt)) == 1, "the end of the second server")
    finally:
        unmount(below.mnt)


def test_read_only_without_an_upper(make_layers: LayersFactory) -> None:
    layers = make_layers(lowers=2, upper=False)
    (layers.lowers[0] / "file").write_bytes(b"top")
    (layers.lowers[1] / "file").write_bytes(b"bottom")
    (layers.lowers[1] / "other").write_bytes(b"bottom")
    with Unionfs().mount(layers) as mnt:
        assert (mnt / "file").read_bytes() == b"top"
        assert (mnt / "other").read_bytes() == b"bottom"
        with pytest.raises(OSError, match="Read-only file system") as refused:
            (mnt / "new").write_bytes(b"")
        assert refused.value.errno == errno.EROFS


def test_demo_succeeds_and_leaves_nothing(scratch: Path) -> None:
    done = unionfs("demo", env={"TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "passthrough: on" in done.stdout
    assert os.listdir(scratch) == []
