"""Do unions stored in unions keep their marks: escaped when they are written through, shown to the outer one, at any depth?

Every pair of implementations, the kernel's overlayfs or ours, as inner and outer mount, with marks in both namespaces.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mounts import Driver, Kernel, Layers, Unionfs
from tests.support.trees import diff, snapshot

LayersFactory = Callable[..., Layers]
PREFIXES = {"trusted": "trusted.overlay.", "user": "user.overlay."}
DRIVERS = {"kernel": Kernel, "unionfs": Unionfs}


@pytest.fixture(params=list(PREFIXES))
def namespace(request: pytest.FixtureRequest) -> str:
    """Where the marks are kept, by both mounts."""
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is to be unmounted when the test ends, the last mount first."""
    with ExitStack() as mounts:
        yield mounts


@pytest.fixture(params=["kernel", "unionfs"])
def inner(request: pytest.FixtureRequest) -> Driver:
    """Whoever mounts the union in which the outer one's layers lie."""
    return DRIVERS[request.param]()


@pytest.fixture(params=["kernel", "unionfs"])
def outer(request: pytest.FixtureRequest) -> Driver:
    """Whoever mounts the outer union."""
    return DRIVERS[request.param]()


def options(namespace: str) -> dict[str, str | None]:
    """Mount options for a namespace; the kernel takes no others with it."""
    return {"userxattr": None, "redirect_dir": "nofollow"} if namespace == "user" else {}


def marks_of(path: Path) -> dict[str, bytes]:
    """Private-looking xattrs of an object."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if ".overlay." in name}


def test_what_is_written_through_the_mount_is_escaped(namespace: str, inner: Driver, layers: Layers) -> None:
    """One `overlay.` more on disk for each level, in the active namespace alone; the listing takes it off again."""
    prefix, other = PREFIXES[namespace], PREFIXES["user" if namespace == "trusted" else "trusted"]
    (layers.lowers[0] / "file").write_bytes(b"")
    os.setxattr(layers.lowers[0] / "file", prefix + "overlay.below", b"b")
    with inner.mount(layers, options(namespace)) as mnt:
        path = mnt / "file"
        written = {
            prefix + "opaque": b"y", prefix + "anything": b"1", prefix + "overlay.opaque": b"x",
            prefix + "overlay.overlay.a": b"2",
            other + "opaque": b"3", other + "overlay.b": b"4",
        }  # fmt: skip
        for name, value in written.items():
            os.setxattr(path, name, value)
        assert marks_of(path) == written | {prefix + "below": b"b"}
        os.removexattr(path, prefix + "anything")
        with pytest.raises(OSError, match="Errno"):
            os.getxattr(path, prefix + "anything")
        del written[prefix + "anything"]
        assert marks_of(path) == written | {prefix + "below": b"b"}
    on_disk = {
        (prefix + "overlay." + name[len(prefix) :] if name.startswith(prefix) else name): value for name, value in written.items()
    }
    found = {name: value for name, value in marks_of(layers.top / "file").items() if not name.endswith(".origin")}
    assert found == on_disk | {prefix + "overlay.below": b"b"}


def build_lower(base: Path, prefix: str) -> None:
    """A layer that was made for being stored in a union: its whiteouts are xattrs, its marks one level deeper."""
    for name in ("merged", "opaque", "plain"):
        (base / name).mkdir(parents=True)
        (base / name / "above").write_bytes(b"above")
    (base / "merged" / "gone").write_bytes(b"")
    os.setxattr(base / "merged" / "gone", prefix + "overlay.whiteout", b"")
    os.setxattr(base / "merged", prefix + "overlay.opaque", b"x")
    os.setxattr(base / "opaque", prefix + "overlay.opaque", b"y")
    os.setxattr(base / "plain" / "above", prefix + "overlay.unknown", b"hidden from the outer one's users")


@pytest.mark.parametrize("depth", [1, 2])
def test_a_layer_stored_in_a_union(
    depth: int, namespace: str, inner: Driver, outer: Driver, make_layers: LayersFactory, stack: ExitStack
) -> None:
    """The inner mount shows the marks as the outer one's own; with another `overlay.`, one mount later."""
    prefix = PREFIXES[namespace]
    store = make_layers(name="store", upper=False, lowers=2)
    deeper = prefix + "overlay." * (depth - 1)
    build_lower(store.lowers[0] / "layer", deeper)
    below = make_layers(name="below")
    for name in ("merged", "opaque", "plain"):
        (below.lowers[0] / name).mkdir()
        for inside in ("gone", "below"):
            (below.lowers[0] / name / inside).write_bytes(b"below")
    place = stack.enter_context(inner.mount(store, options(namespace)))
    if depth == 2:
        again = make_layers(name="again", upper=False, lowers=2)
        wrapped = Layers((place, again.lowers[0]), None, None, again.mnt)
        place = stack.enter_context(Unionfs().mount(wrapped, {**options(namespace), "passthrough": "off"}))
    layers = Layers((place / "layer", *below.lowers), below.upper, below.work, below.mnt)
    if outer.name == "kernel" and depth == 2 and inner.name == "kernel":
        # Ours is in between, and without passthrough counts for nothing.
        assert place != store.mnt
    mnt = stack.enter_context(outer.mount(layers, options(namespace)))
    seen = {name: sorted(os.listdir(mnt / name)) for name in ("merged", "opaque", "plain")}
    assert seen == {"merged": ["above", "below"], "opaque": ["above"], "plain": ["above", "below", "gone"]}
    assert not os.path.lexists(mnt / "merged" / "gone")
    assert marks_of(mnt / "plain" / "above") == {}
    (mnt / "merged" / "gone").write_bytes(b"again")
    (mnt / "plain" / "above").chmod(0o600)
    (mnt / "opaque" / "above").unlink()
    (mnt / "opaque").rmdir()
    assert sorted(os.listdir(mnt / "merged")) == ["above", "below", "gone"]
    assert sorted(os.listdir(mnt)) == ["merged", "plain"]


