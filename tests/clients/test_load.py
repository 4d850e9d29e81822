"""Load: does everything stay right while many processes work on the mount at once, and under fio and stress-ng?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounts import Kernel, Layers, Options, Unionfs
from tests.support.trees import Tree, diff, snapshot

PROCESSES = 8

HAMMER = r"""
import os, random, sys
root, me, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(me)
own = os.path.join(root, f"own{me}")
expected = {}
for name in os.listdir(own):
    expected[name] = open(os.path.join(own, name), "rb").read()
log = os.open(os.path.join(root, "log"), os.O_WRONLY | os.O_APPEND)
for step in range(400):
    name = f"f{random.randrange(40)}"
    path = os.path.join(own, name)
    action = random.randrange(7)
    if action == 0 and name in expected:
        os.unlink(path)
        del expected[name]
    elif action == 1 and name in expected:
        other = f"f{random.randrange(40)}"
        os.rename(path, os.path.join(own, other))
        expected[other] = expected.pop(name)
    elif action == 2 and name in expected:
        with open(path, "ab") as file:
            file.write(b"%d." % step)
        expected[name] += b"%d." % step
    elif action == 3:
        data = os.urandom(random.randrange(20000))
        with open(path, "wb") as file:
            file.write(data)
        expected[name] = data
    elif action == 4:
        assert sorted(os.listdir(own)) == sorted(expected), (step, sorted(os.listdir(own)), sorted(expected))
    elif action == 5 and name in expected:
        assert open(path, "rb").read() == expected[name], (step, name)
        assert os.stat(path).st_size == len(expected[name])
    else:
        assert os.path.lexists(path) == (name in expected), (step, name)
        os.write(log, b"%d %d\n" % (me, step))
        shared = os.path.join(root, "shared", f"s{random.randrange(10)}")
        try:
            if random.randrange(2):
                os.close(os.open(shared, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            else:
                os.unlink(shared)
        except (FileExistsError, FileNotFoundError):
            pass
for name, data in expected.items():
    assert open(os.path.join(own, name), "rb").read() == data, name
assert sorted(os.listdir(own)) == sorted(expected)
"""

JOB = """
[global]
directory={directory}
size=24m
verify=crc32c
verify_fatal=1
verify_dump=0
group_reporting=1
fallocate=none
{engine}

[sequential]
rw=write
bs=64k

[random]
stonewall
rw=randwrite
bs=4k

[mixed]
stonewall
rw=randrw
{blocks}
numjobs=2
size=8m
"""

DIRECT = "ioengine=libaio\ndirect=1\niodepth=8"

STRESSORS = (
    ("access", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany"),
    ("dup", "fallocate", "fcntl", "file-ioctl", "filename", "flock", "fpunch", "fsize"),
    ("fstat", "getdent", "handle", "hdd", "inotify", "io", "iomix", "lease"),
    ("link", "locka", "lockf", "lockofd", "mmap", "open", "readahead"),
    ("rename", "revio", "seek", "sendfile", "splice", "symlink", "sync-file", "touch"),
    ("chdir", "dnotify", "fiemap", "mmapaddr", "msync", "utime", "xattr"),
)
"""What stress-ng does at once: every one works on files, and checks its own results under --verify."""

NOT_IMPLEMENTED = 4
"""Exit status of stress-ng when one of the stressors found that this filesystem lacks what it needs (fiemap)."""


@pytest.fixture
def hammered(layers: Layers) -> Layers:
    """A lower layer with a directory of each process, one for all of them and a log."""
    lower = layers.lowers[0]
    for process in range(PROCESSES):
        own = lower / f"own{process}"
        own.mkdir()
        for number in range(0, 40, 2):
            (own / f"f{number}").write_bytes(os.urandom(3000))
    (lower / "shared").mkdir()
    for number in range(0, 10, 2):
        (lower / "shared" / f"s{number}").write_bytes(b"")
    (lower / "log").write_bytes(b"")
    return layers


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}, {"timeout": "0"}], ids=["auto", "served", "uncached"])
def test_many_processes_at_once(options: Options, hammered: Layers) -> None:
    with Unionfs().mount(hammered, options) as mnt:
        workers = [
            subprocess.Popen([sys.executable, "-c", HAMMER, str(mnt), str(number), str(PROCESSES)])
            for number in range(PROCESSES)
        ]
        assert [worker.wait(120) for worker in workers] == [0] * PROCESSES
        lines = (mnt / "log").read_text().splitlines()
        assert all(len(line.split()) == 2 for line in lines)
        for number in range(PROCESSES):
            steps = [int(line.split()[1]) for line in lines if line.split()[0] == str(number)]
            assert steps
            assert steps == sorted(steps)
        live = snapshot(mnt)
    with Kernel().mount(hammered) as mnt:
        assert diff(without_links(live), without_links(snapshot(mnt))) == []


def without_links(tree: Tree) -> Tree:
    """The tree without link counts of directories, which the oracle tests define."""
    return {name: record.without(["nlink"] if record.type == "dir" else []) for name, record in tree.items()}


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        ("ioengine=psync", {}),
        ("ioengine=mmap", {}),
        (DIRECT, {}),
        (DIRECT, {"passthrough": "off"}),
        ("ioengine=psync", {"passthrough": "off"}),
        ("ioengine=mmap", {"passthrough": "off"}),
        ("ioengine=psync", {"passthrough": "off", "writeback": "0"}),
    ],
    ids=["psync", "mmap", "direct", "served-direct", "served", "served-mmap", "served-writethrough"],
)
def test_fio_verifies_what_it_wrote(engine: str, options: Options, layers: Layers, scratch: Path) -> None:
    """Of files that fio makes, and of files that are copied up when it opens them."""
    for name in ("sequential.0.0", "random.0.0"):
        (layers.lowers[0] / name).write_bytes(os.urandom(24 << 20))
    job = scratch / "job.fio"
    with Unionfs().mount(layers, options) as mnt:
        blocks = "bsrange=4k-32k" if engine == DIRECT else "bsrange=512-32k\nbs_unaligned=1"
        job.write_text(JOB.format(directory=mnt, engine=engine, blocks=blocks))
        done = subprocess.run(["fio", str(job)], cwd=scratch, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "err= 0" in done.stdout
        assert "verify:" not in done.stderr


@pytest.mark.parametrize("options", [{}, {"passthrough": "off"}], ids=["auto", "served"])
@pytest.mark.parametrize("stressors", STRESSORS, ids=lambda names: names[0])
def test_stress_ng(stressors: tuple[str, ...], options: Options, layers: Layers, scratch: Path) -> None:
    flags = [word for name in stressors for word in (f"--{name}", "1")]
    extra = ["--mmap-file"] if "mmap" in stressors else []
    with Unionfs().mount(layers, options) as mnt:
        done = subprocess.run(
            ["stress-ng", "--temp-path", str(mnt), "--verify", "--timeout", "3", *flags, *extra],
            capture_output=True, text=True, timeout=120, check=False, cwd=scratch,
        )  # fmt: skip
        assert done.returncode in (0, NOT_IMPLEMENTED), done.stdout[-3000:] + done.stderr[-3000:]
        assert " fail: " not in done.stdout + done.stderr
        assert os.listdir(mnt) == []
