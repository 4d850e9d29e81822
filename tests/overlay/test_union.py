"""Do the layers open and close as one, in the right namespace of marks, and for one user at a time?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LayersFactory
from tests.oracle.child import in_child
from tests.overlay.conftest import OpenUnion, config_of, opened
from tests.overlay.test_lookup import node_of
from tests.support.lowers import changes_meant
from tests.support.mounts import Kernel, Layers
from tests.support.trees import diff, snapshot
from unionfs.linux import creds, fs
from unionfs.overlay import copyup, remove
from unionfs.overlay.config import UnionConfig, Uuid
from unionfs.overlay.errors import LayerError
from unionfs.overlay.union import Union


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """One file below."""
    (layers.lowers[0] / "dir").mkdir()
    (layers.lowers[0] / "dir" / "file").write_bytes(b"below")
    (layers.lowers[0] / "file").write_bytes(b"below")
    return layers


class TestPrefix:
    """The marks are kept in `trusted.overlay.`, or in `user.overlay.` where that is asked for or all that is allowed."""

    def marks_of(self, layers: Layers, **options: Any) -> set[str]:
        """The marks a copy-up leaves."""
        with opened(layers, uuid=Uuid.NULL, **options) as union:
            node = node_of(union, "dir")
            assert node is not None
            copyup.ensure_upper(union, node)
        return {name for place in (layers.top, layers.top / "dir") for name in os.listxattr(place)}

    def test_trusted(self, filled: Layers) -> None:
        assert self.marks_of(filled) == {"trusted.overlay.impure", "trusted.overlay.origin"}

    def test_asked_for(self, filled: Layers) -> None:
        assert self.marks_of(filled, userxattr=True) == {"user.overlay.impure", "user.overlay.origin"}

    @pytest.mark.parametrize("lacking", ["has_capability", "in_initial_user_namespace"])
    def test_not_allowed(self, lacking: str, filled: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
        known = creds.has_capability

        def without(capability: int = creds.CAP_SYS_ADMIN, pid: int | str = "self") -> bool:
            return lacking == "has_capability" and capability != creds.CAP_SYS_ADMIN and known(capability, pid)

        monkeypatch.setattr(creds, lacking, without)
        assert self.marks_of(filled) == {"user.overlay.impure", "user.overlay.origin"}


class TestClosing:
    """Everything is given back."""

    def test_descriptors(self, filled: Layers) -> None:
        before = descriptors()
        with opened(filled) as union:
            for name in ("file", "dir"):
                assert node_of(union, name) is not None
            remove.unlink(union, union.root, b"file")
        assert descriptors() == before

    def test_the_filesystem_can_be_unmounted(self, scratch: Path) -> None:
        """No clone of its mount is left."""
        place = scratch / "place"
        place.mkdir()
        assert os.system(f"mount -t tmpfs tmpfs {place}") == 0
        layers = Layers.create(place / "union")
        try:
            with opened(layers) as union:
                assert all(layer.private for layer in union.layers)
                assert os.system(f"umount {place}") == 0, "the clones do not keep the mount itself"
                assert os.listdir(b"/proc/self/fd/%d" % union.layers[1].root.fd()) == []
                changes_meant(*layers.lowers)
        finally:
            os.system(f"umount {place} 2>/dev/null")

    def test_after_a_failure(self, make_layers: LayersFactory) -> None:
        before = descriptors()
        layers = make_layers(lowers=20)
        layers.lowers[19].rmdir()
        with pytest.raises(LayerError, match="lower19"):
            Union.open(config_of(layers))
        assert descriptors() == before


class TestRefusals:
    """What can't be a union is named, and nothing is changed."""

    @pytest.fixture(autouse=True)
    def unchanged(self, filled: Layers) -> object:
        before = snapshot(filled.mnt.parent)
        yield
        assert diff(before, snapshot(filled.mnt.parent)) == []

    def refused(self, config: UnionConfig, said: str) -> None:
        before = descriptors()
        with pytest.raises(LayerError, match=said) as failed:
            Union.open(config)
        assert "\n" not in str(failed.value)
        assert failed.value.exit_code == 32
        assert descriptors() == before

    def changed(self, layers: Layers, **fields: object) -> UnionConfig:
        values: dict[str, object] = {
            "lowers": tuple(os.fsencode(lower) for lower in layers.lowers),
            "upper": os.fsencode(layers.top),
            "work": os.fsencode(layers.work or ""),
        }
        return UnionConfig(**{**values, **fields})  # type: ignore[arg-type]

    @pytest.mark.parametrize("field", ["upper", "work", "lowers"])
    @pytest.mark.parametrize(("name", "said"), [("absent", "does not exist"), ("lower0/file", "is not a directory")])
    def test_no_directory(self, field: str, name: str, said: str, filled: Layers) -> None:
        path = os.fsencode(filled.mnt.parent / name)
        self.refused(self.changed(filled, **{field: (path,) if field == "lowers" else path}), said)

    @pytest.mark.parametrize(
        ("upper", "work"),
        [("upper", "upper"), ("lower0", "work"), ("lower0/dir", "work"), ("upper", "lower0/dir"), (".", "work")],
    )
    def test_overlaps(self, upper: str, work: str, filled: Layers) -> None:
        base = os.fsencode(filled.mnt.parent)
        config = self.changed(filled, upper=os.path.join(base, upper.encode()), work=os.path.join(base, work.encode()))
        self.refused(config, "overlap")

    def test_the_same_layer_twice(self, filled: Layers) -> None:
        lower = os.fsencode(filled.lowers[0])
        for other in (lower, lower + b"/dir", lower + b"/../lower0"):
            self.refused(self.changed(filled, lowers=(lower, other)), "overlaps")

    def test_work_on_another_filesystem(self, filled: Layers, disks: Callable[[str], Path]) -> None:
        other = disks("xfs") / "work"
        other.mkdir()
        self.refused(self.changed(filled, work=os.fsencode(other)), "another filesystem")
        assert os.listdir(other) == []
        other.rmdir()


