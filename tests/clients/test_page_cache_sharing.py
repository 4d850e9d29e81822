"""Do mounts over the same lower share the memory of programs and shared objects, as bind mounts of it would?

A mapping through the mount has to be one of the lower file's own pages: they become resident in its page cache, and what two
mounts' users map is in memory once (proc(5), /proc/PID/smaps).
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.command import wait_for
from tests.conftest import LayersFactory
from tests.oracle.io_mapping import Mapping
from tests.support.mounts import Layers, Options, Unionfs

SIZE = 4 << 20
NAMES = {"program": 0o755, "lib.so": 0o644, "libversioned.so.1.2": 0o644}

USER = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
total = sum(mapped[offset] for offset in range(0, len(mapped), mmap.PAGESIZE))
print(total, flush=True)
sys.stdin.read()
"""
"""A process that maps a file, touches every page, and waits."""


@pytest.fixture
def lower(scratch: Path) -> Path:
    """A lower directory with a large program and large shared objects."""
    path = scratch / "shared"
    path.mkdir()
    for name, mode in NAMES.items():
        (path / name).write_bytes(b"\x7fELF" + os.urandom(SIZE - 4))
        (path / name).chmod(mode)
    return path


def drop(path: Path) -> None:
    """Takes a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def two_mounts(make_layers: LayersFactory, lower: Path, stack: ExitStack, options: Options) -> list[Path]:
    """Two unions with uppers of their own over one lower, mounted for the time of `stack`."""
    mounts = []
    for _ in range(2):
        made: Layers = make_layers()
        layers = Layers((lower,), made.upper, made.work, made.mnt)
        mounts.append(stack.enter_context(Unionfs().mount(layers, options)))
    return mounts


def resident(path: Path) -> int:
    """How many pages of a file are in its page cache, as mincore(2) of a mapping of it says that touches none."""
    fd = os.open(path, os.O_RDONLY)
    mapping = Mapping(fd, SIZE)
    try:
        return sum(mapping.resident())
    finally:
        mapping.close()
        os.close(fd)


def smaps(pid: int, name: str) -> dict[str, int]:
    """Rss and Pss of a process's mapping of the file with this name, in bytes; `ino` its inode number."""
    found: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        header = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+)\s*(.*)", line)
        if header:
            # The kernel may have dropped the name of a file that was split since: "/.../lib.so (deleted)".
            inside = header[3].removesuffix(" (deleted)").endswith("/" + name)
            if inside:
                found["ino"] = int(header[2])
        elif inside and line.startswith(("Rss:", "Pss:")):
            found[line[:3]] = found.get(line[:3], 0) + int(line.split()[1]) * 1024
    return found


def maps(stack: ExitStack, path: Path) -> int:
    """Starts a process that maps and touches a file, and ends with `stack`; its pid."""
    process = subprocess.Popen(["python3", "-c", USER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.callback(process.communicate)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline().strip().isdigit()
    return process.pid


@pytest.mark.parametrize("name", NAMES)
def test_two_mounts_share_what_is_mapped(name: str, lower: Path, make_layers: LayersFactory) -> None:
    pages = SIZE // os.sysconf("SC_PAGE_SIZE")
    with ExitStack() as stack:
        mounts = two_mounts(make_layers, lower, stack, {})
        drop(lower / name)
        assert resident(lower / name) < pages // 8
        users = [maps(stack, mnt / name) for mnt in mounts]
        assert resident(lower / name) == pages
        for pid in users:
            found = smaps(pid, name)
            assert found["Rss"] == SIZE
            # Each page is mapped by two processes, and by nobody else.
            assert found["Pss"] == SIZE // 2


def test_a_running_program_is_the_lower_files(lower: Path, make_layers: LayersFactory) -> None:
    """The text of a program that runs on two mounts, and on the lower itself, is in memory once."""
    subprocess.run(["cp", "-L", "/bin/sleep", lower / "sleep"], check=True)
    with ExitStack() as stack:
        mounts = two_mounts(make_layers, lower, stack, {})
        running = [subprocess.Popen([directory / "sleep", "60"]) for directory in (*mounts, lower)]
        try:
            for process in running:
                wait_for(lambda pid=process.pid: "nanosleep" in Path(f"/proc/{pid}/wchan").read_text(), "the sleep")
            shares = [smaps(process.pid, "sleep") for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
    # Data pages are written and so each process's own; text pages, most of the program, are counted a third each.
    for share in shares:
        assert share["Pss"] < share["Rss"] * 2 / 3, shares


def test_what_is_served_through_the_page_cache_is_not_shared(lower: Path, make_layers: LayersFactory) -> None:
    """That the measure measures something: with lower_io=cached each mount has pages of its own."""
    with ExitStack() as stack:
        mounts = two_mounts(make_layers, lower, stack, {"lower_io": "cached"})
        users = [maps(stack, mnt / "lib.so") for mnt in mounts]
        for pid in users:
            found = smaps(pid, "lib.so")
            assert (found["Rss"], found["Pss"]) == (SIZE, SIZE)


def test_after_a_copy_up_the_upper_is_mapped(lower: Path, make_layers: LayersFactory) -> None:
    """The mount that changed the file maps its own copy, the other one the lower file still."""
    with ExitStack() as stack:
        mounts = two_mounts(make_layers, lower, stack, {})
        users = [maps(stack, mounts[0] / "lib.so")]
        with open(mounts[0] / "lib.so", "r+b") as file:
            file.write(b"changed")
        users += [maps(stack, mnt / "lib.so") for mnt in mounts]
        old, changed, other = (smaps(pid, "lib.so") for pid in users)
        assert (old["Pss"], changed["Pss"], other["Pss"]) == (SIZE // 2, SIZE, SIZE // 2)
