"""Are files without data refused as overlayfs refuses them: damaged marks, bad redirects, no data below, metacopy off?"""

from __future__ import annotations

import os
import stat

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.cases_metacopy import REDIRECT_MARK, shell
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers

ON = {"metacopy": "on"}
REDIRECTS = {
    "empty": b"", "slash-inside": b"a/b", "slash-at-the-end": b"/d/x/", "two-slashes": b"/d//x", "root": b"/",
    "gone": b"gone", "nowhere": b"/no/such", "dots": b"..", "dot": b".", "dots-in-path": b"/d/../d/target",
    "up-and-out": b"/../../etc/passwd", "nul": b"target\0x", "only-nul": b"\0", "long-name": b"n" * 300,
    "long-path": b"/d/" + b"p/" * 900 + b"x", "right": b"target", "to-dir": b"dir", "to-link": b"link", "to-fifo": b"fifo",
    "to-whiteout": b"whited", "through-file": b"/d/target/x", "through-link": b"/d/link-to-dir/f", "itself": b"itself",
}  # fmt: skip
MARKS = {
    "none": b"", "one": b"\0", "three": b"\0\0\0", "head": b"\0\4\0\0", "version": b"\1\4\0\0", "length": b"\0\5\0\0",
    "digest": b"\0\x24\0\1" + bytes(32), "digest-cut": b"\0\x24\0\1" + bytes(8), "enormous": bytes(2000),
}  # fmt: skip


def fill(layers: Layers, b: Builder) -> None:
    """In `d` a file for each redirect, and one for each mark with its data below, except for those called nodata."""
    b.lower(2).file("d/target", b"target")
    b.lower(2).file("d/dir/f", b"x")
    b.lower(2).symlink("d/link", "target")
    b.lower(2).symlink("d/link-to-dir", "dir")
    b.lower(2).node("d/fifo", stat.S_IFIFO)
    b.lower(2).file("d/whited", b"hidden")
    b.lower(1).whiteout("d/whited")
    for name, redirect in REDIRECTS.items():
        shell(b, 0, f"d/{name}", 6, redirect)
    for name, mark in MARKS.items():
        for layer, place in ((-1, "upper"), (1, "lower")):
            b.lower(2).file(f"d/{place}-{name}", b"data")
            shell(b, layer, f"d/{place}-{name}", 4, mark=mark)
            shell(b, layer, f"d/nodata-{place}-{name}", 4, mark=mark)
    b.lower(2).file("d/empty", b"data")
    shell(b, -1, "d/empty", 0)
    shell(b, 2, "d/lowest", 5)


def look(a: Actor) -> None:
    """Everything that can be asked of such a file, and what an attempt to change it comes to."""
    names = [*REDIRECTS, "empty", "lowest"]
    for name in MARKS:
        names += [f"{where}{place}-{name}" for where in ("", "nodata-") for place in ("upper", "lower")]
    for name in (f"d/{name}" for name in names):
        a(ops.lstat, name)
        a(ops.read, name)
        a(os.rename, name, "d/moved")
        a(ops.fails_or_not, os.rename, "d/moved", name)
        a(os.chmod, name, 0o600)
        a(os.link, name, "d/linked")
        a(ops.fails_or_not, os.unlink, "d/linked")
        a(ops.write, name, b"new")


@pytest.mark.parametrize("metacopy", ["on", "off"])
def test_as_overlayfs(metacopy: str, make_layers: LayersFactory, subject: Driver) -> None:
    options = {"metacopy": metacopy}
    ours, kernel = both(make_layers, subject, fill, look, lowers=3, ours=options, theirs=options)
    assert ours == kernel


@pytest.mark.parametrize("verity", ["on", "require"])
def test_with_verity(verity: str, make_layers: LayersFactory, subject: Driver) -> None:
    options = {"metacopy": "on", "verity": verity}
    ours, kernel = both(make_layers, subject, fill, look, lowers=3, ours=options, theirs=options)
    assert ours == kernel


def test_where_redirects_are_not_followed(make_layers: LayersFactory, subject: Driver) -> None:
    options = {"redirect_dir": "nofollow"}
    ours, kernel = both(make_layers, subject, fill, look, lowers=3, ours=options, theirs=options)
    assert ours == kernel


def test_no_way_out_of_a_layer(make_layers: LayersFactory, subject: Driver) -> None:
    layers = make_layers(lowers=2)
    outside = layers.mnt.parent / "outside"
    outside.write_bytes(b"secret")
    b = Builder(layers, ".")
    b.lower(1).symlink("away", os.fspath(layers.mnt.parent))
    for name, redirect in {"dots": b"/../outside", "link": b"/away/outside", "more": b"/../../../../../../etc/passwd"}.items():
        shell(b, 0, name, 6)
        b.lower(0).xattr(name, REDIRECT_MARK, redirect)
    with subject.mount(layers, ON) as mnt:
        for name in ("dots", "link", "more"):
            with pytest.raises(OSError, match="Errno"):
                (mnt / name).read_bytes()
