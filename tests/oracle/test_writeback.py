"""Writes held back: without passthrough the kernel collects what is written; does nobody see anything of it, and is nothing lost?

What can be compared with the kernel's overlayfs is, by random sequences too; the rest is said here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.command import PATIENCE, in_foreground, wait_for
from tests.clients.request_log import RequestLog
from tests.clients.test_trouble import small_filesystem
from tests.oracle import ops
from tests.oracle.actor import Actor, Fd, perform
from tests.oracle.case import Builder, Steps
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Kernel, Layers, Options, Unionfs, is_mounted
from tests.support.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    RENAME_EXCHANGE,
    capability,
    fallocate,
    renameat2,
    sync_file_range,
)
from tests.support.trees import extents_of_fd, snapshot

PAGE = mmap.PAGESIZE
MEBIBYTE = 1 << 20
SERVED: Options = {"passthrough": "off"}
AT_ONCE: Options = {"passthrough": "off", "writeback": "0"}
LONG_AGO_NS = 1_000_000_000_000_000_007
CHANGES = 120
REMOUNT = ["mount", "-i", "-o", "remount,ro"]
"""mount(8) by itself, without the command of that file system type."""


@pytest.mark.parametrize(("options", "few"), [(SERVED, True), ({**SERVED, "writeback": "1"}, True), (AT_ONCE, False)])
def test_small_writes_are_collected(options: Options, few: bool, layers: Layers, scratch: Path) -> None:
    log = RequestLog(scratch / "log")
    with in_foreground(layers, options, ("-f", "-d"), log.path):
        with open(layers.mnt / "file", "wb", buffering=0) as file:
            for _ in range(256):
                file.write(bytes(PAGE))
        assert (layers.top / "file").stat().st_size == 256 * PAGE
        writes = log.count()["WRITE"]
    assert writes < 10 if few else writes == 256


def test_with_passthrough_there_is_nothing_to_collect(layers: Layers) -> None:
    with Unionfs().mount(layers, {"writeback": "1", "passthrough": "on"}) as mnt, open(mnt / "file", "wb", buffering=0) as file:
        file.write(b"at once")
        assert (layers.top / "file").read_bytes() == b"at once"


def written(path: Path, flags: int = os.O_WRONLY) -> None:
    ops.write(str(path), b"changed", flags)


def stored(path: Path, data: bytes = b"stored", after: Callable[[], None] = lambda: None) -> None:
    """A store into a mapping that outlives its descriptor, and nothing said of it."""
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, PAGE) as mapping:
        os.close(fd)
        mapping[: len(data)] = data
        after()
        mapping[PAGE - len(data) :] = data


def dated(path: Path) -> None:
    os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS))


def in_turn(path: Path, *changes: Callable[[Path], None]) -> None:
    for change in changes:
        change(path)


def through(path: Path, *calls: Callable[[int], object]) -> None:
    """Calls on one descriptor for reading and writing."""
    fd = os.open(path, os.O_RDWR)
    try:
        for call in calls:
            call(fd)
    finally:
        os.close(fd)


def put(fd: int) -> None:
    os.pwrite(fd, b"put", 100)


def dated_fd(fd: int) -> None:
    os.utime(fd, ns=(LONG_AGO_NS, LONG_AGO_NS))


def twice(path: Path) -> None:
    """Two descriptors, one closed long before the other."""
    with open(path, "r+b", buffering=0) as one:
        with open(path, "ab", buffering=0) as other:
            other.write(b"other")
        one.write(b"one")


def copied_into(path: Path) -> None:
    with open(path.parent / "source", "rb") as source:
        through(path, lambda fd: os.copy_file_range(source.fileno(), fd, 3000, 0, 10))


WAYS: dict[str, Callable[[Path], None]] = {
    "write": written,
    "append": lambda path: written(path, os.O_WRONLY | os.O_APPEND),
    "truncating open": lambda path: written(path, os.O_WRONLY | os.O_TRUNC),
    "truncating open alone": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "truncation": lambda path: os.truncate(path, 3),
    "truncation of a dirty file": lambda path: through(path, put, lambda fd: os.ftruncate(fd, 50), put),
    "write and date": lambda path: in_turn(path, written, dated),
    "write and date at once": lambda path: through(path, put, dated_fd),
    "date and write": lambda path: through(path, dated_fd, put),
    "mapping": stored,
    "mapping and date": lambda path: in_turn(path, stored, dated),
    "date while mapped": lambda path: stored(path, after=lambda: dated(path)),
    "sync and write": lambda path: through(path, put, os.fsync, put),
    "data alone written out": lambda path: through(path, put, os.fsync, put, lambda fd: sync_file_range(fd, 0, PAGE), put),
    "two descriptors": twice,
    "allocation": lambda path: through(path, put, lambda fd: fallocate(fd, 0, 0, 100_000)),
    "hole": lambda path: through(path, put, lambda fd: fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), put),
    "copy": copied_into,
    "chmod of a dirty file": lambda path: through(path, put, lambda fd: os.fchmod(fd, 0o600)),
    "rename of a dirty file": lambda path: through(path, put, lambda fd: os.rename(path, f"{path}.new"), put),
    "link to a dirty file": lambda path: through(path, put, lambda fd: os.link(path, f"{path}.new"), put),
    "synchronous write": lambda path: written(path, os.O_WRONLY | os.O_SYNC),
    "direct write": lambda path: through(path, put, lambda fd: direct(path)),
    "much": lambda path: through(path, *[lambda fd, at=at: os.pwrite(fd, bytes(MEBIBYTE), at * MEBIBYTE) for at in range(24)]),
}


DATED = {"write and date", "write and date at once", "mapping and date"}
"""Those that end with a time being set."""


def direct(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        ops.direct_write(fd, b"D", PAGE)
    finally:
        os.close(fd)


@pytest.mark.parametrize("where", ["lower", "upper", "new"])
def test_times_and_data_are_the_same_after_a_remount(where: str, layers: Layers) -> None:
    for number, name in enumerate(WAYS):
        for place in (layers.lowers[0], layers.top):
            (place / str(number)).mkdir(exist_ok=True)
        (layers.lowers[0] / str(number) / "source").write_bytes(b"source" * 1000)
        if where != "new":
            base = layers.top if where == "upper" else layers.lowers[0]
            (base / str(number) / "f").write_bytes(name.encode() * 1000)
            os.utime(base / str(number) / "f", ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
    with Unionfs().mount(layers, SERVED) as mnt:
        for number, (name, change) in enumerate(WAYS.items()):
            if where == "new":
                (mnt / str(number) / "f").write_bytes(name.encode() * 1000)
            change(mnt / str(number) / "f")
        left = snapshot(mnt)
    with Unionfs().mount(layers, SERVED) as mnt:
        found = snapshot(mnt)
    different = {path: (before, found[path]) for path, before in left.items() if before != found[path]}
    assert not different
    dates = {name: left[f"{number}/f"].mtime_ns for number, name in enumerate(WAYS) if f"{number}/f" in left}
    assert {name for name, date in dates.items() if date == LONG_AGO_NS} == DATED


def fill_holes(layers: Layers, b: Builder) -> None:
    b.upper.sparse("upper", 4 * MEBIBYTE, {MEBIBYTE: b"data"})


def look_for_holes(a: Actor) -> None:
    """By descriptors for reading and for writing, before and after writes that nobody has synced."""
    for name in ("upper", "new"):
        fd = a.fd(name, os.O_RDWR | os.O_CREAT)
        reader = a.fd(name, os.O_RDONLY)
        for call, *arguments in (
            (os.fstat,),
            (ops.write_fd, b"x" * 3 * PAGE, 2 * MEBIBYTE),
            (os.ftruncate, 4 * MEBIBYTE),
            (ops.map_write, b"mapped", 3 * MEBIBYTE),
            (ops.write_fd, b"x" * PAGE, 6 * MEBIBYTE),
            (ops.punch, 2 * MEBIBYTE, PAGE),
            (os.ftruncate, 7 * MEBIBYTE),
        ):
            call(fd, *arguments)
            for descriptor in (fd, reader):
                for offset in (0, MEBIBYTE, 2 * MEBIBYTE, 2 * MEBIBYTE + 3 * PAGE, 6 * MEBIBYTE, 8 * MEBIBYTE):
                    a(ops.seek, descriptor, offset, os.SEEK_DATA)
                    a(ops.seek, descriptor, offset, os.SEEK_HOLE)
            a(ops.read_fd, reader, 2 * MEBIBYTE, 4 * PAGE)
        a(ops.digest, name)
        os.close(fd)
        a(ops.extents, name)


@pytest.mark.parametrize("ours", [SERVED, AT_ONCE], ids=["held back", "at once"])
def test_holes_of_a_file_that_is_being_written(ours: Options, make_layers: LayersFactory, subject: Driver) -> None:
    answers, expected = both(make_layers, subject, fill_holes, look_for_holes, ours=ours)
    assert answers == expected


def keep_capabilities(a: Actor) -> None:
    """A write takes the capability away that the file has, not one that it gets before the data are on their way."""
    for name, give_before, give_after in (("f", True, False), ("g", False, True), ("h", True, True)):
        if give_before:
            a(os.setxattr, name, "security.capability", capability(1 << 13))
        fd = a.fd(name, os.O_RDWR)
        a(ops.write_fd, fd, b"new")
        a(os.listxattr, name)
        if give_after:
            a(os.setxattr, name, "security.capability", capability(1 << 12))
        a(ops.map_write, fd, b"mapped", 10)
        a(os.fsync, fd)
        a(os.listxattr, name)
        os.close(fd)
        a(ops.xattrs, name)


def test_capabilities(make_layers: LayersFactory, subject: Driver) -> None:
    def fill(layers: Layers, b: Builder) -> None:
        for name in ("f", "g", "h"):
            b.lower().file(name, b"content" * 1000, 0o755)

    answers, expected = both(make_layers, subject, fill, keep_capabilities, ours=SERVED)
    assert answers == expected


def test_a_removal_copies_nothing_up(layers: Layers) -> None:
    """With every change of its names the kernel tells a file's times, of a lower one, too."""
    for name in ("removed", "replaced", "open", "one"):
        (layers.lowers[0] / name).write_bytes(bytes(100_000))
    os.link(layers.lowers[0] / "one", layers.lowers[0] / "other")
    with Unionfs().mount(layers, SERVED) as mnt:
        (mnt / "removed").unlink()
        (mnt / "new").write_bytes(b"new")
        (mnt / "new").rename(mnt / "replaced")
        (mnt / "one").unlink()
        with open(mnt / "open", "rb") as file:
            (mnt / "open").unlink()
            assert len(file.read()) == 100_000
    assert {path.name for path in layers.top.iterdir() if path.is_file()} == {"replaced"}
    assert {path.name for path in layers.top.iterdir() if path.is_char_device()} == {"removed", "open", "one"}


