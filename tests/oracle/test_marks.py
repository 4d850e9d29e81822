"""Does every form of whiteout hide its name in every layer, and for lookups, listings, removals and new names alike?

Of whiteouts that are xattrs the kernel's overlayfs has its lookup and its listing disagree, and `.wh.` files it does not know
(SEMANTICS: "Be consistent"), so what is right is written down here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, LayerBuilder
from tests.oracle.pair import both
from tests.support.mounts import Driver, Kernel, Layers
from tests.support.trees import diff, snapshot

LayersFactory = Callable[..., Layers]
FORMS = ("device", "xattr", "wh")
POSITIONS = ("upper", "top", "middle", "lowest")
NAMES = ("file", "dir", "symlink")
P = "trusted.overlay."
PREFIXES = {"trusted": "trusted.overlay.", "user": "user.overlay."}


def hide(layer: LayerBuilder, directory: str, name: str, form: str, prefix: str) -> None:
    """A whiteout of `directory/name` in a layer."""
    if form == "device":
        layer.whiteout(f"{directory}/{name}")
    elif form == "wh":
        layer.file(f"{directory}/.wh.{name}")
    else:
        layer.file(f"{directory}/{name}")
        layer.xattr(f"{directory}/{name}", prefix + "whiteout", b"any value")
        layer.xattr(directory, prefix + "opaque", b"x")


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """The form of the whiteouts."""
    return str(request.param)


@pytest.fixture(params=POSITIONS)
def position(request: pytest.FixtureRequest) -> str:
    """The layer they are in."""
    return str(request.param)


@pytest.fixture(params=list(PREFIXES))
def namespace(request: pytest.FixtureRequest) -> str:
    """Where the marks are kept."""
    return str(request.param)


HOW = ("create", "exclusive", "mkdir", "symlink", "mknod", "link", "rename", "rename-dir")
"""Ways to make a new name; each has a directory of its own."""


@pytest.fixture
def hidden(form: str, position: str, namespace: str, make_layers: LayersFactory) -> Layers:
    """Directories whose names are all hidden; those of HOW also have `kept`. Something to hide is there if there is a below."""
    layers = make_layers(lowers=3)
    b = Builder(layers, ".")
    built = {"upper": b.upper, "top": b.lower(0), "middle": b.lower(1), "lowest": b.lower(2)}
    for directory in ("removed", "replaced", *HOW):
        if position != "lowest":
            b.lower(2).file(f"{directory}/file", b"below")
            b.lower(2).file(f"{directory}/dir/inside", b"below")
            b.lower(2).symlink(f"{directory}/symlink", "kept")
        else:
            b.lower(2).dir(directory)
        for name in NAMES:
            hide(built[position], directory, name, form, PREFIXES[namespace])
        if directory in HOW:
            b.lower(1).file(f"{directory}/kept", b"kept")
    b.lower(0).file("source/file", b"source")
    return layers


def options(namespace: str) -> dict[str, str | None]:
    """The mount options for a namespace."""
    return {"userxattr": None} if namespace == "user" else {}


def test_hidden_from_lookup_listing_and_removal(hidden: Layers, namespace: str, subject: Driver) -> None:
    with subject.mount(hidden, options(namespace)) as mnt:
        for _ in range(2):
            assert not any(os.path.lexists(mnt / "create" / name) for name in NAMES)
            assert not os.path.lexists(mnt / "create/dir/inside")
            assert os.listdir(mnt / "create") == ["kept"]
            assert os.listdir(mnt / "removed") == []
        with pytest.raises(OSError, match="not empty"):
            os.rmdir(mnt / "create")
        os.rmdir(mnt / "removed")
        assert not os.path.lexists(mnt / "removed")
        os.mkdir(mnt / "removed")
        os.mkdir(mnt / "own")
        (mnt / "own" / "new").write_bytes(b"")
        os.rename(mnt / "own", mnt / "replaced")
        assert (os.listdir(mnt / "removed"), os.listdir(mnt / "replaced")) == ([], ["new"])
    with subject.mount(hidden, options(namespace)) as mnt:
        assert (os.listdir(mnt / "removed"), os.listdir(mnt / "replaced")) == ([], ["new"])


def make_over(directory: Path, source: Path, how: str) -> None:
    """New things at every hidden name, made as `how` says."""
    for name in NAMES:
        path = directory / name
        match how:
            case "create":
                path.write_bytes(b"new")
            case "exclusive":
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
            case "mkdir":
                path.mkdir()
            case "symlink":
                path.symlink_to("x")
            case "mknod":
                os.mkfifo(path)
            case "link":
                os.link(source / "file", path)
            case "rename":
                os.link(source / "file", source / "another")
                os.rename(source / "another", path)
            case "rename-dir":
                (source / "made").mkdir()
                (source / "made" / "own").write_bytes(b"")
                os.rename(source / "made", path)


def remove(path: Path) -> None:
    """Whatever `make_over` made."""
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    else:
        path.unlink()


def test_new_names_over_them(hidden: Layers, namespace: str, form: str, subject: Driver) -> None:
    with subject.mount(hidden, options(namespace)) as mnt:
        for how in HOW:
            make_over(mnt / how, mnt / "source", how)
            assert sorted(os.listdir(mnt / how)) == sorted([*NAMES, "kept"]), how
        assert os.listdir(mnt / "mkdir/dir") == []
        assert os.listdir(mnt / "rename-dir/dir") == ["own"]
        left = snapshot(mnt)
    with subject.mount(hidden, options(namespace)) as mnt:
        assert diff(left, snapshot(mnt)) == []
        for how in HOW:
            for name in NAMES:
                remove(mnt / how / name)
            assert os.listdir(mnt / how) == ["kept"], how
    if form == "device" and namespace == "trusted":
        with Kernel().mount(hidden) as mnt:
            assert all(os.listdir(mnt / how) == ["kept"] for how in HOW)


def test_they_cannot_be_named(layers: Layers, subject: Driver) -> None:
    """`.wh.` alone hides nothing, and is not shown either."""
    for place in (layers.lowers[0], layers.top):
        (place / ".wh.").write_bytes(b"")
        (place / "file").write_bytes(b"")
    (layers.lowers[0] / ".wh..wh..plnk").mkdir()
    with subject.mount(layers) as mnt:
        assert os.listdir(mnt) == ["file"]
        assert not os.path.lexists(mnt / ".wh.")
        for call in (os.mkdir, os.unlink, os.rmdir, os.mkfifo):
            with pytest.raises(OSError, match="Errno") as failed:
                call(mnt / ".wh.")
            assert failed.value.errno in (errno.EINVAL, errno.ENOENT)
        (mnt / "file").unlink()
        assert os.listdir(mnt) == []


def test_an_empty_file_that_is_no_whiteout(make_layers: LayersFactory, subject: Driver) -> None:
    """In a directory marked `x`: neither an empty one without the xattr, nor one with content, is a whiteout."""
    layers = make_layers(lowers=2)
    b = Builder(layers, ".")
    b.lower(0).file("d/empty")
    b.lower(0).file("d/full", b"content")
    b.lower(0).xattr("d/full", "trusted.overlay.whiteout", b"y")
    b.lower(0).symlink("d/symlink")
    b.lower(0).xattr("d", "trusted.overlay.opaque", b"x")
    b.lower(1).file("d/below")
    with subject.mount(layers) as mnt:
        assert sorted(os.listdir(mnt / "d")) == ["below", "empty", "full", "symlink"]
        assert (mnt / "d/full").read_bytes() == b"content"
        (mnt / "d/full").write_bytes(b"")
        assert sorted(os.listdir(mnt / "d")) == ["below", "empty", "full", "symlink"]
    with subject.mount(layers) as mnt:
        assert sorted(os.listdir(mnt / "d")) == ["below", "empty", "full", "symlink"]
        assert "trusted.overlay.opaque" not in os.listxattr(layers.top / "d")


@pytest.mark.parametrize("scratch", ["xfs"], indirect=True)
@pytest.mark.parametrize("mark", ["opaque", "redirect", "origin", "impure", "protattr", "nlink", "whiteout", "unknown"])
def test_marks_of_enormous_size(mark: str, make_layers: LayersFactory, subject: Driver) -> None:
    """64 KiB, the most an xattr can have: the answers are the kernel's."""

    def fill(layers: Layers, b: Builder) -> None:
        for number, layer in enumerate((b.upper, b.lower(0), b.lower(1))):
            layer.file(f"in{number}/file", b"data")
            layer.xattr(f"in{number}", P + mark, b"/" + b"x" * 65535)
            layer.xattr(f"in{number}/file", P + mark, b"y" * 65536)
        b.lower(1).file("in0/below", b"below")
        b.lower(1).file("in1/below", b"below")

    def steps(a: Actor) -> None:
        for number in range(3):
            a(ops.ls, f"in{number}")
            a(ops.xattrs, f"in{number}")
            a(ops.read, f"in{number}/file")
            a(ops.xattrs, f"in{number}/file")
            a(os.chmod, f"in{number}/file", 0o600)
            a(ops.create, f"in{number}/new", b"new")
            a(ops.ls, f"in{number}")
        a(ops.ls)

    ours, theirs = both(make_layers, subject, fill, steps, lowers=2)
    assert ours == theirs
