"""Data-only layers: are they searched by overlayfs's rules, for files whose layers a builder and the kernel have made?"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Callable

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor, perform
from tests.oracle.case import Builder, LayerBuilder
from tests.oracle.cases_metacopy import BIG, shell
from tests.oracle.pair import LayersFactory
from tests.support.mounts import Driver, Kernel, Layers, Options

Fill = Callable[[Builder, list[LayerBuilder]], None]


def with_data(make_layers: LayersFactory, lowers: int, data: int, **kind: str) -> Layers:
    """Layers of which the last `data` are data-only ones."""
    made: Layers = make_layers(lowers + data, **kind)
    return dataclasses.replace(made, lowers=made.lowers[:lowers], data=made.lowers[lowers:])


def compared(
    make_layers: LayersFactory, subject: Driver, fill: Fill, look: Callable[[Actor], None], options: Options,
    lowers: int = 2, upper: bool = True,
) -> list[list[str]]:  # fmt: skip
    """What `look` answered on the subject and on the kernel's overlayfs."""
    answers = []
    for name, driver in (("subject", subject), ("oracle", Kernel())):
        whole = with_data(make_layers, lowers, 2, name=name)
        fill(Builder(whole, "."), [LayerBuilder(layer) for layer in whole.data])
        layers = whole if upper else dataclasses.replace(whole, upper=None, work=None)
        with driver.mount(layers, options) as mnt:
            answers.append([str(step) for step in perform(look, mnt, mnt)])
    return answers


PATHS = {
    "first": b"/store/first", "second": b"/store/second", "both": b"/store/both", "big": b"/store/big",
    "missing": b"/store/missing", "symlink": b"/store/symlink", "through-symlink": b"/linked/second", "dir": b"/store",
    "fifo": b"/store/fifo", "through-file": b"/store/first/x", "up": b"/store/../store/second", "out": b"/../second",
    "dot": b"/./store/second", "relative": b"relative", "none": None, "merged": b"/merged-name", "slashes": b"/store//first",
}  # fmt: skip


def fill(b: Builder, data: list[LayerBuilder]) -> None:
    """Files of the bottom layer that name their data in every way, the same one layer above, and one in the upper layer."""
    data[0].file("store/first", b"in the first")
    data[0].file("store/both", b"of the first")
    data[1].file("store/both", b"of the second")
    data[1].file("store/second", b"in the second")
    data[1].file("store/big", BIG)
    data[1].symlink("store/symlink", "second")
    data[1].symlink("linked", "store")
    data[1].node("store/fifo", stat.S_IFIFO)
    data[1].file("relative", b"never")
    data[1].file("unseen", b"never")
    data[1].file("nothing-redirected", b"never")
    b.lower(-1).file("merged-name", b"of a merged layer")
    b.lower(-1).file("plain", b"plain")
    for name, path in PATHS.items():
        size = {"big": len(BIG), "merged": 17, "first": 12, "both": 12}.get(name, 13)
        shell(b, 1, f"bottom/{name}", size, path)
        shell(b, 0, f"above/{name}", size, path)
        shell(b, -1, f"top/{name}", size, path)
        shell(b, 1, f"chain-end/{name}", size, path)
        shell(b, 0, f"chain/{name}", size, b"/chain-end/" + name.encode())


def look(a: Actor) -> None:
    """What is there, and what becomes of it when it is changed."""
    for name in ("unseen", "store", "store/first", "relative"):
        a(ops.lstat, name)
    a(ops.ls)
    for where in ("bottom", "above", "top", "chain"):
        for name in PATHS:
            path = f"{where}/{name}"
            a(ops.lstat, path)
            a(ops.blocks, path)
            a(ops.read, path)
            a(ops.blocks, path)


def change(a: Actor) -> None:
    """Metadata first, then names, then data; in half of the cases data at once."""
    for name in PATHS:
        path = f"bottom/{name}"
        if name in ("first", "big", "missing", "up"):
            a(os.chmod, path, 0o600)
            a(ops.setxattr, path, "user.x", b"1")
            a(os.rename, path, f"{path}-moved")
            path = f"{path}-moved" if name != "missing" else path
            a(os.link, path, f"{path}-linked")
            a(ops.read, path)
        a(ops.write, path, b"new", os.O_WRONLY | os.O_APPEND)
        a(ops.lstat, path)
        a(ops.read, path)
    a(os.truncate, "bottom/both", 3)
    a(ops.write, "bottom/dot", b"x", os.O_WRONLY | os.O_TRUNC)
    a(ops.read, "bottom/both")


@pytest.mark.parametrize("metacopy", ["on", "off"])
@pytest.mark.parametrize("upper", [True, False], ids=["writable", "read-only"])
def test_looked_at(metacopy: str, upper: bool, make_layers: LayersFactory, subject: Driver) -> None:
    ours, kernel = compared(make_layers, subject, fill, look, {"metacopy": metacopy}, upper=upper)
    assert ours == kernel


@pytest.mark.parametrize("metacopy", ["on", "off"])
def test_changed(metacopy: str, make_layers: LayersFactory, subject: Driver) -> None:
    ours, kernel = compared(make_layers, subject, fill, change, {"metacopy": metacopy})
    assert ours == kernel


def test_without_following_redirects(make_layers: LayersFactory, subject: Driver) -> None:
    ours, kernel = compared(make_layers, subject, fill, look, {"redirect_dir": "nofollow"})
    assert ours == kernel


def test_one_merged_layer_is_enough(make_layers: LayersFactory, subject: Driver) -> None:
    def small(b: Builder, data: list[LayerBuilder]) -> None:
        data[1].file("x", b"data of x")
        shell(b, 0, "f", 9, b"/x")

    def read(a: Actor) -> None:
        a(ops.read, "f")
        a(ops.ls)

    ours, kernel = compared(make_layers, subject, small, read, {}, lowers=1, upper=False)
    assert ours == kernel
    assert ours[0].endswith("b'data of x'")


def test_reads_go_straight_to_the_data(make_layers: LayersFactory, subject: Driver) -> None:
    """A read-only union's files are settled, so that a program runs from the data-only layer."""
    whole = with_data(make_layers, 1, 1)
    b, layers = Builder(whole, "."), dataclasses.replace(whole, upper=None, work=None)
    LayerBuilder(layers.data[0]).file("objects/tool", b"#!/bin/sh\necho from the store\n", mode=0o755)
    shell(b, 0, "tool", 30, b"/objects/tool")
    layers.lowers[0].joinpath("tool").chmod(0o755)
    with subject.mount(layers) as mnt:
        assert os.popen(f"{mnt}/tool").read() == "from the store\n"
        assert os.listdir(mnt) == ["tool"]