def test_a_file_without_names(layers: Layers) -> None:
    (layers.lowers[0] / "f").write_bytes(b"below" * 1000)
    with Unionfs().mount(layers, SERVED) as mnt, open(mnt / "f", "r+b", buffering=0) as file:
        file.write(b"before")
        (mnt / "f").unlink()
        file.write(b"after")
        with mmap.mmap(file.fileno(), PAGE) as mapping:
            mapping[100:106] = b"mapped"
        os.fsync(file.fileno())
        os.utime(file.fileno(), ns=(LONG_AGO_NS, LONG_AGO_NS))
        os.ftruncate(file.fileno(), 3000)
        assert os.pread(file.fileno(), 106, 0) == (b"beforeafter" + (b"below" * 1000)[11:100] + b"mapped")
        assert (os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_nlink) == (3000, 0)


def no_space(call: Callable[..., object], *arguments: object) -> bool:
    """Does a call fail for want of space?"""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return True
    return False


def test_a_full_disk_is_told_by_close_or_fsync(layers: Layers) -> None:
    """And what did not fit is not shown afterwards as if it were there."""
    with small_filesystem(layers, 8) as small, Unionfs().mount(small, SERVED) as mnt:
        for last in (os.close, os.fsync):
            fd = os.open(mnt / "f", os.O_CREAT | os.O_RDWR)
            for number in range(12):
                os.pwrite(fd, b"x" * MEBIBYTE, number * MEBIBYTE)
            assert no_space(last, fd)
            if last is os.fsync:
                assert os.pread(fd, 10, 0) == b"x" * 10
                os.close(fd)
            wait_for(lambda: (mnt / "f").stat().st_size == (small.top / "f").stat().st_size, "the size that the file has")
            assert (mnt / "f").read_bytes() == (small.top / "f").read_bytes()
            (mnt / "f").unlink()
        (mnt / "g").write_bytes(b"fits")
    assert (layers.mnt.parent / "small").is_dir()


