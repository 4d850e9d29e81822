"""Is the index at rest the kernel's: what is noted in it, what a mount cleans and refuses, and what another mount shows?"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support import lowers
from tests.support.mounts import Driver, Kernel, Layers, MountFailed, Options, Unionfs

ON: Options = {"index": "on", "uuid": "null"}
EXPORT: Options = {"index": "on", "nfs_export": "on", "uuid": "null"}
PREFIX = "trusted.overlay."
NAMES = ("a", "b", "c")


def private(path: Path) -> dict[str, bytes]:
    """The marks of one object."""
    marks = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): os.getxattr(path, name, follow_symlinks=False) for name in marks}


def index_of(layers: Layers) -> Path:
    assert layers.work is not None
    return layers.work / "index"


def at_rest(layers: Layers) -> dict[str, tuple[str, int, dict[str, bytes]]]:
    """Each entry's type, link count and marks but for `upper`, which names an inode of the upper layer.

    Whiteouts that the kernel keeps there for linking are none.
    """
    found = {}
    for entry in index_of(layers).iterdir():
        if entry.name.startswith("#") and stat.S_ISCHR(entry.lstat().st_mode):
            continue
        status = entry.lstat()
        marks = {name: value for name, value in private(entry).items() if name != "upper"}
        # The kernel makes whiteouts as links of one that it keeps.
        links = 0 if stat.S_ISCHR(status.st_mode) else status.st_nlink
        found[entry.name] = (stat.filemode(status.st_mode)[0], links, marks)
    return found


@pytest.fixture
def pair(make_layers: LayersFactory) -> tuple[Layers, Layers]:
    """Two unions over the same lower layer."""
    theirs = make_layers()
    ours = make_layers()
    lower = theirs.lowers[0]
    (lower / "a").write_bytes(b"lower")
    os.link(lower / "a", lower / "b")
    os.link(lower / "a", lower / "c")
    (lower / "file").write_bytes(b"file")
    (lower / "gone").write_bytes(b"gone")
    (lower / "dir").mkdir()
    (lower / "empty").mkdir()
    return Layers(theirs.lowers, ours.upper, ours.work, ours.mnt), theirs


STEPS: dict[str, list[Callable[[Path], object]]] = {
    "written": [lambda mnt: (mnt / "a").write_bytes(b"upper")],
    "unlinked": [lambda mnt: (mnt / "a").unlink()],
    "written and one unlinked": [lambda mnt: (mnt / "a").write_bytes(b"upper"), lambda mnt: (mnt / "b").unlink()],
    "linked": [lambda mnt: os.link(mnt / "a", mnt / "new")],
    "linked and unlinked": [lambda mnt: os.link(mnt / "a", mnt / "new"), lambda mnt: (mnt / "a").unlink()],
    "renamed": [lambda mnt: (mnt / "b").rename(mnt / "dir/b")],
    "replaced": [lambda mnt: (mnt / "file").rename(mnt / "c")],
    "all unlinked": [lambda mnt: (mnt / "a").unlink(), lambda mnt: (mnt / "b").unlink(), lambda mnt: (mnt / "c").unlink()],
    "one name only": [lambda mnt: (mnt / "file").write_bytes(b"upper"), lambda mnt: (mnt / "gone").unlink()],
    "directories": [lambda mnt: (mnt / "dir").chmod(0o700), lambda mnt: (mnt / "empty").rmdir()],
}


@pytest.mark.parametrize("options", [ON, EXPORT], ids=["index", "nfs_export"])
@pytest.mark.parametrize("steps", list(STEPS))
def test_noted_as_by_the_kernel(steps: str, options: Options, pair: tuple[Layers, Layers], subject: Driver) -> None:
    for driver, layers in zip((subject, Kernel()), pair, strict=True):
        with driver.mount(layers, options) as mnt:
            for step in STEPS[steps]:
                step(mnt)
    ours, theirs = pair
    assert at_rest(ours) == at_rest(theirs)
    assert private(ours.top) == private(theirs.top)
    assert private(index_of(ours)).keys() == private(index_of(theirs)).keys() == {"upper"}
    assert [entry.name for entry in index_of(ours).iterdir() if "upper" in private(entry)] == [
        entry.name for entry in index_of(theirs).iterdir() if "upper" in private(entry)
    ]
    for path in sorted(theirs.top.iterdir()):
        if path.is_file():
            assert private(ours.top / path.name) == private(path)


def _entry(layers: Layers) -> Path:
    """The one entry of an index."""
    (entry,) = index_of(layers).iterdir()
    return entry


def _rename(new: Callable[[str], str]) -> Callable[[Layers], object]:
    return lambda layers: _entry(layers).rename(index_of(layers) / new(_entry(layers).name))


def _replace_by_directory(layers: Layers) -> None:
    entry = _entry(layers)
    entry.unlink()
    entry.mkdir()


def _replace_by_whiteout(layers: Layers) -> None:
    entry = _entry(layers)
    entry.unlink()
    os.mknod(entry, stat.S_IFCHR)


def _replace_by_file(layers: Layers) -> None:
    shutil.rmtree(index_of(layers))
    index_of(layers).write_bytes(b"")


def _leave_alone(layers: Layers, links: bytes | None) -> None:
    """The upper layer lost the names, and only the entry is left."""
    entry = _entry(layers)
    (layers.top / "a").unlink()
    if links is None:
        os.removexattr(entry, PREFIX + "nlink")
    else:
        os.setxattr(entry, PREFIX + "nlink", links)


def _foreign_upper(layers: Layers) -> None:
    value = bytearray(os.getxattr(index_of(layers), PREFIX + "upper"))
    value[-8] ^= 1
    os.setxattr(index_of(layers), PREFIX + "upper", bytes(value))


def _foreign_origin(layers: Layers) -> None:
    value = bytearray(os.getxattr(layers.top, PREFIX + "origin"))
    value[-8] ^= 1
    os.setxattr(layers.top, PREFIX + "origin", bytes(value))


def _leftovers(layers: Layers) -> None:
    (index_of(layers) / "#1f").mkdir()
    (index_of(layers) / "#1f" / "inside").write_bytes(b"")
    (index_of(layers) / "#20").write_bytes(b"")


def _other_file(layers: Layers) -> None:
    """The entry is a copy, no longer the upper file."""
    entry = _entry(layers)
    (layers.top / "a").unlink()
    shutil.copyfile(layers.lowers[0] / "a", layers.top / "a")
    assert entry.stat().st_nlink == 1


DAMAGES: dict[str, Callable[[Layers], object]] = {
    "nothing": lambda layers: None,
    "garbage": lambda layers: (index_of(layers) / "garbage").write_bytes(b""),
    "short name": lambda layers: (index_of(layers) / "00fb1d0001").write_bytes(b""),
    "leftovers": _leftovers,
    "name of no hex": _rename(lambda name: "zz" + name[2:]),
    "name with one digit more": _rename(lambda name: name + "0"),
    "name in capitals": _rename(str.upper),
    "other magic": _rename(lambda name: name[:2] + "fa" + name[4:]),
    "newer version": _rename(lambda name: "01" + name[2:]),
    "unknown flags": _rename(lambda name: name[:6] + "80" + name[8:]),
    "other byte order": _rename(lambda name: name[:6] + ("01" if name[6:8] == "00" else "00") + name[8:]),
    "longer than it says": _rename(lambda name: name + "0000"),
    "another inode's name": _rename(lambda name: name[:-2] + "ff"),
    "no origin": lambda layers: os.removexattr(_entry(layers), PREFIX + "origin"),
    "empty origin": lambda layers: os.setxattr(_entry(layers), PREFIX + "origin", b""),
    "garbage origin": lambda layers: os.setxattr(_entry(layers), PREFIX + "origin", b"garbage"),
    "whiteout": _replace_by_whiteout,
    "directory": _replace_by_directory,
    "alone, some left": lambda layers: _leave_alone(layers, b"U+1"),
    "alone, none left": lambda layers: _leave_alone(layers, b"U-1"),
    "alone, by the lower": lambda layers: _leave_alone(layers, b"L-1"),
    "alone, none by the lower": lambda layers: _leave_alone(layers, b"L-3"),
    "alone, no count": lambda layers: _leave_alone(layers, None),
    "alone, garbage": lambda layers: _leave_alone(layers, b"many"),
    "alone, garbage after a number": lambda layers: _leave_alone(layers, b"U+1x"),
    "count of garbage": lambda layers: os.setxattr(_entry(layers), PREFIX + "nlink", b"-"),
    "count of nothing": lambda layers: os.removexattr(_entry(layers), PREFIX + "nlink"),
    "count by the lower": lambda layers: os.setxattr(_entry(layers), PREFIX + "nlink", b"L+1"),
    "another file is there": _other_file,
    "index of another upper": _foreign_upper,
    "index of nobody": lambda layers: os.removexattr(index_of(layers), PREFIX + "upper"),
    "upper of another lower": _foreign_origin,
    "upper of nobody": lambda layers: os.removexattr(layers.top, PREFIX + "origin"),
    "upper of garbage": lambda layers: os.setxattr(layers.top, PREFIX + "origin", b"garbage"),
    "index is a file": _replace_by_file,
}


def _mounted(driver: Driver, layers: Layers, options: Options) -> object:
    """What a mount shows of every name, or that it is refused."""
    try:
        with driver.mount(layers, options) as mnt:
            shown: list[object] = []
            for name in NAMES:
                try:
                    shown.append((ops.lstat(f"{mnt}/{name}"), ops.read(f"{mnt}/{name}")))
                except OSError as error:
                    shown.append(error.errno)
            return shown
    except MountFailed as failure:
        return "refused" if driver.name == "kernel" or "index=off" in failure.stderr else failure.stderr


@pytest.mark.parametrize("options", [ON, EXPORT], ids=["index", "nfs_export"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damages(damage: str, options: Options, pair: tuple[Layers, Layers], subject: Driver) -> None:
    """The kernel made both indexes; they are damaged alike, and each mounts one of them."""
    found = []
    for driver, layers in zip((subject, Kernel()), pair, strict=True):
        with Kernel().mount(layers, options) as mnt:
            os.chmod(mnt / "a", 0o640)
        DAMAGES[damage](layers)
        shown = _mounted(driver, layers, options)
        left = at_rest(layers) if index_of(layers).is_dir() else "no directory"
        found.append((shown, left))
    assert found[0] == found[1]


ORIGINS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "none": lambda file, directory: b"",
    "garbage": lambda file, directory: b"garbage",
    "of a directory": lambda file, directory: directory,
    "of a file": lambda file, directory: file,
    "stale": lambda file, directory: file[:-4] + b"none",
    "of nobody": lambda file, directory: file[:-8] + bytes(8),
    "long": lambda file, directory: file + bytes(1000),
}


@pytest.mark.parametrize("options", [{"uuid": "null"}, ON, EXPORT], ids=["off", "index", "nfs_export"])
@pytest.mark.parametrize("value", list(ORIGINS))
@pytest.mark.parametrize("name", ["new", "empty", "dir"])
def test_origins_of_others(name: str, value: str, options: Options, make_layers: LayersFactory, subject: Driver) -> None:
    """A file and two directories say that they were something else; only the last has a part in the lower layer.

    What they say they were does not show any more: two with one origin the kernel answers with ESTALE, and ours shows.
    """

    def fill(layers: Layers, b: Builder) -> None:
        b.lower(0).file("gone", b"lower")
        b.lower(0).dir("gone too")
        b.lower(0).file("dir/below", b"lower")
        with Kernel().mount(layers, {"uuid": "null"}) as mnt:
            (mnt / "gone").chmod(0o600)
            (mnt / "gone too").chmod(0o700)
            (mnt / "dir").chmod(0o700)
            (mnt / "new").write_bytes(b"upper")
            (mnt / "empty").mkdir()
            origins = [os.getxattr(layers.top / former, PREFIX + "origin") for former in ("gone", "gone too")]
            (mnt / "gone").unlink()
            (mnt / "gone too").rmdir()
        os.setxattr(layers.top / name, PREFIX + "origin", ORIGINS[value](*origins))

    def steps(a: Actor) -> None:
        a(ops.lstat, name)
        a(ops.lstat, "dir")
        a(ops.ls, "dir")
        a(ops.ls)
        a(os.chmod, name, 0o500)
        a(os.rename, name, "renamed")
        a(ops.lstat, "renamed")

    ours, kernel = both(make_layers, subject, fill, steps, ours=options, theirs=options)
    assert ours == kernel


@pytest.mark.parametrize("second", ["subject", "kernel"])
def test_continued_by_the_other(second: str, pair: tuple[Layers, Layers], subject: Driver) -> None:
    """What one has put in the index, the other goes on with; the second mount is the kernel's or ours over the other's upper."""
    layers = pair[0]
    drivers = (Kernel(), subject) if second == "subject" else (subject, Kernel())
    with drivers[0].mount(layers, ON) as mnt:
        (mnt / "a").write_bytes(b"first")
    with drivers[1].mount(layers, ON) as mnt:
        assert [(mnt / name).read_bytes() for name in NAMES] == [b"first"] * 3
        assert len({(mnt / name).stat().st_ino for name in NAMES}) == 1
        (mnt / "b").write_bytes(b"second")
        (mnt / "a").unlink()
    with drivers[0].mount(layers, ON) as mnt:
        assert [(mnt / name).read_bytes() for name in ("b", "c")] == [b"second"] * 2
        assert (mnt / "b").stat().st_nlink == 2
        (mnt / "c").unlink()
        (mnt / "b").unlink()
    with drivers[1].mount(layers, ON) as mnt:
        assert not set(os.listdir(mnt)) & set(NAMES)
    assert not list(index_of(layers).iterdir())


def test_any_name_does(make_layers: LayersFactory, subject: Driver) -> None:
    """Whichever name is used, the mount shows what the kernel's does, though other names may be on the upper layer."""

    def fill(layers: Layers, b: Builder) -> None:
        b.lower(0).file("a", b"lower" * 100_000)
        for name in ("b", "dir/c", "dir/d"):
            b.lower(0).link("a", name)

    def steps(a: Actor) -> None:
        names = ("a", "b", "dir/c", "dir/d")

        def look() -> None:
            for name in names:
                a(ops.lstat, name)
                a(ops.digest, name)
            a(ops.listing)
            a(ops.listing, "dir")

        look()
        a(os.chmod, "dir/d", 0o600)
        look()
        a(ops.write, "b", b"by b")
        look()
        a(os.link, "dir/c", "new")
        a(os.unlink, "b")
        look()
        a(os.rename, "dir/d", "b")
        a(ops.write, "b", b"by another", os.O_WRONLY | os.O_TRUNC)
        look()
        a(os.unlink, "a")
        a(os.unlink, "dir/c")
        look()
        a(ops.lstat, "new")

    ours, kernel = both(make_layers, subject, fill, steps, ours=ON, theirs=ON)
    assert ours == kernel


