"""Do chattr(1)'s flags forbid what they forbid on the kernel's overlayfs, on either layer, before and after a copy-up?"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Steps
from tests.oracle.pair import LayersFactory, both, chattr, unprotected
from tests.support import syscalls
from tests.support.mounts import Driver, Kernel, Layers, Unionfs


@pytest.fixture(autouse=True)
def protections(scratch: Path) -> Iterator[None]:
    """The layers can be removed afterwards."""
    yield from unprotected(scratch)


def change_file(a: Actor) -> None:
    """Every kind of change of `d/f`, those that an append-only file allows first."""
    a(ops.write, "d/f", b"appended", os.O_WRONLY | os.O_APPEND)
    a(ops.write, "d/f", b"X", os.O_RDWR | os.O_APPEND)
    a(ops.write, "d/f", b"over")
    a(ops.write, "d/f", b"over", os.O_RDWR)
    a(ops.write, "d/f", b"", os.O_WRONLY | os.O_TRUNC)
    a(ops.write, "d/f", b"", os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
    a(os.truncate, "d/f", 1)
    a(os.chmod, "d/f", 0o600)
    a(ops.lchown, "d/f", 5, 6)
    a(ops.utime, "d/f", 1, 2)
    a(os.utime, "d/f")
    a(ops.setxattr, "d/f", "user.colour", b"red")
    a(os.link, "d/f", "d/link")
    a(os.rename, "d/f", "d/moved")
    a(os.rename, "d/other", "d/f")
    a(os.unlink, "d/f")
    a(ops.read, "d/f")
    a(ops.ls, "d")


def change_entries(a: Actor) -> None:
    """Every kind of change of the directory `d`."""
    a(os.unlink, "d/f")
    a(os.rename, "d/other", "other")
    a(os.rename, "d/other", "d/renamed")
    a(ops.create, "d/new", b"new")
    a(os.mkdir, "d/made")
    a(os.rmdir, "d/made")
    a(os.link, "outside", "d/linked")
    a(os.rename, "outside", "d/arrived")
    a(os.unlink, "d/new")
    a(ops.write, "d/f", b"data")
    a(os.chmod, "d", 0o700)
    a(os.utime, "d")
    a(ops.ls, "d")
    a(ops.ls)


FLAGS = ("+a", "+i")


def protecting(where: str, name: str) -> Callable[[Layers, Builder], None]:
    """Layers with a directory for each flag that holds `d/f` and more, all on one of them, and the flag on one name."""

    def fill(layers: Layers, b: Builder) -> None:
        built = b.upper if where == "upper" else b.lower()
        for flag in FLAGS:
            for path in ("d/f", "d/other", "outside"):
                built.file(f"{flag}/{path}", b"content")
            chattr(flag, built.base / flag / name)

    return fill


@pytest.mark.parametrize("where", ["upper", "lower"])
@pytest.mark.parametrize(("name", "steps"), [("d/f", change_file), ("d", change_entries)], ids=["file", "directory"])
def test_protected(where: str, name: str, steps: Steps, make_layers: LayersFactory, subject: Driver) -> None:
    def under_each_flag(a: Actor) -> None:
        for flag in FLAGS:
            a.note("flag", flag)
            os.chdir(flag)
            steps(a)
            os.chdir("..")

    ours, kernel = both(make_layers, subject, protecting(where, name), under_each_flag)
    assert ours == kernel
    assert sum(line.endswith("EPERM") for line in ours) > 10


def change_contents(a: Actor) -> None:
    """By descriptors from before the flags were set."""
    source = os.open("source", os.O_RDONLY)
    for name in ("lower", "upper"):
        fds = {flag: os.open(f"{flag}/{name}", os.O_RDWR) for flag in FLAGS}
        for flag, fd in fds.items():
            a.note("flag", flag)
            subprocess.run(["chattr", flag, f"./{flag}/{name}"], check=True)
            a(ops.copy_range, source, fd, 4, 0, 2)
            for mode in (0, syscalls.FALLOC_FL_KEEP_SIZE, syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE):
                a(syscalls.fallocate, fd, mode, 0, 5)
            a(os.pwrite, fd, b"W", 1)
            a(ops.read, f"{flag}/{name}")
            os.close(fd)
    os.close(source)


def test_protected_after_the_open(make_layers: LayersFactory, subject: Driver) -> None:
    def fill(layers: Layers, b: Builder) -> None:
        b.lower().file("source", b"data to copy")
        for flag in FLAGS:
            b.lower().file(f"{flag}/lower", b"content")
            b.upper.file(f"{flag}/upper", b"content")

    ours, kernel = both(make_layers, subject, fill, change_contents)
    assert ours == kernel
    assert sum(line.endswith("EPERM") for line in ours) > 8


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_a_protected_upper_file_keeps_its_data(passthrough: str, layers: Layers, subject: Driver) -> None:
    """A passthrough open goes round the kernel's check of the real file's flags."""
    protecting("upper", "d/f")(layers, Builder(layers, "."))
    with subject.mount(layers, {"passthrough": passthrough}) as mnt:
        for path in (f"{flag}/d/f" for flag in FLAGS):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                with pytest.raises(PermissionError):
                    ops.write(str(mnt / path), b"OVER", flags)
            assert (layers.top / path).read_bytes() == b"content"


def test_append_only_outlives_the_copy_up_and_the_mount(layers: Layers, subject: Driver) -> None:
    Builder(layers, ".").lower().file("d/f", b"one")
    chattr("+a", layers.lowers[0] / "d/f")
    with subject.mount(layers) as mnt:
        ops.write(str(mnt / "d/f"), b"two", os.O_WRONLY | os.O_APPEND)
    with subject.mount(layers) as mnt:
        for call in (
            lambda: ops.write(str(mnt / "d/f"), b"X"),
            lambda: (mnt / "d/f").chmod(0o600),
            lambda: (mnt / "d/f").unlink(),
            lambda: (mnt / "d/f").rename(mnt / "d/g"),
        ):
            with pytest.raises(PermissionError):
                call()
        ops.write(str(mnt / "d/f"), b"three", os.O_WRONLY | os.O_APPEND)
    assert (layers.top / "d/f").read_bytes() == b"onetwothree"
    assert os.getxattr(layers.top / "d/f", "trusted.overlay.protattr") == b"a"


def test_flags_are_carried(make_layers: LayersFactory, subject: Driver) -> None:
    """Synchronous and without access times; those that the upper filesystem gives by itself stay: ext4's extents are no flag of
    ours to take, and without them the file allows less.
    """

    def fill(layers: Layers, b: Builder) -> None:
        for name in ("A", "S", "d", "none", "AS"):
            b.lower().file(name, b"content")
            if name != "none":
                chattr(f"+{name}", b.lower().base / name)

    def steps(a: Actor) -> None:
        for name in ("A", "S", "d", "none", "AS"):
            for _ in range(2):
                a(ops.run, "lsattr", "-d", name)
                os.chmod(name, 0o600)

    ours, kernel = both(make_layers, subject, fill, steps)
    assert ours == kernel


def set_flags(a: Actor) -> None:
    """chattr(1) and lsattr(1) on a lower file, an upper one, and directories; some flags that bar others."""
    for name in ("lower", "upper", "dir"):
        a(ops.run, "chattr", "+d", name)
        a(ops.run, "lsattr", "-d", name)
        before = os.stat(name).st_ctime_ns
        time.sleep(0.02)
        a(ops.run, "chattr", "-d", name)
        a.note(f"the change time of {name} is another", before != os.stat(name).st_ctime_ns)
        a(ops.run, "lsattr", "-d", name)
    for flag in ("a", "i"):
        for name in ("lower", "upper", "dir"):
            a(ops.run, "chattr", f"+{flag}", name)
            a(ops.run, "lsattr", "-d", name)
            a(os.chmod, name, 0o700)
            a(ops.fails_or_not, os.rename, name, "moved")
        a(ops.write, "lower", b"x")
        a(ops.write, "lower", b"x", os.O_WRONLY | os.O_APPEND)
        a(os.unlink, "dir/inside")
        for name in ("lower", "upper", "dir"):
            a(ops.run, "chattr", f"-{flag}", name)
            a(ops.run, "lsattr", "-d", name)
            a(os.chmod, name, 0o755)
    a(ops.read, "lower")
    a(ops.ls, "dir")


def test_flags_are_set_and_shown(make_layers: LayersFactory, subject: Driver) -> None:
    def fill(layers: Layers, b: Builder) -> None:
        b.lower().file("lower", b"content")
        b.lower().file("dir/inside")
        b.upper.file("upper", b"content")

    ours, kernel = both(make_layers, subject, fill, set_flags)
    assert ours == kernel
    assert ours[0].endswith("= (0, b'')")


@pytest.mark.parametrize("first", [Kernel(), Unionfs()], ids=["by the kernel", "by ours"])
@pytest.mark.parametrize("second", [Kernel(), Unionfs()], ids=["read by the kernel", "read by ours"])
def test_protections_of_what_is_on_the_upper_layer_alone(first: Driver, second: Driver, layers: Layers) -> None:
    """They are kept in a mark, whatever the directory says of itself, and last over a remount."""
    paths = ("own", "d/own", "d", "d/sub")
    with first.mount(layers) as mnt:
        (mnt / "d/sub").mkdir(parents=True)
        (mnt / "own").write_bytes(b"data")
        (mnt / "d/own").write_bytes(b"data")
        chattr("+i", *(mnt / path for path in reversed(paths)))
    with second.mount(layers) as mnt:
        assert "i" in subprocess.check_output(["lsattr", mnt / "own"], text=True).split()[0]
        for call in (
            lambda: (mnt / "own").write_bytes(b""),
            lambda: (mnt / "d/own").chmod(0o600),
            lambda: (mnt / "own").unlink(),
            lambda: (mnt / "d/new").write_bytes(b""),
            lambda: (mnt / "d/sub").rmdir(),
            lambda: (mnt / "d").rename(mnt / "e"),
        ):
            with pytest.raises(PermissionError):
                call()
        chattr("-i", *(mnt / path for path in paths))
        (mnt / "own").unlink()
    with first.mount(layers) as mnt:
        subprocess.run(["rm", "-r", mnt / "d"], check=True)