def test_a_full_disk_is_told_by_write_where_nothing_is_held_back(layers: Layers) -> None:
    with small_filesystem(layers, 8) as small, Unionfs().mount(small, AT_ONCE) as mnt:
        fd = os.open(mnt / "f", os.O_CREAT | os.O_RDWR)
        assert [no_space(os.pwrite, fd, b"x" * MEBIBYTE, number * MEBIBYTE) for number in range(12)][-1]
        os.close(fd)


def test_what_the_filesystem_cannot_hold(layers: Layers) -> None:
    with Unionfs().mount(layers, SERVED) as mnt:
        fd = os.open(mnt / "f", os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, b"kept", 0)
        os.pwrite(fd, b"x", 1 << 62)
        with pytest.raises(OSError, match="Input/output error"):
            os.close(fd)
        wait_for(lambda: (mnt / "f").stat().st_size == (layers.top / "f").stat().st_size, "the size that the file has")
        assert (mnt / "f").read_bytes().rstrip(b"\0") == b"kept"


def test_nothing_closed_is_lost_with_the_server(layers: Layers) -> None:
    (layers.lowers[0] / "mapped").write_bytes(bytes(PAGE))
    with in_foreground(layers, SERVED) as server:
        for number in range(20):
            (layers.mnt / str(number)).write_bytes(b"%d" % number * 10_000)
        stored(layers.mnt / "mapped")
        server.kill()
        server.wait()
        subprocess.run(["umount", str(layers.mnt)], check=True)
    assert [(layers.top / str(number)).read_bytes() for number in range(20)] == [b"%d" % number * 10_000 for number in range(20)]
    assert (layers.top / "mapped").read_bytes()[:6] == b"stored"


