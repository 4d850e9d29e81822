"""Does unionfs avoid the mistakes of its peers that take several processes, or a second filesystem, to see?

The others are cases of the differential suite (cases_mistakes).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.support.mounts import Driver, Layers
from tests.support.trees import diff, snapshot


@contextmanager
def reader(path: Path) -> Iterator[Callable[[], bytes]]:
    """Another process that holds a file open, has read it and mapped it; call it to have the descriptor read again."""
    code = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.pread(fd, 100, 0)\n"
        "mapping = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)\n"
        "for line in sys.stdin:\n"
        "    sys.stdout.buffer.write(os.pread(fd, 64, 0).ljust(64)); sys.stdout.buffer.flush()\n"
    )
    command = ["python3", "-c", code, os.fspath(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def read() -> bytes:
            stdin.write(b"\n")
            stdin.flush()
            return stdout.read(64).rstrip()

        read()
        yield read
        stdin.close()


@pytest.mark.parametrize("size", [50, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("how", ["write", "append", "truncate", "mmap", "fallocate", "copy"])
def test_nothing_is_written_into_a_lower(how: str, size: int, layers: Layers, subject: Driver) -> None:
    """A reader in another process holds the lower file open and mapped, while it is changed in every way."""
    lower = layers.lowers[0] / "f"
    lower.write_bytes(b"L" * size)
    with subject.mount(layers) as mnt:
        path = os.fspath(mnt / "f")
        with reader(mnt / "f") as read:
            assert read().startswith(b"LLLL")
            if how == "truncate":
                os.truncate(path, 3)
                expected = b"LLL"
            else:
                fd = os.open(path, os.O_RDWR | (os.O_APPEND if how == "append" else 0))
                change(how, fd)
                os.close(fd)
                expected = b"CHANGED!" if how != "fallocate" else b"\0" * 8
            assert read().startswith(expected)
            again = os.open(path, os.O_RDWR)
            os.pwrite(again, b"AGAIN", 0)
            os.close(again)
            assert read().startswith(b"AGAIN")
        assert Path(path).read_bytes().startswith(b"AGAIN")
        assert lower.read_bytes() == b"L" * size


def change(how: str, fd: int) -> None:
    """Makes the file start with `CHANGED!` (or eight zeros, with fallocate)."""
    if how == "write":
        os.pwrite(fd, b"CHANGED!", 0)
    elif how == "append":
        os.ftruncate(fd, 0)
        os.write(fd, b"CHANGED!")
    elif how == "mmap":
        ops.map_write(fd, b"CHANGED!")
    elif how == "fallocate":
        ops.punch(fd, 0, 8)
    else:
        source = os.memfd_create("source")
        os.write(source, b"CHANGED!")
        os.lseek(source, 0, os.SEEK_SET)
        os.sendfile(fd, source, 0, 8)
        os.close(source)


def test_many_readers_and_a_writer(layers: Layers, subject: Driver) -> None:
    """Every file is opened for reading, by path and again by descriptor, before and after each is opened for writing."""
    for number in range(50):
        (layers.lowers[0] / f"f{number}").write_bytes(f"lower {number}".encode())
    with subject.mount(layers) as mnt:
        held = [os.open(mnt / f"f{number}", os.O_RDONLY) for number in range(50)]
        for number in range(0, 50, 2):
            with open(mnt / f"f{number}", "r+b") as file:
                file.write(b"UPPER")
        held += [os.open(mnt / f"f{number}", os.O_RDONLY) for number in range(50)]
        contents = [os.pread(fd, 100, 0) for fd in held]
        for fd in held:
            os.close(fd)
    wanted = [f"{'UPPER' if number % 2 == 0 else 'lower'} {number}".encode() for number in range(50)]
    assert contents == wanted * 2


def test_a_write_through_a_hard_links_name_survives_a_remount(layers: Layers, subject: Driver) -> None:
    (layers.lowers[0] / "one").write_bytes(b"shared")
    os.link(layers.lowers[0] / "one", layers.lowers[0] / "two")
    with subject.mount(layers) as mnt:
        (mnt / "two").write_bytes(b"written through two")
        before = snapshot(mnt)
    with subject.mount(layers) as mnt:
        assert (mnt / "two").read_bytes() == b"written through two"
        assert diff(before, snapshot(mnt)) == []


@pytest.mark.parametrize("scratch", ["xfs", "btrfs", "tmpfs"], indirect=True)
def test_upper_on_another_filesystem(layers: Layers, subject: Driver) -> None:
    """Whatever the filesystem of the layers: copy-up with holes, whiteouts, opaque directories, temporary files."""
    lower = layers.lowers[0]
    (lower / "d/e").mkdir(parents=True)
    for name in ("d/f", "d/e/g", "h"):
        (lower / name).write_bytes(name.encode() * 1000)
    with open(lower / "sparse", "wb") as file:
        file.truncate(32 << 20)
    os.setxattr(lower / "h", "trusted.kept", b"yes")
    with subject.mount(layers) as mnt:
        (mnt / "h").chmod(0o600)
        with open(mnt / "sparse", "r+b") as file:
            file.write(b"start")
        assert (mnt / "sparse").stat().st_blocks <= 2048 * 2
        (mnt / "d/f").unlink()
        (mnt / "d/e/g").unlink()
        (mnt / "d/e").rmdir()
        (mnt / "d/e").mkdir()
        temporary = os.open(mnt, os.O_TMPFILE | os.O_RDWR)
        os.write(temporary, b"temporary")
        assert os.pread(temporary, 20, 0) == b"temporary"
        os.close(temporary)
        assert os.getxattr(mnt / "h", "trusted.kept") == b"yes"
        before = snapshot(mnt)
    assert sorted(before) == [".", "d", "d/e", "h", "sparse"]
    with subject.mount(layers) as mnt:
        assert diff(before, snapshot(mnt)) == []
