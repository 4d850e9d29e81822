"""Does fio read back what it wrote, however the file is served, and does the upper layer hold the same afterwards?"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Layers, Options, Unionfs

SIZE = 4 << 20

ORIGINS = ("upper", "lower", "held", "new")
"""Where a file is before fio opens it: on the upper layer; on the lower one, to be copied up; there and open for reading
elsewhere; nowhere.
"""

KINDS = {"data": 0o644, "program.so": 0o755}
"""Names and modes: what is executable or a shared object is served in a way of its own while it is on a lower layer."""

ENGINES = ("psync", "mmap")

PATTERNS = {"psync": "rw=randwrite\nbsrange=512-32k\nbs_unaligned=1", "mmap": "rw=write\nbs=4k"}
"""How an engine writes: blocks of all sizes in random order, page after page."""

GLOBAL = """
[global]
directory={directory}
size={size}
verify=crc32c
verify_fatal=1
verify_dump=0
fallocate=none
overwrite=1
thread=1
{more}
"""

SECTION = """
[{name}]
filename={name}
ioengine={engine}
{pattern}
"""

NAMES = {f"{origin}-{engine}-{kind}": mode for origin, engine, (kind, mode) in itertools.product(ORIGINS, ENGINES, KINDS.items())}
"""The files, each written by a job of its own, all at once."""

MODES: dict[str, Options] = {
    f"{passthrough}-{lower_io}": {"passthrough": passthrough, "lower_io": lower_io}
    for passthrough in ("on", "off")
    for lower_io in ("auto", "passthrough", "cached")
}


def fio(directory: Path, scratch: Path, *more: str) -> None:
    """Writes and verifies all files of a directory; fails with fio's own words where it fails or finds a wrong block."""
    job = scratch / "job.fio"
    sections = [
        SECTION.format(name=name, engine=engine, pattern=PATTERNS[engine])
        for name, engine in ((name, name.split("-")[1]) for name in NAMES)
    ]
    job.write_text(GLOBAL.format(directory=directory, size=SIZE, more="\n".join(more)) + "".join(sections))
    done = subprocess.run(["fio", str(job)], cwd=scratch, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("err= 0") == len(NAMES), done.stdout
    assert "verify:" not in done.stdout + done.stderr


def make_files(layers: Layers) -> None:
    """Makes every file but the new ones."""
    places = {"upper": layers.top, "lower": layers.lowers[0], "held": layers.lowers[0]}
    for name, mode in NAMES.items():
        directory = places.get(name.split("-")[0])
        if directory is not None:
            (directory / name).write_bytes(os.urandom(SIZE))
            (directory / name).chmod(mode)


@contextmanager
def held(mnt: Path) -> Iterator[dict[str, int]]:
    """The files held open: descriptors for reading, each of which has read already."""
    names = [name for name in NAMES if name.startswith("held-")]
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(mnt / name, "rb", buffering=0)) for name in names}
        for file in files.values():
            assert len(os.pread(file.fileno(), 4096, 4096)) == 4096
        yield {name: file.fileno() for name, file in files.items()}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_fio_verifies(mode: Options, layers: Layers, scratch: Path) -> None:
    """While it writes; then on the upper layer itself, and through a mount of the same mode that has cached nothing.

    Descriptors opened on the lower files before see the new data by read(2), except with lower_io=passthrough: there they go on
    reading the lower file, old data, but all of it old.
    """
    make_files(layers)
    with Unionfs().mount(layers, mode) as mnt, held(mnt) as descriptors:
        fio(mnt, scratch)
        current = layers.lowers[0] if mode == MODES["on-passthrough"] else layers.top
        for name, fd in descriptors.items():
            assert os.pread(fd, SIZE, 0) == (current / name).read_bytes(), name
    fio(layers.top, scratch, "verify_only=1")
    with Unionfs().mount(layers, mode) as mnt:
        fio(mnt, scratch, "verify_only=1")


def test_fio_finds_a_changed_byte(layers: Layers, scratch: Path) -> None:
    """The check of the tests above is one that can fail."""
    fio(layers.top, scratch)
    name = next(iter(NAMES))
    with open(layers.top / name, "r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(AssertionError, match="verify"):
        fio(layers.top, scratch, "verify_only=1")