def test_an_upper_layer_made_and_shipped_in_a_union(namespace: str, inner: Driver, make_layers: LayersFactory) -> None:
    """An upper layer with every mark, copied into a mount and read from there again, works as before."""
    prefix = PREFIXES[namespace]
    layers = make_layers(name="plain", lowers=1)
    for name in ("d/kept", "d/gone", "opaque/old", "moved/inside"):
        (layers.lowers[0] / name).parent.mkdir(exist_ok=True)
        (layers.lowers[0] / name).write_bytes(name.encode())
    with Unionfs().mount(layers, options(namespace)) as mnt:
        (mnt / "d/kept").write_bytes(b"changed")
        (mnt / "d/new").write_bytes(b"new")
        (mnt / "opaque/old").unlink()
        (mnt / "opaque").rmdir()
        (mnt / "opaque").mkdir()
        (mnt / "opaque/young").write_bytes(b"")
        if namespace == "trusted":
            (mnt / "moved").rename(mnt / "d/moved")
        expected = snapshot(mnt)
    assert any(marks_of(path) for path in (layers.top, layers.top / "d", layers.top / "opaque"))
    storage = make_layers(name="storage")
    (storage.lowers[0] / "layer").mkdir()
    with inner.mount(storage, options(namespace)) as store:
        _copy(layers.top, store / "layer", prefix)
        reader = make_layers(name="reader", upper=False)
        combined = Layers((store / "layer", *layers.lowers), None, None, reader.mnt)
        with Unionfs().mount(combined, {**options(namespace), "passthrough": "off"}) as mnt:
            assert diff(expected, snapshot(mnt)) == []
    disk = {name for _, _, files in os.walk(storage.top) for name in files}
    assert "new" in disk
    for path in storage.top.rglob("*"):
        assert not path.is_char_device(), "no whiteout of the stored layer is one of the storage"


def _copy(source: Path, target: Path, prefix: str) -> None:
    """As a tool does that stores a layer: whiteouts become xattrs, everything else is copied with its marks."""
    for path in sorted(source.rglob("*")):
        there = target / path.relative_to(source)
        status = path.lstat()
        if stat.S_ISCHR(status.st_mode):
            there.write_bytes(b"")
            os.setxattr(there, prefix + "whiteout", b"")
            os.setxattr(there.parent, prefix + "opaque", b"x")
            continue
        if stat.S_ISDIR(status.st_mode):
            there.mkdir()
        else:
            there.write_bytes(path.read_bytes())
        for name in os.listxattr(path):
            os.setxattr(there, name, os.getxattr(path, name))
    for path in [source, *sorted(source.rglob("*"), reverse=True)]:
        status = path.lstat()
        if not stat.S_ISCHR(status.st_mode):
            there = target / path.relative_to(source)
            there.chmod(stat.S_IMODE(status.st_mode))
            os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns))
    for name in os.listxattr(source):
        if not name.endswith(".opaque"):
            os.setxattr(target, name, os.getxattr(source, name))
