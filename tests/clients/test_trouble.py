"""Trouble: what is left when the disk is full, the server is killed or the caller gives up in the middle of a copy-up?"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.command import in_foreground
from tests.support.mounts import Kernel, Layers, Options, Unionfs
from tests.support.trees import snapshot

MEBIBYTE = 1 << 20

BIG = 192 * MEBIBYTE
"""Bytes of a file whose copy-up takes long enough for something to happen in the middle of it."""


def big_file(path: Path, size: int = BIG) -> str:
    """Writes a file of random blocks and returns its SHA-256."""
    block = os.urandom(MEBIBYTE)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(size // MEBIBYTE):
            data = block[number:] + block[:number]
            file.write(data)
            digest.update(data)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_for_writing(path: Path) -> subprocess.Popen[bytes]:
    """A process that opens the file for writing, appends one byte and ends."""
    program = "import sys; file = open(sys.argv[1], 'ab'); file.write(b'!'); file.close()"
    return subprocess.Popen([sys.executable, "-c", program, str(path)], stderr=subprocess.DEVNULL)


def staged(layers: Layers) -> list[str]:
    """What lies in the staging directory below the work directory, without the whiteout that all others are links of."""
    assert layers.work is not None
    with os.scandir(layers.work / "work") as entries:
        return [entry.name for entry in entries if not stat.S_ISCHR(entry.stat(follow_symlinks=False).st_mode)]


@contextmanager
def small_filesystem(layers: Layers, megabytes: int) -> Iterator[Layers]:
    """The layers with upper and work on a tmpfs of their own."""
    base = layers.mnt.parent / "small"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(base)], check=True)
    try:
        for name in ("upper", "work"):
            (base / name).mkdir()
        yield Layers(layers.lowers, base / "upper", base / "work", layers.mnt)
    finally:
        subprocess.run(["umount", str(base)], check=True)


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["auto", "served"])
def test_no_space_for_a_copy_up(options: Options, layers: Layers) -> None:
    """It fails with ENOSPC, leaves nothing in upper and work, and everything else goes on."""
    (layers.lowers[0] / "directory").mkdir()
    digest = big_file(layers.lowers[0] / "directory" / "big", 24 * MEBIBYTE)
    with small_filesystem(layers, 8) as small, Unionfs().mount(small, options) as mnt:
        big = mnt / "directory" / "big"
        for _ in range(3):
            with pytest.raises(OSError, match="No space") as failed:
                open(big, "ab").close()
            assert failed.value.errno == errno.ENOSPC
        assert staged(small) == []
        assert not (small.top / "directory" / "big").exists()
        assert digest_of(big) == digest
        (mnt / "small").write_bytes(b"fits")
        with open(big, "wb") as file:
            file.write(b"truncated, so that nothing has to be copied")
        assert big.read_bytes().startswith(b"truncated")
        with pytest.raises(OSError, match="No space"):
            (mnt / "filler").write_bytes(bytes(16 * MEBIBYTE))
        (mnt / "filler").unlink()
        (mnt / "small").write_bytes(b"still fits")


@pytest.mark.parametrize("delay", [0.005, 0.02, 0.05, 0.1])
def test_killed_in_a_copy_up(delay: float, layers: Layers) -> None:
    """At any instant the upper holds all of the file or none of it, and the next mount cleans up."""
    digest = big_file(layers.lowers[0] / "big")
    with in_foreground(layers) as server:
        writer = open_for_writing(layers.mnt / "big")
        time.sleep(delay)
        server.kill()
        server.wait()
        writer.wait(20)
        subprocess.run(["umount", str(layers.mnt)], check=True)
    if (layers.top / "big").exists():
        assert (layers.top / "big").stat().st_size in (BIG, BIG + 1)
    for driver in (Kernel(), Unionfs()):
        with driver.mount(layers) as mnt:
            assert sorted(os.listdir(mnt)) == ["big"]
            with open(mnt / "big", "rb") as file:
                assert hashlib.sha256(file.read(BIG)).hexdigest() == digest
    assert staged(layers) == []


def test_the_caller_gives_up_in_a_copy_up(layers: Layers) -> None:
    """The writer is killed while it waits; whatever became of the copy, the file is right and can be written to."""
    digest = big_file(layers.lowers[0] / "big")
    with Unionfs().mount(layers) as mnt:
        for _ in range(5):
            writer = open_for_writing(mnt / "big")
            time.sleep(0.06)
            writer.send_signal(signal.SIGKILL)
            writer.wait(20)
            with open(mnt / "big", "rb") as file:
                assert hashlib.sha256(file.read(BIG)).hexdigest() == digest
        assert open_for_writing(mnt / "big").wait(60) == 0
        assert (mnt / "big").stat().st_size > BIG
    assert staged(layers) == []


@pytest.mark.both_bindings
def test_others_go_on_during_a_copy_up(layers: Layers) -> None:
    """A big file is copied in the background of the others' requests: the server does not wait for the disk."""
    big_file(layers.lowers[0] / "big", 3 * BIG)
    for number in range(50):
        (layers.lowers[0] / f"file{number}").write_bytes(b"")
    with Unionfs().mount(layers, {"fsync": "strict"}) as mnt:
        writer = open_for_writing(mnt / "big")
        longest, during = 0.0, 0
        while writer.poll() is None:
            began = time.monotonic()
            assert not os.path.lexists(mnt / f"missing{during}")
            (mnt / f"new{during}").mkdir()
            longest = max(longest, time.monotonic() - began)
            during += 1
        assert writer.returncode == 0
        assert during > 5
        assert longest < 5


@pytest.mark.both_bindings
def test_races_for_one_copy_up(layers: Layers) -> None:
    """Many writers, a renamer and a remover meet at files that have to be copied up; every append must survive."""
    for number in range(30):
        directory = layers.lowers[0] / "a" / "b" / f"c{number}"
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"x" * 200_000)
    failures: list[str] = []

    def append(path: Path, mark: bytes) -> None:
        try:
            with open(path, "ab", buffering=0) as file:
                file.write(mark)
        except OSError as error:
            failures.append(f"{path}: {error}")

    with Unionfs().mount(layers) as mnt:
        for number in range(30):
            path = mnt / "a" / "b" / f"c{number}" / "file"
            threads = [threading.Thread(target=append, args=(path, b"%d" % mark)) for mark in range(8)]
            threads.append(threading.Thread(target=path.parent.chmod, args=(0o700,)))
            threads.append(threading.Thread(target=os.utime, args=(path, (1, 2))))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert failures == []
            assert sorted(path.read_bytes()[200_000:]) == sorted(b"01234567")
            renamed = path.with_name("renamed")
            writer = threading.Thread(target=append, args=(renamed, b"+"))
            path.rename(renamed)
            writer.start()
            os.replace(renamed, path)
            writer.join(30)
            assert failures == []
            # The writer opened the file under its second name, or made a new one of that name.
            appended = path.read_bytes()[200_000:] + (renamed.read_bytes() if renamed.exists() else b"")
            assert sorted(appended) == sorted(b"01234567+")
        live = snapshot(mnt)
    with Kernel().mount(layers) as mnt:
        below = snapshot(mnt)
    contents = [{name: record.digest for name, record in tree.items()} for tree in (live, below)]
    assert contents[0] == contents[1]
