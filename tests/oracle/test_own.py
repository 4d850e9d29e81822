"""Does unionfs keep the promises for which the kernel's overlayfs is not the measure?

Where the kernel does worse, or knows no such thing (`.wh.` files, whiteouts as xattrs in every layer), the expectation is
written down here.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.oracle.actor import perform
from tests.oracle.case import Builder, Suite
from tests.oracle.cases_files import unlinked
from tests.oracle.cases_lookup import LOOKUP
from tests.support.mounts import Driver, Layers
from tests.support.trees import snapshot

LayersFactory = Callable[..., Layers]


@pytest.fixture
def union(subject: Driver) -> Iterator[Callable[[Layers], Path]]:
    """`union(layers)` mounts unionfs over filled layers until the test ends."""
    with ExitStack() as stack:
        yield lambda layers: stack.enter_context(subject.mount(layers))


Union = Callable[[Layers], Path]


def names(tree: Path) -> list[str]:
    """Every path below a directory."""
    return sorted(snapshot(tree, leave_out=("digest", "xattrs", "holes")).keys() - {"."})


def test_listings_agree_with_lookups(make_layers: LayersFactory, union: Union) -> None:
    """d_ino is st_ino, and whatever is listed is there, in every layout of the lookup suite."""
    layers = make_layers(lowers=LOOKUP.lowers)
    LOOKUP.build(layers, list(LOOKUP.cases))
    mnt = union(layers)
    for directory, _, _ in os.walk(mnt):
        found = ops.listing(directory)
        assert (found.unequal, found.absent) == ([], []), directory


@pytest.mark.parametrize("how", ["unlinked", "replaced"])
def test_unlinked_lower_file_works_as_an_upper_one(how: str, make_layers: LayersFactory, union: Union) -> None:
    """The kernel goes on saying nlink 1, and refuses every change with EEXIST."""
    performed = {}
    for kind in ("upper", "lower"):
        layers = make_layers(name=kind, lowers=2)
        suite = Suite("own", lowers=2, alone=True)
        suite.add("case", unlinked(kind, os.O_RDONLY, how))
        steps = suite.build(layers, ["case"])
        mnt = union(layers)
        performed[kind] = perform(steps["case"], mnt, mnt)
    assert performed["lower"] == performed["upper"]
    outcomes = {step.label: step.outcome for step in performed["lower"]}
    assert outcomes["fchmod(fd1, 384)"] == "ok"
    assert outcomes["reopen_write(fd1, b'reopened')"] == "ok"


def test_directory_of_needless_whiteouts_can_be_removed(layers: Layers, union: Union) -> None:
    Builder(layers, ".").upper.whiteout("x/y")
    mnt = union(layers)
    assert os.listdir(mnt / "x") == []
    os.rmdir(mnt / "x")
    assert os.listdir(mnt) == []
    assert names(layers.top) == []


@pytest.mark.parametrize("flag", [os.XATTR_CREATE, os.XATTR_REPLACE])
def test_setxattr_that_fails_copies_nothing(flag: int, layers: Layers, union: Union) -> None:
    b = Builder(layers, ".")
    b.lower().file("d/f")
    b.lower().xattr("d/f", "user.there", b"1")
    mnt = union(layers)
    name = "user.there" if flag == os.XATTR_CREATE else "user.absent"
    with pytest.raises(OSError, match=r"exists|No data"):
        os.setxattr(mnt / "d/f", name, b"2", flag)
    assert names(layers.top) == []


def test_chown_of_nothing_copies_nothing(layers: Layers, union: Union) -> None:
    """chown(-1, -1) of what has no set-id bits changes nothing; the kernel copies it up."""
    b = Builder(layers, ".")
    b.lower().file("d/f", owner=(5, 6))
    b.lower().symlink("d/s")
    mnt = union(layers)
    for name in ("d/f", "d/s", "d"):
        os.chown(mnt / name, -1, -1, follow_symlinks=False)
    assert names(layers.top) == []


def test_unlink_copies_no_data(make_layers: LayersFactory, disks: Callable[[str], Path], union: Union, scratch: Path) -> None:
    """A lower file that would not fit into the upper can be removed, and renamed files' targets too."""
    made = make_layers()
    (made.lowers[0] / "large").write_bytes(os.urandom(8 << 20))
    small = scratch / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        for name in ("upper", "work"):
            (small / name).mkdir()
        mnt = union(Layers(made.lowers, small / "upper", small / "work", made.mnt))
        os.unlink(mnt / "large")
        assert os.listdir(mnt) == []
        subprocess.run(["umount", mnt], check=True)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


# ------------------------------------------------------------------------------------- whiteouts that the kernel does not know