def test_a_server_that_is_told_to_end_has_open_files_written(layers: Layers) -> None:
    with in_foreground(layers, SERVED) as server:
        fd = os.open(layers.mnt / "f", os.O_CREAT | os.O_WRONLY)
        try:
            os.write(fd, b"x" * 3 * MEBIBYTE)
            server.send_signal(signal.SIGTERM)
            wait_for(lambda: not is_mounted(layers.mnt), "the end of the mount")
            os.write(fd, b"y" * MEBIBYTE)
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
    assert (layers.top / "f").read_bytes() == b"x" * 3 * MEBIBYTE + b"y" * MEBIBYTE


def test_remounted_read_only(layers: Layers) -> None:
    """What is dirty goes out first; and with a writer the mount stays as it is."""
    (layers.lowers[0] / "f").write_bytes(bytes(PAGE))
    with Unionfs().mount(layers, SERVED) as mnt:
        with open(mnt / "f", "r+b", buffering=0) as file:
            file.write(b"written")
            assert subprocess.run([*REMOUNT, str(mnt)], capture_output=True, check=False).returncode != 0
        subprocess.run([*REMOUNT, str(mnt)], check=True)
        assert (layers.top / "f").read_bytes()[:7] == b"written"
        assert (mnt / "f").read_bytes()[:7] == b"written"


NAMES = ("a", "b", "c", "d")


def random_changes(seed: int) -> Steps:
    """Random calls on four files, each of which may be open twice; what is read is recorded at once."""

    def steps(a: Actor) -> None:
        chance = random.Random(seed)
        fds = [a.fd(chance.choice(NAMES), os.O_RDWR | os.O_CREAT) for _ in range(4)]
        for _ in range(CHANGES):
            change(a, chance, fds)
        for fd in fds:
            os.close(fd)
        for name in NAMES:
            a(ops.digest, name)

    return steps