class TestLocks:
    """One union for an upper layer and a work directory."""

    def test_in_use_by_another(self, filled: Layers, make_layers: LayersFactory) -> None:
        other = make_layers()
        with opened(filled):
            for upper, work, option in ((filled.top, other.work, "upperdir"), (other.top, filled.work, "workdir")):
                with pytest.raises(LayerError, match=f"{option}.*in use by"):
                    Union.open(config_of(Layers(other.lowers, upper, work, other.mnt)))
        with opened(filled) as union:
            assert node_of(union, "file") is not None

    def test_in_use_by_a_child(self, filled: Layers) -> None:
        """The command's child goes on with what the parent has locked."""
        with opened(filled):

            def again() -> str:
                try:
                    Union.open(config_of(filled))
                except LayerError as error:
                    return str(error)
                return ""

            assert "in use by process" in in_child(again, 20, lambda: None)

    def test_in_use_by_the_kernel(self, filled: Layers, open_union: OpenUnion) -> None:
        with Kernel().mount(filled) as mnt, pytest.raises(LayerError, match=f"mounted on {mnt}"):
            open_union(filled)
        assert node_of(open_union(filled), "file") is not None


def test_a_read_only_union(filled: Layers, open_union: OpenUnion) -> None:
    union = open_union(replace(filled, upper=None, work=None))
    assert union.read_only
    node = node_of(union, "file")
    assert node is not None
    with pytest.raises(OSError, match="Errno 30"):
        copyup.ensure_upper(union, node)
    with pytest.raises(OSError, match="Errno 30"):
        remove.unlink(union, union.root, b"file")


def test_a_root_that_is_opaque(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    for number, form in enumerate(("xattr", "file")):
        layers = make_layers(lowers=2, name=f"opaque{number}")
        for lower in layers.lowers:
            (lower / f"in {lower.name}").write_bytes(b"")
        if form == "xattr":
            os.setxattr(layers.lowers[0], "trusted.overlay.opaque", b"y")
        else:
            (layers.lowers[0] / ".wh..wh..opq").write_bytes(b"")
        union = open_union(layers)
        assert [node_of(union, f"in lower{layer}") is not None for layer in (0, 1)] == [True, False]


def test_statfs_is_the_upper_filesystems(filled: Layers, open_union: OpenUnion, disks: Callable[[str], Path]) -> None:
    union = open_union(filled)
    fd = os.open(filled.top, os.O_PATH)
    expected = fs.statfs(fd)
    os.close(fd)
    found = union.statfs()
    assert (found.blocks, found.bsize, found.files, found.namelen) == (expected.blocks, expected.bsize, expected.files, 255)


def test_sync(filled: Layers, open_union: OpenUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fs, "syncfs", asked.append)
    open_union(filled).sync()
    assert len(asked) == 1


def test_what_layers_can_do(filled: Layers, open_union: OpenUnion) -> None:
    union = open_union(filled)
    for layer in union.layers:
        assert (layer.private, layer.handles, layer.ordered, layer.stack_depth) == (True, True, True, 0)
        assert layer.uuid != bytes(16)


def test_a_layer_on_an_overlay_is_stacked(filled: Layers, make_layers: LayersFactory) -> None:
    above = make_layers()
    with Kernel().mount(filled) as mnt, opened(Layers((mnt,), above.upper, above.work, above.mnt)) as union:
        assert [layer.stack_depth for layer in union.layers] == [0, 1]
