"""Many files: do tens of thousands of open files need no descriptor of the server's each, whatever limit it has?"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import in_foreground, words
from tests.clients.test_resources import descriptors
from tests.oracle.child import in_child
from tests.support.mounts import Layers, Options, Unionfs, kill_servers, option_string, servers_of, unmount

OPEN_AT_ONCE = 20_000
SHARE = 5_000
"""Of them, how many are open in one process."""

LIMIT = 1024
"""Descriptors that the server may have, which it cannot raise."""

OPENED_ONCE = int(os.environ.get("UNIONFS_MANY_FILES", "20000"))
BOUND = 512
"""Descriptors that a server may keep, however many files were opened."""

CHILD_SECONDS = 240.0


def fill(layers: Layers, count: int) -> None:
    """`count` small files over directories of 1,000, on the lower and, one in four, on the upper; one in five is executable."""
    for number in range(count):
        layer = layers.top if number % 4 == 0 else layers.lowers[0]
        directory = layer / str(number // 1000)
        if number % 1000 < 5:
            directory.mkdir(exist_ok=True)
        path = directory / str(number)
        path.write_bytes(b"content %d" % number)
        if number % 5 == 0:
            path.chmod(0o755)


def paths(mnt: Path, first: int, last: int) -> Iterator[tuple[int, str]]:
    """The number and the path of the files from `first` to before `last`."""
    for number in range(first, last):
        yield number, f"{mnt}/{number // 1000}/{number}"


@contextmanager
def limited(layers: Layers, options: Options) -> Iterator[int]:
    """A mount whose server may have LIMIT descriptors, soft and hard; its pid."""
    shell = ["sh", "-c", f'ulimit -S -n {LIMIT}; ulimit -H -n {LIMIT}; exec "$@"', "sh"]
    command = [*shell, *words("-o", option_string(layers, options), layers.mnt)]
    done = subprocess.run(command, env=Unionfs().environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    try:
        (pid,) = servers_of(layers.mnt)
        yield pid
    finally:
        unmount(layers.mnt)


def open_all(mnt: Path, server: int, first: int, inherited: list[int]) -> tuple[int, list[str]]:
    """Opens every file from number `first` on, every tenth for writing, and uses them while they are open.

    A process opens only SHARE files, since its own limit may be low, and leaves the others to a child of its own; so those of
    the last one are used while all are open. The most descriptors the server had, and what was wrong.
    """
    for fd in inherited:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHARE + 100, SHARE + 100))
    last = first + SHARE
    # select(2), by which in_child waits, takes no number above 1,023: some low ones are kept for its pipe.
    low = [os.dup(0) for _ in range(8)]
    opened = [os.open(path, access(number)) for number, path in paths(mnt, first, last)]
    for fd in low:
        os.close(fd)
    most = descriptors(server)
    wrong: list[str] = []
    if last < OPEN_AT_ONCE:
        most, wrong = in_child(lambda: open_all(mnt, server, last, opened), CHILD_SECONDS, lambda: kill_servers(mnt))
    for number, fd in enumerate(opened, first):
        if os.pread(fd, 100, 0) != b"content %d" % number:
            wrong.append(f"read of {number}")
        if access(number) == os.O_RDWR:
            os.pwrite(fd, b"CONTENT", 0)
    for number, fd in enumerate(opened, first):
        expected = (b"CONTENT %d" if access(number) == os.O_RDWR else b"content %d") % number
        if os.pread(fd, 100, 0) != expected:
            wrong.append(f"second read of {number}")
        if os.fstat(fd).st_size != len(expected):
            wrong.append(f"size of {number}")
    return max(most, descriptors(server)), wrong


def access(number: int) -> int:
    """How the file of a number is opened."""
    return os.O_RDWR if number % 10 == 3 else os.O_RDONLY


@pytest.mark.parametrize(
    "options", [{}, {"lower_io": "passthrough"}, {"passthrough": "off"}], ids=["auto", "lower-passthrough", "off"]
)
def test_more_files_are_open_than_the_server_may_have(options: Options, layers: Layers) -> None:
    fill(layers, OPEN_AT_ONCE)
    with limited(layers, options) as server:
        most, wrong = in_child(
            lambda: open_all(layers.mnt, server, 0, []), CHILD_SECONDS, lambda: kill_servers(layers.mnt)
        )
        assert wrong == []
        assert most <= LIMIT
        # The server is as good as before.
        (layers.mnt / "new").write_bytes(b"new")
        assert (layers.mnt / "0" / "1").read_bytes() == b"content 1"
    assert (layers.top / "0" / "3").read_bytes() == b"CONTENT 3"


@pytest.mark.timeout(CHILD_SECONDS + OPENED_ONCE / 100)
@pytest.mark.parametrize("options", [{}, {"lower_io": "passthrough"}], ids=["auto", "lower-passthrough"])
def test_files_that_were_open_keep_no_descriptor(options: Options, layers: Layers) -> None:
    """UNIONFS_MANY_FILES=100000 for the whole measure."""
    fill(layers, OPENED_ONCE)
    with in_foreground(layers, options) as server:
        most = 0
        for number, path in paths(layers.mnt, 0, OPENED_ONCE):
            fd = os.open(path, os.O_RDWR if number % 10 == 0 else os.O_RDONLY)
            assert os.read(fd, 100) == b"content %d" % number
            os.close(fd)
            if number % 500 == 0:
                most = max(most, descriptors(server.pid))
        most = max(most, descriptors(server.pid))
        assert most <= BOUND
