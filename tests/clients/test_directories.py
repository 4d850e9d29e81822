"""Directories: do telldir(3), seekdir(3) and rewinddir(3) of the C library hold on merged directories that change?"""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.oracle.case import Builder
from tests.support import syscalls
from tests.support.mounts import Driver, Kernel, Layers, Options, Unionfs

LayersFactory = Callable[..., Layers]
NAMES = 3000
OPTIONS: list[Options] = [{}, {"timeout": "0"}]


class _Dirent(ctypes.Structure):
    """struct dirent of the C library, whose offsets are 64 bits wide here."""

    _fields_ = [
        ("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("length", ctypes.c_uint16), ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    ]  # fmt: skip


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.opendir.argtypes = [ctypes.c_char_p]
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long
for _name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(_libc, _name).argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.seekdir.restype = _libc.rewinddir.restype = None


class Stream:
    """A directory stream."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        assert self._stream

    def read(self) -> str | None:
        entry = _libc.readdir(self._stream)
        return os.fsdecode(entry.contents.name) if entry else None

    def rest(self) -> list[str]:
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        _libc.closedir(self._stream)


@contextmanager
def stream(path: Path) -> Iterator[Stream]:
    """A stream, closed when the block ends."""
    opened = Stream(path)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def merged(layers: Layers) -> Layers:
    """`d`, whose names come from both layers, some of them from either."""
    for place, part in ((layers.lowers[0], 0), (layers.top, 1)):
        (place / "d").mkdir()
        for number in range(NAMES):
            if number % 3 in (part, 2):
                (place / "d" / f"name{number}").write_bytes(b"")
    return layers


def all_names() -> set[str]:
    return {".", "..", *(f"name{number}" for number in range(NAMES))}


@pytest.mark.parametrize("options", OPTIONS, ids=["cached", "uncached"])
def test_every_position_leads_on(options: Options, merged: Layers) -> None:
    with Unionfs().mount(merged, options) as mnt, stream(mnt / "d") as listing:
        positions = [listing.tell()]
        names = []
        while (name := listing.read()) is not None:
            names.append(name)
            positions.append(listing.tell())
        assert set(names) == all_names()
        assert len(names) == len(set(names))
        chance = random.Random(1)
        for place in [0, 1, 2, 3, len(names), len(names) - 1, *chance.sample(range(len(names)), 60)]:
            listing.seek(positions[place])
            assert listing.read() == (names[place] if place < len(names) else None)
        # By another stream, and after it was closed.
        with stream(mnt / "d") as other:
            other.seek(positions[1000])
            assert other.rest() == names[1000:]


@pytest.mark.both_bindings
@pytest.mark.parametrize("options", OPTIONS, ids=["cached", "uncached"])
def test_positions_hold_while_names_change(options: Options, merged: Layers) -> None:
    """Several listings at once, at different places: what was there all the time is seen by each, once."""
    chance = random.Random(2)
    with Unionfs().mount(merged, options) as mnt:
        streams = [Stream(mnt / "d") for _ in range(4)]
        seen: list[list[str]] = [[] for _ in streams]
        stayed = all_names()
        made = 0
        while min(map(len, seen)) < NAMES // 2:
            which = chance.randrange(len(streams))
            for _ in range(chance.randrange(1, 250)):
                name = streams[which].read()
                if name is None:
                    break
                seen[which].append(name)
            victim = chance.choice(sorted(stayed - {".", ".."}))
            stayed.discard(victim)
            (mnt / "d" / victim).unlink()
            (mnt / "d" / f"made{made}").write_bytes(b"")
            other = chance.choice(sorted(stayed - {".", ".."}))
            stayed.discard(other)
            (mnt / "d" / other).rename(mnt / "d" / f"moved{made}")
            (mnt / "d" / chance.choice(sorted(stayed - {".", ".."}))).chmod(0o600)
            made += 1
        for one, names in zip(streams, seen, strict=True):
            names += one.rest()
            assert stayed - set(names) == set(), "lost"
            assert [name for name in stayed if names.count(name) != 1] == [], "twice"
            one.rewind()
            assert sorted(one.rest()) == sorted([".", "..", *os.listdir(mnt / "d")])
            one.close()


@pytest.mark.parametrize("options", OPTIONS, ids=["cached", "uncached"])
def test_rewinddir_sees_what_is_new(options: Options, merged: Layers) -> None:
    with Unionfs().mount(merged, options) as mnt, stream(mnt / "d") as listing:
        assert set(listing.rest()) == all_names()
        (mnt / "d" / "new").write_bytes(b"")
        (mnt / "d" / "name0").unlink()
        assert listing.read() is None
        listing.rewind()
        assert set(listing.rest()) == all_names() - {"name0"} | {"new"}


@pytest.mark.both_bindings
def test_removing_while_listing(merged: Layers) -> None:
    """As rm -r does it, in one pass."""
    with Unionfs().mount(merged) as mnt:
        with stream(mnt / "d") as listing:
            while (name := listing.read()) is not None:
                if name not in (".", ".."):
                    (mnt / "d" / name).unlink()
        (mnt / "d").rmdir()
        assert os.listdir(mnt) == []


def test_a_directory_of_a_hundred_thousand_names(layers: Layers) -> None:
    lower = layers.lowers[0] / "d"
    lower.mkdir()
    (layers.top / "d").mkdir()
    many = 100_000
    directory = os.open(lower, os.O_RDONLY)
    for number in range(many):
        os.mknod(f"name{number}", 0o100644, dir_fd=directory)
    os.close(directory)
    for number in range(0, many, 1000):
        os.mknod(layers.top / "d" / f"name{number}", 0o20000, 0)
        (layers.top / "d" / f"own{number}").write_bytes(b"")
    with Unionfs().mount(layers) as mnt:
        names = os.listdir(mnt / "d")
        assert len(names) == len(set(names)) == many
        assert "name0" not in names
        assert "own0" in names
        (mnt / "d" / "name1").rename(mnt / "d" / "own0")
        assert len(os.listdir(mnt / "d")) == many - 1
        with pytest.raises(OSError, match="not empty"):
            (mnt / "d").rmdir()
        subprocess.run(["rm", "-r", mnt / "d"], check=True)
        assert os.listdir(mnt) == []


@pytest.mark.parametrize("driver", [Unionfs(), Kernel()], ids=["unionfs", "kernel"])
def test_the_parent_of_a_moved_directory(driver: Driver, make_layers: LayersFactory) -> None:
    """`..` is where the directory is now, whatever its redirect says, and its number that directory's."""
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    for number in range(2):
        b.lower(number).file(f"from/dir/sub/of{number}")
        b.lower(number).file(f"to/of{number}")
    with driver.mount(layers, {"redirect_dir": "on"}) as mnt:
        (mnt / "from/dir").rename(mnt / "to/moved")
        (mnt / "to/moved/sub").rename(mnt / "sub")
        (mnt / "own").mkdir()
        (mnt / "sub").rename(mnt / "own/sub")
        _parents_agree(mnt)
    with driver.mount(layers, {"redirect_dir": "on"}) as mnt:
        _parents_agree(mnt)
        assert sorted(os.listdir(mnt / "own/sub")) == ["of0", "of1"]


def _parents_agree(mnt: Path) -> None:
    for path in ("to/moved", "own/sub", "own", "from", "to"):
        entries = {entry.name: entry for entry in getdents(mnt / path)}
        assert entries[".."].ino == (mnt / path).parent.stat().st_ino, path
        assert entries["."].ino == (mnt / path).stat().st_ino, path
        assert (mnt / path / "..").samefile((mnt / path).parent), path


def getdents(path: Path) -> list[syscalls.DirectoryEntry]:
    """All entries of a directory, with numbers and types."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: list[syscalls.DirectoryEntry] = []
        while entries := syscalls.getdents(fd):
            found += entries
        return found
    finally:
        os.close(fd)


def test_types_are_told_by_the_listing(layers: Layers) -> None:
    """d_type of everything, on either layer and after a copy-up; never DT_UNKNOWN."""
    b = Builder(layers, ".")
    for layer, prefix in ((b.lower(), "lower-"), (b.upper, "upper-")):
        layer.file(f"{prefix}8")
        layer.dir(f"{prefix}4")
        layer.symlink(f"{prefix}10")
        layer.node(f"{prefix}1", 0o10000)
        layer.node(f"{prefix}6", 0o60000, (7, 200))
        layer.node(f"{prefix}2", 0o20000, (1, 3))
        layer.node(f"{prefix}12", 0o140000)
    with Unionfs().mount(layers) as mnt:
        for _ in range(2):
            types = {entry.name: entry.type for entry in getdents(mnt) if entry.name not in (".", "..")}
            assert types == {name: int(name.split("-")[1]) for name in types}
            assert len(types) == 14
            for name in types:
                ops.lchown(str(mnt / name), 5, 6)


def test_link_counts_of_directories(layers: Layers) -> None:
    """A merged directory says 1, which find(1) and others take for "unknown"; one of a single layer counts its directories."""
    for place in (layers.lowers[0], layers.top):
        (place / "merged" / f"in {place.name}").mkdir(parents=True)
    for number in range(3):
        (layers.lowers[0] / "lower" / f"{number}").mkdir(parents=True)
        (layers.top / "upper" / f"{number}").mkdir(parents=True)
    with Unionfs().mount(layers) as mnt:
        counts = {name: (mnt / name).stat().st_nlink for name in ("merged", "lower", "upper", ".")}
        assert counts == {"merged": 1, "lower": 5, "upper": 5, ".": 1}
        (mnt / "upper/0").rmdir()
        (mnt / "upper/new").mkdir()
        (mnt / "upper/another").mkdir()
        assert (mnt / "upper").stat().st_nlink == 6
        (mnt / "lower").chmod(0o700)
        assert (mnt / "lower").stat().st_nlink == 1
        assert subprocess.check_output(["find", mnt, "-type", "d"]).count(b"\n") == 13
