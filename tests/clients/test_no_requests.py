"""Does the data path leave the server out altogether? Counted in its log, and shown with a server that does not run.

One request is the kernel's own and cannot be spared: before the first write after it has (re)read an inode's attributes it asks
whether the file has capabilities to be removed (GETXATTR of security.capability; file_remove_privs() in fs/inode.c, which
fs/backing-file.c calls for the inode of the mount). It remembers the answer (S_NOSEC), so the number of writes does not matter.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import PATIENCE, in_foreground, wait_for
from tests.clients.server_log import Request, settled
from tests.support.mounts import Layers, Options

MEGABYTE = 1 << 20
SIZE = 512 * MEGABYTE
BLOCK = 4096
ON: Options = {"passthrough": "on"}
"""Not `auto`: where passthrough can't be had the mount fails, and with it the test."""


def while_open(requests: list[Request]) -> list[list[Request]]:
    """For each time a file was open: the requests, on whichever node, between its OPEN or CREATE and its RELEASE."""
    found: list[list[Request]] = []
    begun: dict[int, int] = {}
    for position, request in enumerate(requests):
        if request.operation in ("OPEN", "CREATE"):
            begun[request.node] = position
        elif request.operation == "RELEASE":
            found.append(requests[begun.pop(request.node) + 1 : position])
    assert not begun, requests
    return found


@pytest.fixture
def log(scratch: Path) -> Path:
    return scratch / "requests.log"


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The server takes no step while the block runs: whoever needs an answer of it waits for ever.

    All its threads have come to a stand when the block begins.
    """
    process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: states(process.pid) == {"T"}, "the server's standstill")
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def states(pid: int) -> set[str]:
    """The states of a process's threads (proc_pid_stat(5))."""
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")}


def fill(path: Path) -> None:
    """Writes SIZE bytes, none of them a hole."""
    block = os.urandom(MEGABYTE)
    with open(path, "wb") as file:
        for _ in range(SIZE // MEGABYTE):
            file.write(block)


def fio(pattern: str, path: Path) -> None:
    """Reads or writes every block of a file of SIZE bytes once, in random order, with one descriptor."""
    command = [
        *("fio", "--name=big", f"--filename={path}", f"--rw={pattern}", f"--bs={BLOCK}", f"--size={SIZE}"),
        *("--ioengine=psync", "--fallocate=none", "--thread"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    blocks = SIZE // BLOCK
    assert f"issued rwts: total={f'{blocks},0' if pattern == 'randread' else f'0,{blocks}'},0,0" in done.stdout


@pytest.mark.parametrize("layer", ["upper", "lower"])
def test_fio_writes_512_mib_at_random(layer: str, layers: Layers, log: Path) -> None:
    """Every block of a file once, 131,072 writes: from the open to the close the server gets the kernel's one question."""
    fill((layers.top if layer == "upper" else layers.lowers[0]) / "big")
    with in_foreground(layers, ON, ("-f", "-d"), log):
        fio("randwrite", layers.mnt / "big")
        requests = settled(log)
    opened = while_open(requests)
    assert opened, requests
    for between in opened:
        assert [request for request in between if not request.asks_for_capabilities] == []
        assert len(between) <= 1


@pytest.mark.parametrize("upper", [True, False], ids=["lower_io=passthrough", "no-upper"])
def test_fio_reads_a_lower_file_at_random(upper: bool, make_layers: Callable[..., Layers], log: Path) -> None:
    """512 MiB of a file that may still be copied up, with lower_io=passthrough, and of one that can't be: no request."""
    layers = make_layers(upper=upper)
    fill(layers.lowers[0] / "big")
    with in_foreground(layers, {**ON, **({"lower_io": "passthrough"} if upper else {})}, ("-f", "-d"), log):
        fio("randread", layers.mnt / "big")
        requests = settled(log)
    opened = while_open(requests)
    assert opened, requests
    assert [between for between in opened if between] == []


CLIENT = """
import mmap, os, random, sys
fd, size, block = (int(word) for word in sys.argv[1:])
mapped = mmap.mmap(fd, size)
os.pwrite(fd, b"first", 0)
print("ready", flush=True)
sys.stdin.readline()
numbers = list(range(size // block))
random.Random(1).shuffle(numbers)
for number in numbers:
    assert os.pwrite(fd, number.to_bytes(8, "big") * (block // 8), number * block) == block
for number in numbers[:1000]:
    assert os.pread(fd, block, number * block) == number.to_bytes(8, "big") * (block // 8)
for number in numbers[:1000]:
    assert mapped[number * block : number * block + 8] == number.to_bytes(8, "big")
    mapped[number * block : number * block + 8] = b"by mmap!"
for number in numbers[:1000]:
    assert os.pread(fd, 8, number * block) == b"by mmap!"
there, here = os.pipe()
assert os.splice(fd, here, block, offset_src=0) == block
assert len(os.read(there, block)) == block
print("done")
"""
"""Maps a file that is open as a descriptor (Python reads its attributes for that), makes a first write, prints `ready`; after a
line on its standard input it writes and reads it by descriptor and by mapping, splices it, and prints `done`."""


@contextmanager
def client(fd: int) -> Iterator[subprocess.Popen[str]]:
    """Runs CLIENT on a descriptor for the time of the block; kills it if it is still there at the end."""
    arguments = [sys.executable, "-c", CLIENT, str(fd), str(SIZE), str(BLOCK)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, pass_fds=[fd], text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("layer", ["upper", "lower"])
def test_the_server_does_not_run(layer: str, layers: Layers, log: Path) -> None:
    """An open file is written 512 MiB, read, mapped and spliced while the server is stopped: nobody waits for it.

    When it goes on it finds nothing that it was asked meanwhile.
    """
    fill((layers.top if layer == "upper" else layers.lowers[0]) / "big")
    with in_foreground(layers, ON, ("-f", "-d"), log) as server, open(layers.mnt / "big", "r+b", buffering=0) as file:
        with client(file.fileno()) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = settled(log)
            with stopped(server):
                assert process.communicate("go\n", timeout=2 * PATIENCE) == ("done\n", "")
        assert settled(log) == before
    assert os.path.getsize(layers.top / "big") == SIZE


def test_an_append_that_is_held_back(layers: Layers, log: Path) -> None:
    """Without passthrough, the kernel has to read neither the page that a write is a part of nor the attributes of the copy."""
    lower = layers.lowers[0] / "small"
    lower.write_bytes(b"below")
    os.utime(lower, (1_000_000_000, 1_100_000_000))
    with in_foreground(layers, {"passthrough": "off"}, ("-f", "-d"), log):
        fd = os.open(layers.mnt / "small", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b" and above")
        os.close(fd)
        requests = settled(log)
        assert (layers.top / "small").stat().st_atime == 1_000_000_000
        assert (layers.mnt / "small").read_bytes() == b"below and above"
    (between,) = while_open(requests)
    assert [request.operation for request in between if not request.asks_for_capabilities] == ["WRITE", "SETATTR"]
    assert (layers.top / "small").read_bytes() == b"below and above"
