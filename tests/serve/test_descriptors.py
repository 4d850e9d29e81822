"""Does the server get along with few descriptors, however many files are in use?"""

from __future__ import annotations

import os

import pytest

from tests.clients.command import in_foreground, wait_for
from tests.oracle.child import in_child
from tests.support.mounts import Layers, Options, kill_servers

FILES = 5000
BOUND = 1024 + 512
"""The server keeps at most 1,024 files of its own open, and some directories."""


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def contents(number: int) -> bytes:
    return b"%d" % number


@pytest.fixture
def many(layers: Layers) -> Layers:
    """5,000 files, half of them in the upper layer."""
    for number in range(FILES):
        place = layers.lowers[0] if number % 2 else layers.top
        (place / f"file{number}").write_bytes(contents(number))
    return layers


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["passthrough", "served"])
def test_five_thousand_open_files(options: Options, many: Layers) -> None:
    with in_foreground(many, options) as server:

        def use() -> int:
            """Open all of them at once, read all, write to some; what the server then has open."""
            opened = [os.open(many.mnt / f"file{number}", os.O_RDONLY) for number in range(FILES)]
            most = descriptors(server.pid)
            for number, fd in enumerate(opened):
                assert os.pread(fd, 100, 0) == contents(number)
            most = max(most, descriptors(server.pid))
            writing = [os.open(many.mnt / f"file{number}", os.O_RDWR) for number in range(0, FILES, 4)]
            for fd in writing:
                os.pwrite(fd, b"#", 0)
                os.fstat(fd)
            most = max(most, descriptors(server.pid))
            for number, fd in zip(range(0, FILES, 4), writing, strict=True):
                assert os.pread(opened[number], 100, 0) == b"#" + contents(number)[1:]
                os.close(fd)
            for fd in opened:
                os.close(fd)
            return most

        rested = descriptors(server.pid)
        assert in_child(use, 60, lambda: kill_servers(many.mnt)) < BOUND
        # The last RELEASE may still be on its way.
        wait_for(lambda: descriptors(server.pid) < rested + BOUND // 4, "an end of the descriptors")

