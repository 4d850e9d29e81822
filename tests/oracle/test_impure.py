"""Impure: is the mark on directories with copied-up objects there when it has to be, and gone when it need not?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.mounts import Driver, Kernel, Layers, Unionfs

DRIVERS = pytest.mark.parametrize("driver", [Unionfs(), Kernel()], ids=["unionfs", "kernel"])
IMPURE = "trusted.overlay.impure"


def is_impure(path: Path) -> bool:
    return IMPURE in os.listxattr(path)


@DRIVERS
def test_set_before_something_with_an_origin_comes(driver: Driver, layers: Layers) -> None:
    for name in ("d/file", "moved", "linked", "exchanged"):
        (layers.lowers[0] / name).parent.mkdir(exist_ok=True)
        (layers.lowers[0] / name).write_bytes(b"data")
    with driver.mount(layers) as mnt:
        (mnt / "d/file").chmod(0o600)
        for name in ("by rename", "by link", "pure"):
            (mnt / name).mkdir()
        (mnt / "moved").rename(mnt / "by rename" / "x")
        os.link(mnt / "linked", mnt / "by link" / "x")
        (mnt / "pure" / "x").write_bytes(b"")
    found = {name: is_impure(layers.top / name) for name in ("d", "by rename", "by link", "pure", ".")}
    assert found == {"d": True, "by rename": True, "by link": True, "pure": False, ".": True}


@DRIVERS
def test_gone_when_a_listing_finds_nothing(driver: Driver, layers: Layers) -> None:
    """Of a directory on the upper layer alone; of a merged one the mark stays."""
    for name in ("one", "two", "d/three"):
        (layers.lowers[0] / name).parent.mkdir(exist_ok=True)
        (layers.lowers[0] / name).write_bytes(b"data")
    with driver.mount(layers) as mnt:
        for name in ("emptied", "kept"):
            (mnt / name).mkdir()
            (mnt / name / "own").write_bytes(b"")
        (mnt / "one").rename(mnt / "emptied" / "one")
        (mnt / "two").rename(mnt / "kept" / "two")
        (mnt / "d/three").chmod(0o600)
        (mnt / "emptied/one").rename(mnt / "one")
        (mnt / "d/three").unlink()
    with driver.mount(layers) as mnt:
        numbers = {name: (mnt / name).stat().st_ino for name in ("kept/two", "kept/own", "emptied/own")}
        assert sorted(os.listdir(mnt / "emptied")) == ["own"]
        assert sorted(os.listdir(mnt / "kept")) == ["own", "two"]
        os.listdir(mnt / "d")
        (mnt / "one").rename(mnt / "emptied" / "again")
        assert (mnt / "emptied/again").read_bytes() == b"data"
        assert is_impure(layers.top / "emptied"), "set anew"
        (mnt / "emptied/again").unlink()
    with driver.mount(layers) as mnt:
        assert sorted(os.listdir(mnt / "emptied")) == ["own"]
        assert {name: (mnt / name).stat().st_ino for name in numbers} == numbers
    found = {name: is_impure(layers.top / name) for name in ("emptied", "kept", "d")}
    assert found == {"emptied": False, "kept": True, "d": True}


@DRIVERS
@pytest.mark.parametrize("others", [[], ["own"]], ids=["emptied", "with others"])
def test_gone_when_all_of_that_has_been_removed(others: list[str], driver: Driver, layers: Layers) -> None:
    """At the next listing, though one was made before."""
    (layers.lowers[0] / "one").write_bytes(b"data")
    with driver.mount(layers) as mnt:
        (mnt / "d").mkdir()
        (mnt / "one").rename(mnt / "d" / "one")
        for name in others:
            (mnt / "d" / name).write_bytes(b"")
        assert sorted(os.listdir(mnt / "d")) == ["one", *others]
        assert is_impure(layers.top / "d")
        (mnt / "d/one").unlink()
        assert os.listdir(mnt / "d") == others
        assert not is_impure(layers.top / "d")
