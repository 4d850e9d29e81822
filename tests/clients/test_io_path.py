"""The path of I/O: does file data really bypass the server, and is a lower file safe whoever has it open?"""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.command import in_foreground
from tests.clients.request_log import RequestLog
from tests.support.mounts import Layers, Options, Unionfs

MEGABYTE = 1 << 20


@pytest.fixture
def log(scratch: Path) -> RequestLog:
    path = scratch / "requests.log"
    path.touch()
    return RequestLog(path)


def test_an_upper_files_data_never_comes_to_the_server(layers: Layers, log: RequestLog) -> None:
    """Created, written, appended to, mapped, spliced and read through several descriptors: no READ and no WRITE."""
    (layers.top / "old").write_bytes(os.urandom(MEGABYTE))
    with in_foreground(layers, flags=("-f", "-d"), log=log.path):
        log.skip()
        data = os.urandom(MEGABYTE)
        (layers.mnt / "new").write_bytes(data)
        assert (layers.mnt / "new").read_bytes() == data
        with open(layers.mnt / "new", "ab", buffering=0) as appended, open(layers.mnt / "new", "rb") as reader:
            appended.write(b"tail")
            reader.seek(MEGABYTE)
            assert reader.read() == b"tail"
        with open(layers.mnt / "old", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), MEGABYTE) as mapped:
            mapped[4096:4100] = b"map!"
            mapped.flush()
            assert os.pread(file.fileno(), 4, 4096) == b"map!"
            file.write(b"start")
        with open(layers.mnt / "old", "rb") as source, open(layers.mnt / "sent", "wb") as target:
            assert os.sendfile(target.fileno(), source.fileno(), 0, MEGABYTE) == MEGABYTE
        subprocess.run(["cmp", str(layers.mnt / "old"), str(layers.mnt / "sent")], check=True)
        requests = log.count()
    assert requests["CREATE"] == 2
    assert requests["OPEN"] >= 5
    assert requests["READ"] == requests["WRITE"] == 0
    assert (layers.top / "new").read_bytes() == data + b"tail"
    assert (layers.top / "sent").read_bytes()[:5] == b"start"


def test_a_file_is_settled_once_it_is_copied_up(layers: Layers, log: RequestLog) -> None:
    (layers.lowers[0] / "file").write_bytes(os.urandom(MEGABYTE))
    with in_foreground(layers, flags=("-f", "-d"), log=log.path):
        with open(layers.mnt / "file", "r+b", buffering=0) as file:
            log.skip()
            for position in range(0, MEGABYTE, 4096):
                os.pwrite(file.fileno(), b"new", position)
        (layers.mnt / "file").read_bytes()
        requests = log.count()
    assert requests["READ"] == requests["WRITE"] == 0


def test_small_lower_files_come_with_the_open(layers: Layers, log: RequestLog) -> None:
    contents = {f"file{number}": os.urandom(number * 40) for number in range(1, 50)}
    for name, data in contents.items():
        (layers.lowers[0] / name).write_bytes(data)
    with in_foreground(layers, flags=("-f", "-d"), log=log.path):
        log.skip()
        for _ in range(2):
            assert {name: (layers.mnt / name).read_bytes() for name in contents} == contents
        requests = log.count()
    assert requests["OPEN"] >= len(contents)
    assert requests["READ"] == 0


def test_without_passthrough_data_is_cached(layers: Layers, log: RequestLog) -> None:
    """The second reading of a file makes no READ, whichever layer it is on."""
    for layer in (layers.lowers[0], layers.top):
        (layer / f"in-{layer.name}").write_bytes(os.urandom(MEGABYTE))
    with in_foreground(layers, {"passthrough": "off"}, ("-f", "-d"), log.path):
        for times in range(2):
            log.skip()
            for layer in (layers.lowers[0], layers.top):
                name = f"in-{layer.name}"
                assert (layers.mnt / name).read_bytes() == (layer / name).read_bytes()
            assert bool(log.count()["READ"]) == (times == 0)


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}, {"lower_io": "cached"}], ids=["auto", "off", "cached"])
def test_a_lower_file_read_by_one_and_written_by_another(options: Options, layers: Layers) -> None:
    """The reader's descriptor sees the new data after the copy-up, its old mapping the old; the lower never changes."""
    old, new = os.urandom(MEGABYTE), os.urandom(MEGABYTE)
    for name in ("data", "program.so"):
        (layers.lowers[0] / name).write_bytes(old)
        (layers.lowers[0] / name).chmod(0o755)
    with Unionfs().mount(layers, options) as mnt:
        for name in ("data", "program.so"):
            with open(mnt / name, "rb", buffering=0) as reader:
                assert os.pread(reader.fileno(), MEGABYTE, 0) == old
                with open(mnt / name, "r+b", buffering=0) as writer:
                    assert writer.write(new) == MEGABYTE
                    assert os.pread(reader.fileno(), MEGABYTE, 0) == new
                    os.ftruncate(writer.fileno(), 10)
                    assert os.fstat(reader.fileno()).st_size == 10
                    assert os.pread(reader.fileno(), MEGABYTE, 0) == new[:10]
                with open(mnt / name, "rb") as another:
                    assert another.read() == new[:10]
            assert (mnt / name).read_bytes() == new[:10]
            assert (layers.top / name).read_bytes() == new[:10]


def test_a_running_program_is_replaced(layers: Layers) -> None:
    """A program of the lower layer goes on running while it is written to, renamed over and removed."""
    subprocess.run(["cp", "-L", "/bin/sleep", str(layers.lowers[0] / "sleep")], check=True)
    with Unionfs().mount(layers) as mnt:
        running = subprocess.Popen([str(mnt / "sleep"), "1"])
        data = (mnt / "sleep").read_bytes()
        (mnt / "new").write_bytes(data)
        (mnt / "new").chmod(0o755)
        (mnt / "new").rename(mnt / "sleep")
        assert subprocess.run([str(mnt / "sleep"), "0"], check=False).returncode == 0
        (mnt / "sleep").unlink()
        assert running.wait(20) == 0
    assert os.listdir(layers.top) == ["sleep"]
