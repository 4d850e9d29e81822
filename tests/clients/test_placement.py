"""Placement: may the layers and the mount point lie anywhere, under any name, named in any way?"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import unionfs, wait_for
from tests.conftest import LayersFactory
from tests.support import lowers
from tests.support.mounts import (
    Kernel,
    Layers,
    Unionfs,
    escape,
    option_string,
    processes_naming,
    unmount,
)


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union with one file in its lower layer."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    return layers


def test_relative_paths(filled: Layers, scratch: Path) -> None:
    """The layers are opened before the server leaves the current directory."""
    base = filled.mnt.parent
    lowers.watch(filled.lowers, filled.work)
    done = unionfs("-o", "lowerdir=lower0,upperdir=./upper,workdir=../union1/work", "mnt", cwd=base)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    try:
        (filled.mnt / "file").write_bytes(b"changed\n")
        (filled.mnt / "new").write_bytes(b"")
    finally:
        unmount(filled.mnt)
    assert sorted(os.listdir(filled.top)) == ["file", "new"]
    assert (filled.lowers[0] / "file").read_bytes() == b"below\n"


def test_paths_as_containers_storage_names_them(filled: Layers) -> None:
    """Short links from the directory the program is started in, `..` behind a link, an empty option at the end."""
    store = filled.mnt.parent / "store"
    for directory in ("id1/diff", "id1/diff1", "id2/diff", "id3/diff", "id3/work", "l"):
        (store / directory).mkdir(parents=True)
        (store / directory / directory.replace("/", "-")).write_bytes(b"")
    (store / "id3" / "work" / "id3-work").unlink()
    for number in (1, 2):
        (store / "l" / f"LINK{number}").symlink_to(f"../id{number}/diff")
    layers = [store / "id1" / "diff1", store / "id1" / "diff", store / "id2" / "diff"]
    named = "lowerdir=l/LINK1/../diff1:l/LINK1:l/LINK2,upperdir=id3/diff,workdir=id3/work,"
    with lowers.untouched(layers, store / "id3" / "work"):
        done = unionfs("-o", named, filled.mnt, cwd=store)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        try:
            assert sorted(os.listdir(filled.mnt)) == ["id1-diff", "id1-diff1", "id2-diff", "id3-diff"]
        finally:
            unmount(filled.mnt)


def test_a_source_is_shown_as_the_mounts_device(filled: Layers) -> None:
    done = unionfs("my-source", filled.mnt, "-o", option_string(filled, {}))
    assert done.returncode == 0, done.stderr
    try:
        (line,) = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {filled.mnt} " in line]
        assert line.split()[0] == "my-source"
        assert line.split()[2] == "fuse.unionfs"
    finally:
        unmount(filled.mnt)


@pytest.mark.parametrize("where", ["lower", "upper", "inside lower", "inside upper"])
def test_mount_point_on_or_in_a_layer(where: str, filled: Layers) -> None:
    """The server still reaches the layers when the mount covers them, and the mount does not show inside itself."""
    layer = filled.lowers[0] if "lower" in where else filled.top
    mnt = layer / "point" if "inside" in where else layer
    mnt.mkdir(exist_ok=True)
    covered = replace(filled, mnt=mnt)
    with Unionfs().mount(covered):
        assert (mnt / "file").read_bytes() == b"below\n"
        (mnt / "file").write_bytes(b"above\n")
        (mnt / "new").mkdir()
        names = {"file", "new"} | ({"point"} if "inside" in where else set())
        assert set(os.listdir(mnt)) == names
        if "inside" in where:
            assert os.listdir(mnt / "point") == []
    assert (filled.lowers[0] / "file").read_bytes() == b"below\n"
    assert (filled.top / "file").read_bytes() == b"above\n"
    with Kernel().mount(filled):
        assert (filled.mnt / "file").read_bytes() == b"above\n"


def test_a_mount_inside_a_lower_does_not_show(filled: Layers) -> None:
    inside = filled.lowers[0] / "inside"
    inside.mkdir()
    (inside / "covered").write_bytes(b"")
    for before in (True, False):
        if before:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(inside)], check=True)
        try:
            with Unionfs().mount(filled) as mnt:
                if not before:
                    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(inside)], check=True)
                assert os.listdir(mnt / "inside") == ["covered"]
        finally:
            subprocess.run(["umount", str(inside)], check=True)


NAMES = ["a:b", "a,b", "a\\b", "a b", "ä☃", "new\nline", "=,lowerdir=", os.fsdecode(b"\xff\xfe")]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_every_kind(name: str, make_layers: LayersFactory) -> None:
    layers = make_layers(lowers=2, name=name)
    (layers.lowers[0] / "top").write_bytes(b"")
    (layers.lowers[1] / "bottom").write_bytes(b"")
    done = unionfs("-o", option_string(layers, {}), layers.mnt)
    assert done.returncode == 0, done.stderr
    try:
        (layers.mnt / name).write_bytes(b"same name")
        assert sorted(os.listdir(layers.mnt)) == sorted(["top", "bottom", name])
    finally:
        subprocess.run(["umount", str(layers.mnt)], check=True)
        wait_for(lambda: not processes_naming(layers.mnt), "the end of the server")
    assert os.listdir(layers.top) == [name]


def test_lower_layers_one_by_one(make_layers: LayersFactory) -> None:
    layers = make_layers(lowers=3)
    for number, lower in enumerate(layers.lowers):
        (lower / "which").write_bytes(b"%d" % number)
        (lower / f"only{number}").write_bytes(b"")
    first, second, third = layers.lowers
    options = ["-o", f"lowerdir={escape(first)}", "-o", f"lowerdir+={second}", f"-olowerdir+={third},ro"]
    lowers.watch(layers.lowers, layers.work)
    done = unionfs(*options, layers.mnt)
    assert done.returncode == 0, done.stderr
    try:
        assert (layers.mnt / "which").read_bytes() == b"0"
        assert sorted(os.listdir(layers.mnt)) == ["only0", "only1", "only2", "which"]
    finally:
        unmount(layers.mnt)


def test_hundreds_of_layers(make_layers: LayersFactory) -> None:
    layers = make_layers(lowers=300)
    for number, lower in enumerate(layers.lowers):
        (lower / f"file{number}").write_bytes(b"%d" % number)
        (lower / "shared").mkdir()
        (lower / "shared" / f"{number % 7}").write_bytes(b"%d" % number)
    with Unionfs().mount(layers) as mnt:
        assert len(os.listdir(mnt)) == 301
        assert (mnt / "file299").read_bytes() == b"299"
        assert [(mnt / "shared" / str(number)).read_bytes() for number in range(7)] == [b"%d" % n for n in range(7)]
        (mnt / "shared" / "3").unlink()
        assert sorted(os.listdir(mnt / "shared")) == ["0", "1", "2", "4", "5", "6"]
