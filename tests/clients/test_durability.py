"""Durability: what does the server sync, and when, as `fsync=` says?"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import check_refusal, in_foreground, unionfs, wait_for
from tests.support.losing_disk import lose_data, losing_disk
from tests.support.mounts import Layers, Unionfs, is_mounted, option_string

SYNCS = "fsync,fdatasync,sync_file_range,syncfs,sync,msync"
SIZE = 600_000
"""Bytes of a file that is copied up in a worker thread; the small one is copied on the event loop."""


@contextmanager
def traced(pid: int, log: Path) -> Iterator[None]:
    """strace(1) of the process's calls that sync something, written to `log`, during the block."""
    command = ["strace", "-f", "-qq", "-e", f"trace={SYNCS}", "-o", str(log), "-p", str(pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tracer:
        try:
            wait_for(lambda: f"TracerPid:\t{tracer.pid}" in Path(f"/proc/{pid}/status").read_text(), "strace")
            yield
        finally:
            time.sleep(0.1)
            tracer.terminate()


def calls(log: Path) -> Counter[str]:
    """How often each call was made; sync_file_range(2) that waits for nothing is left out."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        match = re.match(r"(?:\d+ +)?(\w+)\((.*)\) += 0", line)
        if match is None or match[1] not in SYNCS.split(","):
            continue
        if match[1] != "sync_file_range" or "WAIT_BEFORE" in match[2]:
            found[match[1]] += 1
    return found


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """Files of both kinds of copy-up, and of metadata alone, each in a directory of its own."""
    for name, size in (("small", 5000), ("large", SIZE), ("empty", 0), ("touched", 3000)):
        (layers.lowers[0] / f"d-{name}").mkdir()
        (layers.lowers[0] / f"d-{name}" / name).write_bytes(os.urandom(size))
    return layers


def write_to(path: Path) -> None:
    """Copies a file up by opening it for writing."""
    with open(path, "r+b", buffering=0) as file:
        file.write(b"changed")


def act(mnt: Path, what: str) -> None:
    """Makes one change or sync."""
    match what:
        case "copy small":
            write_to(mnt / "d-small" / "small")
        case "copy large":
            write_to(mnt / "d-large" / "large")
        case "copy empty":
            write_to(mnt / "d-empty" / "empty")
        case "fsync":
            fd = os.open(mnt / "own", os.O_RDWR)
            os.write(fd, b"x" * 5000)
            os.fsync(fd)
            os.fdatasync(fd)
            os.close(fd)
        case "fsync lower":
            fd = os.open(mnt / "d-touched" / "touched", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        case "fsync directory":
            fd = os.open(mnt, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        case "make and remove":
            (mnt / "new").mkdir()
            (mnt / "new" / "file").write_bytes(b"data")
            (mnt / "new" / "file").rename(mnt / "new" / "moved")
            (mnt / "new" / "moved").unlink()
            (mnt / "new").rmdir()
            (mnt / "d-empty" / "empty").unlink()


ACTS = ["copy small", "copy large", "copy empty", "fsync", "fsync lower", "fsync directory", "make and remove"]

EXPECTED: dict[str, dict[str, dict[str, int]]] = {
    "volatile": {},
    "auto": {
        # ext4's journal orders the name behind the data: written out, not synced.
        "copy small": {"sync_file_range": 1},
        "copy large": {"sync_file_range": 1},
        "fsync": {"fsync": 1, "fdatasync": 1},
        "fsync directory": {"fsync": 1},
    },
    "strict": {
        # The file, its directory's copy, and the directories they were put into.
        "copy small": {"fsync": 4},
        "copy large": {"fsync": 4},
        "copy empty": {"fsync": 4},
        "fsync": {"fsync": 1, "fdatasync": 1},
        "fsync directory": {"fsync": 1},
    },
}


@pytest.mark.parametrize("passthrough", ["auto", "off"])
@pytest.mark.parametrize("mode", list(EXPECTED))
def test_what_is_synced(mode: str, passthrough: str, filled: Layers, scratch: Path) -> None:
    (filled.top / "own").write_bytes(b"")
    found = {}
    with in_foreground(filled, {"fsync": mode, "passthrough": passthrough}) as server:
        for number, what in enumerate(ACTS):
            log = scratch / f"trace{number}"
            with traced(server.pid, log):
                act(filled.mnt, what)
            found[what] = dict(calls(log))
    if mode == "volatile":
        # The probe answers at once, and syncs nothing.
        assert not any(found[what] for what in ACTS if not what.startswith("fsync"))
        assert found["fsync"] == {"fsync": 2}
        assert found["fsync directory"] == found["fsync lower"] == {"fsync": 1}
    else:
        assert found == {what: EXPECTED[mode].get(what, {}) for what in ACTS}


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_a_volatile_fsync_writes_nothing_to_the_device(passthrough: str, layers: Layers) -> None:
    """32 MiB of dirty data stay dirty, whatever is synced through the mount."""
    with Unionfs().mount(layers, {"volatile": None, "passthrough": passthrough}) as mnt:
        with open(mnt / "file", "wb", buffering=0) as file:
            file.write(os.urandom(32 << 20))
            written = _sectors_written(layers.top)
            os.fsync(file.fileno())
            os.fdatasync(file.fileno())
            assert _sectors_written(layers.top) - written < (32 << 20) // 512 // 2
        (mnt / "file").unlink()


def _sectors_written(path: Path) -> int:
    """Sectors that were written to the device of a filesystem since the system started (iostats.rst, field 7)."""
    device = os.stat(path).st_dev
    return int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[6])


@pytest.mark.parametrize("spelled", ["volatile", "fsync=volatile", "fsync=0"])
def test_a_volatile_mount_that_ended_bars_the_next(spelled: str, layers: Layers) -> None:
    assert layers.work is not None
    name, _, value = spelled.partition("=")
    with Unionfs().mount(layers, {name: value or None}) as mnt:
        (mnt / "file").write_bytes(b"data")
    done = unionfs("-o", option_string(layers, {}), layers.mnt)
    check_refusal(done, 32, f"{layers.work}/work/incompat/volatile", "rm -r")
    assert not is_mounted(layers.mnt)
    subprocess.run(["rm", "-r", layers.work / "work/incompat/volatile"], check=True)
    with Unionfs().mount(layers) as mnt:
        assert (mnt / "file").read_bytes() == b"data"


def test_a_volatile_mount_that_failed_bars_none(layers: Layers) -> None:
    options = {"volatile": None, "inode_passthrough": "draft"}
    assert unionfs("-o", option_string(layers, options), layers.mnt).returncode == 32
    with Unionfs().mount(layers, {"volatile": None}):
        pass


def test_without_an_upper_layer_volatile_means_nothing(layers: Layers) -> None:
    lowers_only = Layers(layers.lowers, None, None, layers.mnt)
    with Unionfs().mount(lowers_only, {"volatile": None}) as mnt:
        fd = os.open(mnt, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_a_volatile_mount_that_lost_data_says_so_for_good(passthrough: str, scratch: Path) -> None:
    """On every file and directory, also those that are whole, and after others have been told."""
    with losing_disk(scratch) as disk:
        layers = Layers.create(disk / "union")
        (layers.lowers[0] / "lower").write_bytes(b"data")
        with Unionfs().mount(layers, {"volatile": None, "passthrough": passthrough}) as mnt:
            (mnt / "file").write_bytes(b"data")
            for name in ("file", "lower", "."):
                assert sync_of(mnt / name) == 0
            lose_data(layers.top / "lost")
            for _ in range(2):
                said = [sync_of(mnt / name) for name in ("file", "lower", ".")]
                assert said in ([errno.EIO] * 3, [errno.ENOSPC] * 3)
                subprocess.run(["sync", "-f", layers.top], check=False, capture_output=True)
            assert (mnt / "file").read_bytes() == b"data"


def sync_of(path: Path) -> int:
    """The errno of fsync(2), 0 if it succeeds."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0