def test_wh_files_hide_names_below(make_layers: LayersFactory, union: Union) -> None:
    """`.wh.NAME` in a layer hides NAME of the layers below, and does not show itself."""
    layers = make_layers(lowers=3)
    b = Builder(layers, ".")
    for number in range(3):
        b.lower(number).file(f"only{number}")
    b.lower(2).file("file", b"hidden by lower0")
    b.lower(0).file(".wh.file")
    b.lower(2).file("dir/inside")
    b.lower(1).file(".wh.dir")
    b.lower(2).file("back", b"old")
    b.lower(1).file(".wh.back")
    b.lower(0).file("back", b"new")
    b.lower(1).file("by-upper")
    b.upper.file(".wh.by-upper")
    mnt = union(layers)
    assert sorted(os.listdir(mnt)) == ["back", "only0", "only1", "only2"]
    assert (mnt / "back").read_bytes() == b"new"
    for name in ("file", "dir", "by-upper", ".wh.file", ".wh.dir", ".wh.absent"):
        assert not os.path.lexists(mnt / name), name


def test_wh_opq_makes_a_directory_opaque(make_layers: LayersFactory, union: Union) -> None:
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    b.lower(1).file("d/below")
    b.lower(0).file("d/.wh..wh..opq")
    b.lower(0).file("d/above")
    b.lower(1).file("e/below")
    b.upper.file("e/.wh..wh..opq")
    mnt = union(layers)
    assert os.listdir(mnt / "d") == ["above"]
    assert os.listdir(mnt / "e") == []
    assert not os.path.lexists(mnt / "d/below")


def test_names_of_wh_files_cannot_be_made(layers: Layers, union: Union) -> None:
    (layers.lowers[0] / "f").write_bytes(b"data")
    mnt = union(layers)
    for call in (
        lambda: ops.create(str(mnt / ".wh.f")),
        lambda: os.mkdir(mnt / ".wh.d"),
        lambda: os.symlink("x", mnt / ".wh.s"),
        lambda: os.link(mnt / "f", mnt / ".wh.l"),
        lambda: os.rename(mnt / "f", mnt / ".wh.r"),
    ):
        with pytest.raises(OSError, match="Errno"):
            call()
    assert os.listdir(mnt) == ["f"]
    assert (mnt / "f").read_bytes() == b"data"


def test_creating_over_a_wh_file(make_layers: LayersFactory, union: Union) -> None:
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    for name in ("file", "dir/inside", "moved"):
        b.lower(1).file(name, b"old")
    for name in ("file", "dir", "moved"):
        b.upper.file(f".wh.{name}")
    mnt = union(layers)
    (mnt / "file").write_bytes(b"new")
    (mnt / "dir").mkdir()
    (mnt / "source").write_bytes(b"source")
    (mnt / "source").rename(mnt / "moved")
    before = snapshot(mnt)
    assert sorted(before) == [".", "dir", "file", "moved"]
    for name in sorted(before.keys() - {"."}):
        if before[name].type == "dir":
            (mnt / name).rmdir()
        else:
            (mnt / name).unlink()
    assert os.listdir(mnt) == []


def test_removing_a_directory_with_only_wh_files(make_layers: LayersFactory, union: Union) -> None:
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    b.lower(1).file("d/inside")
    b.lower(0).file("d/.wh.inside")
    b.upper.file("own/.wh.absent")
    mnt = union(layers)
    for name in ("d", "own"):
        assert os.listdir(mnt / name) == []
        os.rmdir(mnt / name)
    assert os.listdir(mnt) == []


@pytest.fixture
def with_xattr_whiteout(make_layers: LayersFactory) -> Layers:
    """`d/gone` and `d/here`, over whose first an empty file with `trusted.overlay.whiteout` lies."""
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    for name in ("gone", "here"):
        b.lower(1).file(f"d/{name}", b"below")
    b.lower(0).file("d/gone")
    b.lower(0).xattr("d/gone", "trusted.overlay.whiteout", b"")
    return layers


def test_xattr_whiteouts(with_xattr_whiteout: Layers, union: Union) -> None:
    """In a directory marked `x` such a file hides its name in lookup and listing alike."""
    Builder(with_xattr_whiteout, ".").lower(0).opaque("d", b"x")
    mnt = union(with_xattr_whiteout)
    assert os.listdir(mnt / "d") == ["here"]
    assert not os.path.lexists(mnt / "d/gone")
    (mnt / "d/gone").write_bytes(b"again")
    assert sorted(os.listdir(mnt / "d")) == ["gone", "here"]
    os.unlink(mnt / "d/gone")
    os.unlink(mnt / "d/here")
    os.rmdir(mnt / "d")
    assert os.listdir(mnt) == []


