"""Stacking: unions over overlays over unions. Which layers are too deep for passthrough, what goes on top, is the data right?"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients.command import PATIENCE, errno_of, in_foreground, unionfs, wait_for
from tests.clients.request_log import RequestLog
from tests.conftest import LayersFactory
from tests.support import lowers, own_process
from tests.support.mounts import Kernel, Layers, MountFailed, Options, Unionfs, is_mounted, option_string, servers_of, unmount
from unionfs.linux import fuse, mount
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.union import Union
from unionfs.serve import stacking
from unionfs.serve.passthrough import Backings

CONTENT = b"below\n" * 10_000


class Mount(NamedTuple):
    """A mount of ours: where, what it said of passthrough, and what it warned of."""

    mnt: Path
    status: str
    warnings: list[str]


@contextmanager
def mounted(layers: Layers, options: Options | None = None) -> Iterator[Mount]:
    """`unionfs -v` with these layers."""
    done = unionfs("-v", "-o", option_string(layers, options or {}), layers.mnt)
    try:
        assert done.returncode == 0, done.stderr
        yield Mount(layers.mnt, done.stdout.strip(), done.stderr.splitlines())
    finally:
        unmount(layers.mnt)
    # Now, for what the lowers lie on may be unmounted before the test ends.
    lowers.check(layers.lowers)


class Tower:
    """Filesystems stacked on each other; `add` puts one on top of all so far and returns its mount point."""

    def __init__(self, make_layers: LayersFactory, stack: ExitStack) -> None:
        self._make_layers = make_layers
        self._stack = stack
        first = make_layers().lowers[0]
        (first / "directory").mkdir()
        (first / "directory" / "inside").write_bytes(b"inside\n")
        (first / "file").write_bytes(CONTENT)
        self.top = first

    def next(self) -> Layers:
        """Fresh layers over what is on top."""
        return replace(self._make_layers(), lowers=(self.top,))

    def add(self, kind: str) -> Path:
        """`overlay` (the kernel's), `unionfs`, or `plain` (a unionfs without passthrough)."""
        driver = Kernel() if kind == "overlay" else Unionfs()
        options = {"passthrough": "off"} if kind == "plain" else {}
        self.top = self._stack.enter_context(driver.mount(self.next(), options))
        return self.top


@pytest.fixture
def tower(make_layers: LayersFactory) -> Iterator[Tower]:
    with ExitStack() as stack:
        yield Tower(make_layers, stack)


def is_stackable(layers: Layers) -> bool:
    """Does the kernel's overlayfs take `layers`?  Used as well, if it does."""
    try:
        with Kernel().mount(layers) as top:
            assert (top / "file").read_bytes()[:5] == b"below"
            (top / "file").write_bytes(b"on top\n")
            assert (top / "file").read_bytes() == b"on top\n"
    except MountFailed:
        lowers.check(layers.lowers)
        return False
    return True


def use(mnt: Path) -> None:
    """The file is read, copied up while it is open, and read again through everything that was open."""
    with open(mnt / "file", "rb", buffering=0) as reader:
        assert reader.read() == CONTENT
        with open(mnt / "file", "r+b", buffering=0) as writer:
            writer.write(b"above")
            assert os.pread(reader.fileno(), 8, 0) == b"above\nbe"
    assert (mnt / "file").read_bytes() == b"above" + CONTENT[5:]
    (mnt / "directory" / "inside").unlink()
    (mnt / "directory" / "new").write_bytes(b"new\n")
    assert os.listdir(mnt / "directory") == ["new"]


KINDS = {
    "ext4": ([], 0),
    "plain FUSE": (["plain"], 0),
    "overlay": (["overlay"], 1),
    "unionfs": (["unionfs"], 1),
    "plain FUSE on an overlay": (["overlay", "plain"], 0),
    "overlay on an overlay": (["overlay", "overlay"], 2),
    "overlay on a unionfs": (["unionfs", "overlay"], 2),
    "unionfs on an overlay": (["overlay", "unionfs"], 2),
    "unionfs on a unionfs": (["unionfs", "unionfs"], 2),
}
"""What the lower layer lies on, from the bottom, and how deep that is."""

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_a_lower_on_stacked_filesystems(kind: str, tower: Tower, make_layers: LayersFactory) -> None:
    """The mount asks for no more depth than it needs, so it can be stacked on whenever that is possible at all."""
    floors, depth = KINDS[kind]
    for floor in floors:
        tower.add(floor)
    layers = tower.next()
    with mounted(layers) as (mnt, status, warnings):
        assert status == "passthrough: on"
        if depth == 2:
            (warning,) = warnings
            assert f"layer {tower.top}: its filesystem is already 2 deep" in warning
        else:
            assert not warnings
        assert is_stackable(replace(make_layers(), lowers=(mnt,))) == (depth != 1)
        use(mnt)


@kinds
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_max_stack_depth(kind: str, asked: int, tower: Tower, make_layers: LayersFactory) -> None:
    floors, depth = KINDS[kind]
    for floor in floors:
        tower.add(floor)
    layers = tower.next()
    with mounted(layers, {"max_stack_depth": str(asked)}) as (mnt, status, warnings):
        assert status == ("passthrough: on" if asked else "passthrough: off (max_stack_depth=0)")
        assert [str(tower.top) in warning for warning in warnings] == ([True] if asked and depth >= asked else [])
        assert is_stackable(replace(make_layers(), lowers=(mnt,))) == (asked < 2)
        use(mnt)


@pytest.mark.parametrize(("kind", "options", "reason"), [
    ("overlay on an overlay", {}, "its filesystem is already 2 deep"),
    ("unionfs on a unionfs", {"max_stack_depth": "2"}, "its filesystem is already 2 deep"),
    ("overlay", {"max_stack_depth": "1"}, "its filesystem is 1 deep, which needs max_stack_depth=2"),
    ("unionfs", {"max_stack_depth": "1"}, "its filesystem is 1 deep, which needs max_stack_depth=2"),
])  # fmt: skip
def test_passthrough_is_demanded_of_a_layer_too_deep(kind: str, options: Options, reason: str, tower: Tower) -> None:
    for floor in KINDS[kind][0]:
        tower.add(floor)
    layers = tower.next()
    done = unionfs("-o", option_string(layers, {"passthrough": "on", **options}), layers.mnt)
    assert done.returncode == 32
    (line,) = done.stderr.splitlines()
    assert line.startswith("unionfs: passthrough=on: ")
    assert f"layer {tower.top}: {reason}" in line
    assert str(layers.upper) not in line
    assert not is_mounted(layers.mnt)
    lowers.check(layers.lowers)


def test_passthrough_is_demanded_and_there(tower: Tower) -> None:
    for kind in ("overlay", None):
        with mounted(tower.next(), {"passthrough": "on"}) as (mnt, status, warnings):
            assert (status, warnings) == ("passthrough: on", [])
            use(mnt)
        if kind:
            tower.add(kind)


def test_a_layer_too_deep_goes_alone(tower: Tower, make_layers: LayersFactory) -> None:
    """The others keep passthrough, and one line names all that have none."""
    above = make_layers(lowers=2)
    (above.lowers[0] / "shallow").write_bytes(CONTENT)
    tower.add("overlay")
    second = tower.add("overlay")
    (second / "sub").mkdir()
    stacked = (second / "directory", second / "sub")
    layers = replace(above, lowers=(above.lowers[0], *stacked, above.lowers[1]), upper=None, work=None)
    with mounted(layers) as (mnt, status, warnings):
        assert status == "passthrough: on"
        (warning,) = warnings
        assert f"layers {second}/directory, {second}/sub: " in warning
        assert str(above.lowers[0]) not in warning
        assert (mnt / "shallow").read_bytes() == CONTENT
        assert (mnt / "inside").read_bytes() == b"inside\n"


def test_every_layer_is_too_deep(tower: Tower) -> None:
    tower.add("overlay")
    tower.add("overlay")
    with mounted(replace(tower.next(), upper=None, work=None)) as (mnt, status, warnings):
        assert status == "passthrough: off (every layer is stacked too deep)"
        assert len(warnings) == 1
        assert (mnt / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["overlay", "unionfs"])
def test_files_of_a_stacked_layer_pass_through(kind: str, tower: Tower, scratch: Path) -> None:
    """Read at the layer, without a request."""
    tower.add(kind)
    log = RequestLog(scratch / "log")
    layers = replace(tower.next(), upper=None, work=None)
    with in_foreground(layers, flags=("-f", "-d"), log=log.path):
        assert (layers.mnt / "file").read_bytes() == CONTENT
        requests = log.count()
    lowers.check(layers.lowers)
    assert requests["OPEN"] == 1
    assert requests["READ"] == 0


def test_the_depth_of_a_layer_without_files(tower: Tower, make_layers: LayersFactory) -> None:
    """What a filesystem of this type has at least is taken; a file that shows it to be more goes without passthrough."""
    bare = make_layers()
    (bare.lowers[0] / "directory" / "below").mkdir(parents=True)
    with Kernel().mount(bare) as overlay, mounted(replace(make_layers(), lowers=(overlay,))) as (mnt, status, warnings):
        assert (status, warnings) == ("passthrough: on", [])
        assert not is_stackable(replace(make_layers(), lowers=(mnt,)))
    with Unionfs().mount(bare) as below, mounted(replace(make_layers(), lowers=(below,))) as (mnt, status, warnings):
        assert (status, warnings) == ("passthrough: on", [])
        (mnt / "directory" / "below" / "file").write_bytes(CONTENT)
        assert (mnt / "directory" / "below" / "file").read_bytes() == CONTENT


@contextmanager
def opened(layers: Layers) -> Iterator[Union]:
    """A union of the lowers alone, in this process, unmounted."""
    with own_process.as_before():
        union = Union.open(UnionConfig(tuple(os.fsencode(lower) for lower in layers.lowers)))
        try:
            yield union
        finally:
            union.close()


def test_the_search_for_a_file_is_bounded(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """By entries and by time; the topmost directories come first, and a symlink is no file."""
    lower = layers.lowers[0]
    for number in range(20):
        (lower / f"directory{number}" / "deep").mkdir(parents=True)
    (lower / "link").symlink_to("directory0/deep/file")
    with opened(layers) as union:
        assert stacking.find_file(union.layers[0]) == -1
        (lower / "directory0" / "deep" / "file").write_bytes(b"file")
        fd = stacking.find_file(union.layers[0])
        assert os.readlink(f"/proc/self/fd/{fd}").endswith("directory0/deep/file")
        os.close(fd)
        with monkeypatch.context() as patched:
            patched.setattr(stacking, "_MOST_ENTRIES", 20)
            assert stacking.find_file(union.layers[0]) == -1
        monkeypatch.setattr(stacking, "_MOST_SECONDS", 0)
        assert stacking.find_file(union.layers[0]) == -1


def test_ordinary_layers_cost_nothing(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """No search and no trial where nothing can be stacked."""

    def refuse(*args: object) -> int:
        raise AssertionError("a layer on an ordinary filesystem was looked at")

    for name in ("find_file", "_takes"):
        monkeypatch.setattr(stacking, name, refuse)
    with opened(layers) as union:
        stacking.measure(union)
        assert [layer.stack_depth for layer in union.layers] == [0]


def test_where_no_trial_is_possible(tower: Tower, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least depth of the type stands: wrong at worst for FUSE, whose files then turn out to be too deep."""

    def refuse(device: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mount, "unmounted_fuse", refuse)
    for kind, depth in (("overlay", 1), ("unionfs", 0)):
        tower.add(kind)
        with opened(tower.next()) as union:
            stacking.measure(union)
            assert [layer.stack_depth for layer in union.layers] == [depth]


@pytest.fixture
def upper_on_overlay(make_layers: LayersFactory) -> Iterator[Layers]:
    """A union whose upper directory lies on the kernel's overlayfs, and is merged there."""
    below = make_layers()
    for name in ("upper/merged", "work"):
        (below.lowers[0] / name).mkdir(parents=True)
    (below.lowers[0] / "upper" / "merged" / "old").write_bytes(b"old\n")
    above = make_layers()
    (above.lowers[0] / "merged").mkdir()
    (above.lowers[0] / "merged" / "low").write_bytes(b"low\n")
    (above.lowers[0] / "tree" / "sub").mkdir(parents=True)
    (above.lowers[0] / "tree" / "sub" / "leaf").write_bytes(b"leaf\n")
    (above.lowers[0] / "file").write_bytes(CONTENT)
    with Kernel().mount(below) as overlay:
        yield replace(above, upper=overlay / "upper", work=overlay / "work")


def test_an_upper_on_an_overlay(upper_on_overlay: Layers) -> None:
    """Everything but whiteout devices can be made there; directories that are merged there too are emptied in place."""

    def change(mnt: Path) -> None:
        (mnt / "file").write_bytes(b"changed\n")
        (mnt / "file").chmod(0o600)
        os.setxattr(mnt / "file", "user.name", b"value")
        assert sorted(os.listdir(mnt / "merged")) == ["low", "old"]
        subprocess.run(["rm", "-r", mnt / "merged"], check=True)
        assert not os.path.lexists(mnt / "merged")
        (mnt / "merged").mkdir()
        (mnt / "tree" / "sub" / "leaf").unlink()
        (mnt / "tree" / "sub").rmdir()
        subprocess.run(["mv", mnt / "tree", mnt / "moved"], check=True)
        (mnt / "new").write_bytes(CONTENT)
        os.link(mnt / "new", mnt / "link")
        (mnt / "link").rename(mnt / "file2")

    def look(mnt: Path) -> None:
        assert sorted(os.listdir(mnt)) == ["file", "file2", "merged", "moved", "new"]
        assert os.listdir(mnt / "merged") == os.listdir(mnt / "moved") == []
        assert (mnt / "file").read_bytes() == b"changed\n"
        assert (mnt / "file").stat().st_mode & 0o7777 == 0o600
        assert os.getxattr(mnt / "file", "user.name") == b"value"
        assert (mnt / "file2").samefile(mnt / "new")
        assert (mnt / "file2").read_bytes() == CONTENT

    with mounted(upper_on_overlay, {"passthrough": "on"}) as (mnt, status, warnings):
        assert (status, warnings) == ("passthrough: on", [])
        change(mnt)
        look(mnt)
    with mounted(upper_on_overlay) as (mnt, _, _):
        look(mnt)


def test_data_of_an_upper_on_an_overlay_passes_through(upper_on_overlay: Layers, scratch: Path) -> None:
    log = RequestLog(scratch / "log")
    with in_foreground(upper_on_overlay, flags=("-f", "-d"), log=log.path):
        log.skip()
        (upper_on_overlay.mnt / "new").write_bytes(CONTENT)
        with open(upper_on_overlay.mnt / "file", "r+b") as file:
            file.write(b"above")
            file.seek(0)
            assert file.read() == b"above" + CONTENT[5:]
        assert (upper_on_overlay.mnt / "new").read_bytes() == CONTENT
        requests = log.count()
    assert requests["READ"] == requests["WRITE"] == 0


def test_a_directory_that_cannot_be_taken_away_is_not_hidden(upper_on_overlay: Layers) -> None:
    """A failure leaves the name as it was, the lower layer's part included."""
    with mounted(upper_on_overlay, {"redirect_dir": "off"}) as (mnt, _, _):
        with pytest.raises(OSError, match="not empty"):
            (mnt / "merged").rmdir()
        with pytest.raises(OSError, match="cross-device"):
            (mnt / "merged").rename(mnt / "elsewhere")
        assert sorted(os.listdir(mnt / "merged")) == ["low", "old"]
    assert os.listdir(upper_on_overlay.top) == ["merged"]


def test_an_upper_on_a_unionfs_is_refused(make_layers: LayersFactory) -> None:
    """It has no names for whiteouts in it, and says so before anything is changed."""
    below, above = make_layers(), make_layers()
    for name in ("upper", "work"):
        (below.lowers[0] / name).mkdir()
    with Unionfs().mount(below) as mnt:
        layers = replace(above, upper=mnt / "upper", work=mnt / "work")
        done = unionfs("-o", option_string(layers, {}), layers.mnt)
        assert done.returncode == 32
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"unionfs: upperdir: the filesystem of {mnt}/upper takes whiteouts neither")
        assert not is_mounted(layers.mnt)
        assert os.listdir(mnt / "upper") == []


def test_inode_numbers_of_unions_over_unions(make_layers: LayersFactory, disks: Callable[[str], Path]) -> None:
    """Unique also when the union below has used the high bits up, the same in a listing, and kept at a copy-up."""
    below = make_layers(lowers=1)
    other = disks("tmpfs") / f"numbers{time.monotonic_ns():x}"
    other.mkdir()
    try:
        for place in (below.lowers[0], below.top, other):
            for number in range(60):
                (place / f"{place.name}-{number}").write_bytes(b"")
        with ExitStack() as stack:
            mnt = stack.enter_context(Unionfs().mount(replace(below, lowers=(below.lowers[0], other))))
            for _ in range(2):
                mnt = stack.enter_context(Unionfs().mount(replace(make_layers(), lowers=(mnt,))))
            stats = {name: (mnt / name).stat() for name in os.listdir(mnt)}
            assert len({(found.st_dev, found.st_ino) for found in stats.values()}) == len(stats) == 180
            with os.scandir(mnt) as entries:
                assert {entry.name: entry.inode() for entry in entries} == {name: s.st_ino for name, s in stats.items()}
            for name in list(stats)[::7]:
                (mnt / name).write_bytes(b"changed")
                assert (mnt / name).stat().st_ino == stats[name].st_ino
    finally:
        subprocess.run(["rm", "-r", other], check=True)


@pytest.mark.parametrize("lazily", [False, True])
def test_unmounted_from_below(lazily: bool, tower: Tower, make_layers: LayersFactory) -> None:
    """The union above goes on, since it has its own clone of the mount; the server below ends with it."""
    below = tower.next()
    Unionfs().start(below)
    above = replace(make_layers(), lowers=(below.mnt,))
    try:
        with mounted(above) as (mnt, _, _), open(mnt / "file", "rb") as file:
            lowers.changes_meant(below.mnt)
            subprocess.run(["umount", *(["-l"] if lazily else []), below.mnt], check=True, timeout=PATIENCE)
            assert file.read() == CONTENT
            assert servers_of(below.mnt)
            file.close()
            use(mnt)
    finally:
        unmount(below.mnt)
    wait_for(lambda: not servers_of(below.mnt), "the end of the lower server")


def test_the_server_below_is_killed(tower: Tower, make_layers: LayersFactory) -> None:
    """The union above answers, with an error at worst, what was passed through goes on, and both unmount."""
    below = tower.next()
    Unionfs().start(below)
    above = replace(make_layers(), lowers=(below.mnt,))
    try:
        with mounted(above) as (mnt, _, _):
            (mnt / "own").write_bytes(b"own\n")
            (server,) = servers_of(below.mnt)
            lowers.changes_meant(below.mnt)
            os.kill(server, 9)
            wait_for(lambda: not servers_of(below.mnt), "the end of the lower server")
            assert (mnt / "own").read_bytes() == b"own\n"
            assert errno_of(mnt / "file") in (0, 103, 107)  # ECONNABORTED, ENOTCONN
    finally:
        unmount(below.mnt)


def test_servers_ended_at_the_same_time(tower: Tower, make_layers: LayersFactory) -> None:
    """As at a shutdown: SIGTERM to all of them, in no order; nobody waits for anybody for ever."""
    floors = [tower.next()]
    Unionfs().start(floors[0])
    try:
        for _ in range(2):
            floors.append(replace(make_layers(), lowers=(floors[-1].mnt,)))
            Unionfs().start(floors[-1])
        with open(floors[-1].mnt / "file", "rb") as file:
            file.read(10)
        lowers.changes_meant(*(floor.mnt for floor in floors))
        for floor in floors:
            for server in servers_of(floor.mnt):
                os.kill(server, 15)
        wait_for(lambda: not any(servers_of(floor.mnt) for floor in floors), "the end of all servers")
        assert not any(is_mounted(floor.mnt) for floor in floors)
    finally:
        for floor in reversed(floors):
            unmount(floor.mnt)


@pytest.mark.parametrize(("code", "reason", "named"), [
    (errno.EPERM, "the kernel refuses backing files (EPERM)", False),
    (errno.ELOOP, "", True),
    (errno.EOPNOTSUPP, "", True),
])  # fmt: skip
def test_the_kernel_refuses_a_file(
    code: int, reason: str, named: bool, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one filesystem: its layers go without. For want of privilege: there is no passthrough at all."""

    def refuse(device: int, fd: int) -> int:
        raise OSError(code, os.strerror(code))

    (layers.lowers[0] / "file").write_bytes(b"")
    monkeypatch.setattr(fuse, "backing_open", refuse)
    with opened(layers) as union:
        backings = Backings(-1, union.identity)
        backings.reason = ""
        backings.probe(union)
        assert not backings.refused
        backings.probe_lowers(union)
        assert backings.reason == reason
        assert list(backings.refused) == (list(union.layers) if named else [])
        assert not named or stacking.named(backings.refused).startswith(f"layer {layers.lowers[0]}: ")