def data_by_extents(fd: int) -> str:
    """A digest of the pages that are not zero, found by looking for data alone; where holes are is the filesystem's business."""
    digest = hashlib.sha256()
    for start, end in extents_of_fd(fd, os.fstat(fd).st_size):
        for offset in range(start // PAGE * PAGE, end, PAGE):
            page = os.pread(fd, PAGE, offset).rstrip(b"\0")
            if page:
                digest.update(b"%d:" % offset + page)
    return digest.hexdigest()


def change(a: Actor, chance: random.Random, fds: list[Fd]) -> None:
    """One random call."""
    number = chance.randrange(len(fds))
    fd = fds[number]
    offset = chance.choice((0, 10, PAGE - 3, 3 * PAGE, 100_000, MEBIBYTE + 5, (1 << 32) + 7))
    size = chance.choice((1, 100, PAGE, 5 * PAGE + 9, 200_000))
    data = bytes([chance.randrange(97, 123)]) * size
    name, other = chance.choice(NAMES), chance.choice(NAMES)
    match chance.randrange(20):
        case 0 | 1 | 2 | 3 | 4:
            a(ops.write_fd, fd, data, offset)
        case 5:
            a(os.ftruncate, fd, chance.choice((offset, size)))
        case 6:
            a(os.truncate, name, offset + 1)
        case 7:
            if os.fstat(fd).st_size >= 2 * PAGE:
                a(ops.map_write, fd, data[:PAGE], chance.choice((0, 77)))
        case 8:
            a(data_by_extents, fd)
        case 9:
            a(chance.choice((os.fsync, os.fdatasync)), fd)
        case 10:
            os.close(fd)
            append = chance.choice((0, 0, os.O_APPEND, os.O_TRUNC, os.O_DSYNC))
            fds[number] = a.fd(name, os.O_RDWR | os.O_CREAT | append)
        case 11:
            a(os.chmod, name, chance.choice((0o600, 0o644, 0o6755)))
        case 12:
            a(ops.utime, name, LONG_AGO_NS, LONG_AGO_NS + size)
        case 13:
            a(os.rename, name, other)
        case 14:
            a(os.link, name, other)
        case 15:
            a(ops.copy_range, fd, chance.choice(fds), size, 0, MEBIBYTE)
        case 16:
            mode = chance.choice((0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE))
            a(fallocate, fd, mode, offset, size)
        case 17:
            a(os.unlink, name)
        case 18:
            a(renameat2, name, other, RENAME_EXCHANGE)
        case _:
            a(ops.read_fd, fd, offset, PAGE)
    a(ops.fstat, fds[number])


@pytest.mark.parametrize("index", ["off", "on"])
@pytest.mark.parametrize("seed", range(6))
def test_random_changes(seed: int, index: str, make_layers: LayersFactory, subject: Driver) -> None:
    """Answers and data as with the kernel's overlayfs, and all that is left is the same after a remount, times included."""
    answers: list[list[str]] = []
    trees: list[dict[str, str | None]] = []
    for name, driver, options in (("ours", subject, {**SERVED, "index": index}), ("oracle", Kernel(), {"index": index})):
        given = options if driver.name != "kernel" else {"index": index}
        layers = make_layers(1, name=name)
        b = Builder(layers, ".")
        b.lower().file("a", b"lower" * 3000)
        b.lower().link("a", "b")
        b.lower().sparse("c", 3 * MEBIBYTE, {MEBIBYTE: b"data"})
        with driver.mount(layers, given) as mnt:
            answers.append([str(step) for step in perform(random_changes(seed), mnt, mnt)])
            left = snapshot(mnt)
        with driver.mount(layers, given) as mnt:
            found = snapshot(mnt)
        assert {path: entry for path, entry in left.items() if found[path] != entry} == {}, driver.name
        trees.append({path: entry.digest for path, entry in left.items()})
    assert answers[0] == answers[1]
    assert trees[0] == trees[1]