@pytest.mark.parametrize("scratch", ["ext4", "xfs", "btrfs"], indirect=True)
@pytest.mark.parametrize("options", [{}, ON, EXPORT], ids=["off", "index", "nfs_export"])
def test_numbers_last(options: Options, make_layers: LayersFactory, subject: Driver) -> None:
    """st_ino of every object is the same before its copy-up, after it, and at the next mount, and that of its directory entry."""
    layers = make_layers(2)
    for number, lower in enumerate(layers.lowers):
        (lower / "dir" / "inner").mkdir(parents=True)
        (lower / "dir" / f"file{number}").write_bytes(b"x")
        (lower / f"link{number}").symlink_to("x")
        os.mkfifo(lower / "dir" / "inner" / f"fifo{number}")
    os.link(layers.lowers[1] / "dir/file1", layers.lowers[1] / "dir/inner/again")

    def numbers(mnt: Path) -> dict[str, int]:
        found = {}
        for above, _, _ in os.walk(mnt):
            with os.scandir(above) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    assert entry.inode() == status.st_ino, entry.path
                    found[os.path.relpath(entry.path, mnt)] = status.st_ino
        return found

    with subject.mount(layers, options) as mnt:
        first = numbers(mnt)
        for name in first:
            os.chown(mnt / name, 7, 7, follow_symlinks=False)
        if "index" not in options and "nfs_export" not in options:
            first = {name: number for name, number in first.items() if name not in ("dir/file1", "dir/inner/again")}
        again = numbers(mnt)
        assert {name: again[name] for name in first} == first
    for driver in (subject, subject):
        with driver.mount(layers, options) as mnt:
            found = numbers(mnt)
            assert {name: found[name] for name in first} == first