def test_an_unmarked_directory_has_no_xattr_whiteouts(with_xattr_whiteout: Layers, union: Union) -> None:
    """Without the mark the kernel's lookup hides such a file and its listing shows it; here both show it."""
    mnt = union(with_xattr_whiteout)
    assert sorted(os.listdir(mnt / "d")) == ["gone", "here"]
    assert (mnt / "d/gone").read_bytes() == b""


def test_without_an_upper_nothing_can_be_changed(make_layers: LayersFactory, union: Union) -> None:
    layers = make_layers(lowers=2, upper=False)
    for lower in layers.lowers:
        (lower / f"in-{lower.name}").write_bytes(b"data")
    mnt = union(layers)
    assert sorted(os.listdir(mnt)) == ["in-lower0", "in-lower1"]
    assert (mnt / "in-lower1").read_bytes() == b"data"
    for call in (
        lambda: (mnt / "new").write_bytes(b""),
        lambda: os.unlink(mnt / "in-lower0"),
        lambda: os.chmod(mnt / "in-lower0", 0o600),
        lambda: os.open(mnt / "in-lower0", os.O_RDWR),
        lambda: os.mkdir(mnt / "d"),
        lambda: os.rename(mnt / "in-lower0", mnt / "x"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            call()


def test_inode_numbers_survive_a_remount(layers: Layers, subject: Driver) -> None:
    for name in ("a", "b/c"):
        (layers.lowers[0] / name).parent.mkdir(exist_ok=True)
        (layers.lowers[0] / name).write_bytes(b"data")
    with subject.mount(layers) as mnt:
        before = {name: (mnt / name).stat().st_ino for name in ("a", "b", "b/c", ".")}
        (mnt / "a").write_bytes(b"copied up")
        (mnt / "b").chmod(0o700)
        copied = {name: (mnt / name).stat().st_ino for name in before}
    with subject.mount(layers) as mnt:
        after = {name: (mnt / name).stat().st_ino for name in before}
    assert before == copied == after


def test_two_layers_of_other_filesystems(disks: Callable[[str], Path], subject: Driver, scratch: Path) -> None:
    """Numbers are unique over layers on several filesystems, and everything of each layer is there."""
    places = {kind: disks(kind) / scratch.name for kind in ("xfs", "tmpfs")}
    layers = Layers.create(scratch / "own")
    others = []
    for kind, place in places.items():
        place.mkdir()
        (place / kind).write_bytes(kind.encode())
        (place / "merged").mkdir()
        (place / "merged" / f"in-{kind}").write_bytes(kind.encode())
        others.append(place)
    wide = Layers((*layers.lowers, *others), layers.upper, layers.work, layers.mnt)
    with subject.mount(wide) as mnt:
        paths = names(mnt)
        assert paths == ["merged", "merged/in-tmpfs", "merged/in-xfs", "tmpfs", "xfs"]
        numbers = {path: (mnt / path).lstat().st_ino for path in paths}
        assert len(set(numbers.values())) == len(paths)
        for path in ("merged/in-tmpfs", "xfs"):
            (mnt / path).write_bytes(b"copied up")
        assert {path: (mnt / path).lstat().st_ino for path in paths} == numbers
        os.rename(mnt / "tmpfs", mnt / "merged/tmpfs")
    for place in others:
        subprocess.run(["rm", "-r", place], check=True)


def test_a_copy_of_a_layer_s_directory_is_another(layers: Layers, subject: Driver) -> None:
    """It says of itself what the first says: from where its files were copied up, and what it is merged with.

    The kernel fails with ESTALE for what it finds second.
    """
    (layers.lowers[0] / "origin/sub").mkdir(parents=True)
    (layers.lowers[0] / "origin/file").write_bytes(b"data")
    with subject.mount(layers, {"redirect_dir": "on"}) as mnt:
        (mnt / "origin/file").write_bytes(b"one")
        (mnt / "origin/sub").chmod(0o700)
        (mnt / "origin").rename(mnt / "first")
        numbers = {name: (mnt / "first" / name).stat().st_ino for name in ("", "file", "sub")}
    subprocess.run(["cp", "-a", layers.top / "first", layers.top / "second"], check=True)
    (layers.top / "second/file").write_bytes(b"two")
    with subject.mount(layers, {"redirect_dir": "on"}) as mnt:
        for name, number in numbers.items():
            assert (mnt / "first" / name).stat().st_ino == number
            assert (mnt / "second" / name).stat().st_ino != number
        different = subprocess.run(["diff", "-rq", mnt / "first", mnt / "second"], check=False, stdout=subprocess.DEVNULL)
        assert different.returncode == 1
