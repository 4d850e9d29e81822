"""Which directories are no layers of one union, and which only look so?"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion, config_of, opened
from tests.overlay.test_lookup import directory_of, node_of
from tests.support.lowers import changes_meant, check, watch
from tests.support.mounts import Kernel, Layers, MountFailed
from tests.support.trees import diff, snapshot
from unionfs.linux import fs
from unionfs.overlay import checks, merge
from unionfs.overlay.errors import LayerError
from unionfs.overlay.union import Union


@contextmanager
def mounted(*command: str | Path) -> Iterator[None]:
    """`mount COMMAND`, whose last word is the mount point, for the time of a block."""
    subprocess.run(["mount", *command], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", command[-1]], check=True)


def refused(layers: Layers, said: str) -> None:
    """No union can be made of the layers, and nothing in them has changed."""
    before = snapshot(layers.mnt.parent)
    with pytest.raises(LayerError, match=said) as failed:
        Union.open(config_of(layers))
    assert failed.value.exit_code == 32
    assert diff(before, snapshot(layers.mnt.parent)) == []


class TestNumber:
    """At most 500 lower layers, as in the kernel."""

    def test_too_many(self, layers: Layers) -> None:
        refused(Layers((*layers.lowers * 501,), layers.upper, layers.work, layers.mnt), "501 layers.*at most 500")

    def test_as_many_as_can_be(self, make_layers: LayersFactory, open_union: OpenUnion) -> None:
        layers = make_layers(lowers=checks.MOST_LOWERS)
        (layers.lowers[-1] / "file").write_bytes(b"")
        assert node_of(open_union(layers), "file") is not None


class TestOverlaps:
    """By whatever path a directory is named."""

    def test_the_same_directory_by_another_mount(self, layers: Layers) -> None:
        view = layers.mnt.parent / "view"
        view.mkdir()
        with mounted("--bind", layers.lowers[0], view):
            twice = Layers((*layers.lowers, view), layers.upper, layers.work, layers.mnt)
            watch(twice.lowers, twice.work)
            with pytest.raises(MountFailed), Kernel().mount(twice):
                pass
            refused(twice, "overlaps")
            check(twice.lowers)
            # Another directory is there once this is unmounted.
            changes_meant(view)

    def test_inside_another_by_another_mount(self, layers: Layers) -> None:
        view = layers.mnt.parent / "view"
        view.mkdir()
        (layers.lowers[0] / "inner").mkdir()
        with mounted("--bind", layers.lowers[0], view):
            nested = Layers((*layers.lowers, view / "inner"), layers.upper, layers.work, layers.mnt)
            refused(nested, "overlaps")

    @pytest.mark.parametrize("where", ["upper", "lower"])
    def test_another_filesystem_mounted_inside_a_layer_is_no_part_of_it(
        self, where: str, layers: Layers
    ) -> None:
        """As with `lowerdir=/` and an upper layer in /run: a layer is what lies on its own filesystem."""
        inside = layers.lowers[0] / "inside"
        inside.mkdir()
        (layers.lowers[0] / "file").write_bytes(b"")
        with mounted("-t", "tmpfs", "tmpfs", inside):
            for name in ("upper", "work", "lower"):
                (inside / name).mkdir()
            (inside / "lower" / "other").write_bytes(b"")
            if where == "upper":
                apart = Layers(layers.lowers, inside / "upper", inside / "work", layers.mnt)
            else:
                apart = Layers((*layers.lowers, inside / "lower"), layers.upper, layers.work, layers.mnt)
            with Kernel().mount(apart) as mnt:
                seen = sorted(os.listdir(mnt))
            with opened(apart) as union:
                assert [name for name in ("file", "inside", "other") if node_of(union, name) is not None] == seen
                assert merge.index_of(union, directory_of(union, "inside")).names.keys() == set()

    @pytest.mark.parametrize("redirect", [False, True])
    def test_an_upper_layer_inside_a_lower_one(self, redirect: bool, layers: Layers) -> None:
        """As of a container with its user's home directory as a volume; nothing leads from the one layer to the other."""
        inside = layers.lowers[0] / "inside"
        for name in ("upper", "work"):
            (inside / name).mkdir(parents=True)
        (inside / "upper" / "file").write_bytes(b"")
        places = ["inside/upper", "inside/work"]
        if redirect:
            (inside / "upper" / "moved").mkdir()
            os.setxattr(inside / "upper" / "moved", "trusted.overlay.redirect", b"/inside/upper")
            places = ["moved"]
        nested = Layers(layers.lowers, inside / "upper", inside / "work", layers.mnt)
        options = f"lowerdir={layers.lowers[0]},upperdir={inside}/upper,workdir={inside}/work"
        with mounted("-t", "overlay", "-o", f"redirect_dir=on,{options}", "overlay", layers.mnt):
            assert sorted(os.listdir(layers.mnt / "inside")) == ["upper", "work"]
            for place in places:
                with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
                    os.stat(layers.mnt / place)
        refused(nested, "overlaps")
        with opened(nested, nested=True) as union:
            changes_meant(layers.lowers[0])
            assert merge.index_of(union, directory_of(union, "inside")).names.keys() == {b"upper", b"work"}
            assert node_of(union, "file") is not None
            for place in places:
                above, _, name = place.rpartition("/")
                with pytest.raises(OSError, match="upper layer or the work directory") as refusal:
                    node_of(union, name, directory_of(union, above) if above else None)
                assert refusal.value.errno == errno.ELOOP

    def test_a_lower_layer_inside_an_upper_one(self, layers: Layers) -> None:
        (layers.top / "lower").mkdir()
        refused(Layers((layers.top / "lower",), layers.upper, layers.work, layers.mnt), "overlaps")


@pytest.mark.parametrize("which", ["lowerdir", "upperdir"])
def test_a_layer_that_ignores_case(which: str, layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chattr +F` itself takes a filesystem made for it, and a kernel with CONFIG_UNICODE."""
    folding = layers.top if which == "upperdir" else layers.lowers[0]
    flags = fs.inode_flags

    def with_folding(fd: int) -> int:
        return flags(fd) | (fs.FS_CASEFOLD_FL if os.fstat(fd).st_ino == folding.stat().st_ino else 0)

    monkeypatch.setattr(fs, "inode_flags", with_folding)
    refused(layers, f"{which}: .*ignores the case")