def test_a_read_only_mount_uses_the_index(pair: tuple[Layers, Layers]) -> None:
    layers = pair[0]
    with Kernel().mount(layers, ON) as mnt:
        (mnt / "a").write_bytes(b"upper")
    before = at_rest(layers)
    with Unionfs().mount(layers, {**ON, "ro": None}) as mnt:
        assert (mnt / "c").read_bytes() == b"upper"
        assert (mnt / "c").stat().st_nlink == 3
    assert at_rest(layers) == before


def test_without_handles_there_is_no_index(make_layers: LayersFactory) -> None:
    """A lower layer on another overlay has no handles to open: hard links are broken then, with a warning."""
    inner, outer = make_layers(name="inner"), make_layers(name="outer")
    (inner.lowers[0] / "a").write_bytes(b"lower")
    os.link(inner.lowers[0] / "a", inner.lowers[0] / "b")
    with Kernel().mount(inner, {"nfs_export": "off"}) as below:
        layers = Layers((below,), outer.upper, outer.work, outer.mnt)
        with Unionfs().mount(layers, ON) as mnt:
            (mnt / "a").write_bytes(b"upper")
            assert (mnt / "b").read_bytes() == b"lower"
        assert outer.work is not None
        assert not (outer.work / "index").exists()


@pytest.mark.parametrize("export", ["off", "on"])
def test_files_that_take_no_origin(export: str, make_layers: LayersFactory) -> None:
    """With userxattr special files and symlinks are not in the index; the kernel fails to copy them up, and to mount again."""
    made = make_layers()
    lower = made.lowers[0]
    os.mkfifo(lower / "fifo")
    (lower / "symlink").symlink_to("target")
    for name in ("fifo", "symlink"):
        os.link(lower / name, lower / f"{name}2", follow_symlinks=False)
    (lower / "file").write_bytes(b"file")
    options: Options = {"index": "on", "userxattr": None, "nfs_export": export}
    with Unionfs().mount(made, options) as mnt:
        for name in ("fifo", "symlink"):
            os.chown(mnt / name, 7, 8, follow_symlinks=False)
            (mnt / "file").replace(mnt / f"{name}2")
            (mnt / "file").write_bytes(b"again")
    if export == "off":
        assert not [entry for entry in index_of(made).iterdir() if not entry.name.startswith("#")]
    for driver in (Kernel(), Unionfs()):
        with driver.mount(made, {**options, "redirect_dir": "nofollow"}) as mnt:
            for name in ("fifo", "symlink"):
                assert (mnt / name).lstat().st_uid == 7
                assert stat.S_ISREG((mnt / f"{name}2").lstat().st_mode)


@pytest.mark.parametrize("driver", [Kernel(), Unionfs()], ids=["kernel", "unionfs"])
def test_names_that_a_lower_file_got_meanwhile(driver: Driver, layers: Layers) -> None:
    """They were never counted; that they go leaves a count to the others."""
    lower = layers.lowers[0]
    (lower / "0").write_bytes(b"data")
    os.link(lower / "0", lower / "1")
    with driver.mount(layers, ON) as mnt:
        (mnt / "0").chmod(0o600)
        for name in ("2", "3"):
            os.link(lower / "0", lower / name)
        lowers.changes_meant(lower)
        for name in ("2", "3"):
            (mnt / name).unlink()
        # It asks for nothing else, which the kernel's FUSE client might answer by itself.
        assert subprocess.check_output(["stat", "-c", "%h", mnt / "0"]) == b"1\n"
        os.link(mnt / "0", mnt / "4")
        for name in ("0", "1", "4"):
            (mnt / name).unlink()
        assert os.listdir(mnt) == []
    with driver.mount(layers, ON):
        assert [entry for entry in at_rest(layers).values() if entry[0] != "c"] == []
