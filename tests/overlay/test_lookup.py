"""Is what a name stands for what the layers say, by every way of finding it?"""

from __future__ import annotations

import errno
import os
import stat as modes
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LayersFactory
from tests.overlay.conftest import OpenUnion, opened
from tests.support.lowers import changes_meant
from tests.support.mounts import Layers, Unionfs
from unionfs.overlay import lookup, merge
from unionfs.overlay.config import RedirectDir
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union

fuzz = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NAMES = ["a", "b"]
FORMS = [
    "", "file", "symlink", "char", "dir", "opaque", "foreign opaque", "opq dir",
    "whiteout", "wh", "wh and file", "wh and dir",
]  # fmt: skip
"""What a layer may hold under a name; `wh`: a `.wh.` file of it."""


def put(place: Path, name: str, form: str, number: int) -> None:
    """Make it in a directory; a directory gets a file named after its layer."""
    path = place / name
    if form.startswith("wh"):
        (place / f".wh.{name}").write_bytes(b"")
    match form:
        case "file" | "wh and file":
            path.write_bytes(b"%d" % number)
        case "symlink":
            path.symlink_to(str(number))
        case "whiteout":
            os.mknod(path, modes.S_IFCHR, 0)
        case "char":
            os.mknod(path, modes.S_IFCHR, os.makedev(1, number + 1))
    if form in ("dir", "opaque", "foreign opaque", "opq dir", "wh and dir"):
        path.mkdir()
        (path / f"in{number}").write_bytes(b"")
    if form == "opaque":
        os.setxattr(path, "trusted.overlay.opaque", b"y")
    if form == "foreign opaque":
        os.setxattr(path, "user.fuseoverlayfs.opaque", b"yes")
    if form == "opq dir":
        (path / ".wh..wh..opq").write_bytes(b"")


class Expected(NamedTuple):
    """S_IFMT bits of what shows, and the numbers of the layers it comes from: of all that merge."""

    kind: int
    layers: tuple[int, ...]


def expected(forms: list[str]) -> Expected | None:
    """The rule of overlayfs, and of `.wh.` files, in words: from the top layer down."""
    merged: list[int] = []
    for number, form in enumerate(forms):
        kind = form.removeprefix("wh and ")
        if kind in ("file", "symlink", "char"):
            bits = {"file": modes.S_IFREG, "symlink": modes.S_IFLNK, "char": modes.S_IFCHR}[kind]
            return Expected(bits, (number,)) if not merged else Expected(modes.S_IFDIR, tuple(merged))
        if "dir" in kind or "opaque" in kind:
            merged.append(number)
        if form in ("whiteout", "opaque", "foreign opaque", "opq dir") or form.startswith("wh"):
            break
    return Expected(modes.S_IFDIR, tuple(merged)) if merged else None


def seen(node: Node | None) -> Expected | None:
    """What a node says."""
    if node is None:
        return None
    if isinstance(node, DirNode):
        return Expected(node.kind, tuple(real.layer.number for real in node.reals))
    return Expected(node.kind, (node.layer().number,))


def node_of(union: Union, name: str, parent: DirNode | None = None) -> Node | None:
    """The node of a name, if it shows."""
    found = lookup.lookup(union, parent or union.root, name.encode())
    return None if found is None else found[0]


def directory_of(union: Union, name: str, parent: DirNode | None = None) -> DirNode:
    """The node of a name that is a directory."""
    node = node_of(union, name, parent)
    assert isinstance(node, DirNode)
    return node


@fuzz
@given(stack=st.lists(st.tuples(*[st.sampled_from(FORMS)] * len(NAMES)), min_size=1, max_size=4))
def test_any_stack(stack: list[tuple[str, ...]], make_layers: LayersFactory) -> None:
    """By probing the layers, by the index, and in the listing: the same, and what the rule says."""
    layers = make_layers(lowers=max(1, len(stack) - 1))
    for number, (place, forms) in enumerate(zip((layers.top, *layers.lowers), stack, strict=False)):
        for name, form in zip(NAMES, forms, strict=True):
            put(place, name, form, number)
    wanted = {name: expected([forms[at] for forms in stack]) for at, name in enumerate(NAMES)}
    with opened(layers) as union:
        assert union.root.index is None
        probed = {name: seen(node_of(union, name)) for name in NAMES}
        assert probed == wanted
        inside = {name: listed(union, node) for name in NAMES if isinstance(node := node_of(union, name), DirNode)}
        assert inside == {name: sorted(f"in{n}" for n in show.layers) for name, show in wanted.items() if show and name in inside}
    with opened(layers) as union:
        index = merge.index_of(union, union.root)
        assert {name.decode(): entry.kind for name, entry in index.names.items()} == {
            name: show.kind for name, show in wanted.items() if show is not None
        }
        assert {name: seen(node_of(union, name)) for name in NAMES} == wanted


def listed(union: Union, node: DirNode) -> list[str]:
    """The names a directory shows."""
    return sorted(os.fsdecode(name) for name in merge.build(union, node).names)


@pytest.mark.parametrize("indexed", [False, True])
def test_whiteouts_by_xattr(indexed: bool, make_layers: LayersFactory, open_union: OpenUnion) -> None:
    """An empty file with the mark, in a directory that says there may be such."""
    layers = make_layers(lowers=3)
    for place, value in ((layers.lowers[0], b"x"), (layers.lowers[1], None)):
        (place / "d").mkdir()
        for name in ("a", "b", "full"):
            (place / "d" / name).write_bytes(b"full" if name == "full" else b"")
            if name != "b":
                os.setxattr(place / "d" / name, "trusted.overlay.whiteout", b"")
        if value is not None:
            os.setxattr(place / "d", "trusted.overlay.opaque", value)
    (layers.lowers[2] / "d").mkdir()
    (layers.lowers[2] / "d" / "a").write_bytes(b"hidden")
    (layers.lowers[2] / "d" / "c").write_bytes(b"shows")
    union = open_union(layers)
    directory = directory_of(union, "d")
    if indexed:
        assert listed(union, directory) == ["b", "c", "full"]
        merge.index_of(union, directory)
    assert node_of(union, "a", directory) is None
    assert seen(node_of(union, "b", directory)) == (modes.S_IFREG, (1,))
    assert seen(node_of(union, "full", directory)) == (modes.S_IFREG, (1,)), "a file with content is none"
    assert seen(node_of(union, "c", directory)) == (modes.S_IFREG, (3,))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("where", ["upper", "lower"])
def test_redirects_and_metacopies_are_refused(where: str, indexed: bool, layers: Layers, open_union: OpenUnion) -> None:
    """What is found by following them would be something else than what the layers' maker meant."""
    place = layers.top if where == "upper" else layers.lowers[0]
    for base in (layers.top, layers.lowers[0]):
        (base / "dir").mkdir()
    os.setxattr(place / "dir", "trusted.overlay.redirect", b"/elsewhere")
    with open(place / "meta", "wb") as file:
        file.truncate(1000)
    os.setxattr(place / "meta", "trusted.overlay.metacopy", b"")
    os.setxattr(place, "trusted.overlay.impure", b"y")
    (place / "fine").write_bytes(b"")
    union = open_union(layers, redirect_dir=RedirectDir.NOFOLLOW)
    if indexed:
        merge.index_of(union, union.root)
    refused = ["meta"] if where == "lower" else ["meta", "dir"]
    for name in refused:
        with pytest.raises(OSError, match="Errno") as failed:
            lookup.lookup(union, union.root, name.encode())
        assert failed.value.errno == errno.EPERM
    assert node_of(union, "fine") is not None


def test_names(layers: Layers, open_union: OpenUnion) -> None:
    long = "n" * 255
    (layers.lowers[0] / long).write_bytes(b"")
    (layers.lowers[0] / ".wh.hidden").write_bytes(b"")
    (layers.lowers[0] / "file").write_bytes(b"")
    union = open_union(layers)
    assert node_of(union, long) is not None
    with pytest.raises(OSError, match="Errno") as failed:
        node_of(union, "n" * 256)
    assert failed.value.errno == errno.ENAMETOOLONG
    for name in (".wh.hidden", ".wh.", ".wh..wh..opq", "hidden", ".wh." + "n" * 251):
        assert node_of(union, name) is None


def test_the_same_name_is_the_same_node(layers: Layers, open_union: OpenUnion) -> None:
    (layers.lowers[0] / "file").write_bytes(b"")
    union = open_union(layers)
    assert node_of(union, "file") is node_of(union, "file")


def test_upper_hard_links_are_one_node_and_lower_ones_are_not(layers: Layers, open_union: OpenUnion) -> None:
    for place, names in ((layers.top, ("a", "b")), (layers.lowers[0], ("c", "d"))):
        (place / names[0]).write_bytes(b"")
        os.link(place / names[0], place / names[1])
    union = open_union(layers)
    assert node_of(union, "a") is node_of(union, "b")
    one, two = node_of(union, "c"), node_of(union, "d")
    assert one is not two
    assert one is not None
    assert two is not None
    assert one.ino == two.ino


def test_many_lookups_build_the_index(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    layers = make_layers(lowers=4)
    for number, lower in enumerate(layers.lowers):
        (lower / f"file{number}").write_bytes(b"")
    union = open_union(layers)
    for _ in range(100):
        assert node_of(union, "absent") is None
    assert union.root.index is not None
    assert [node_of(union, f"file{number}") is not None for number in range(4)] == [True] * 4


class TestManyLayers:
    """As many lower layers as overlayfs allows."""

    @pytest.fixture(params=[200, 500])
    def count(self, request: pytest.FixtureRequest) -> int:
        number: int = request.param
        return number

    @pytest.fixture
    def tall(self, count: int, make_layers: LayersFactory) -> Layers:
        layers = make_layers(lowers=count)
        for number, lower in enumerate(layers.lowers):
            (lower / "d").mkdir()
            (lower / "d" / f"file{number}").write_bytes(b"%d" % number)
            (lower / "everywhere").write_bytes(b"%d" % number)
            if number % 10 == 9:
                os.mknod(lower / "d" / f"file{number + 1}", modes.S_IFCHR, 0)
        return layers

    def test_resolution(self, tall: Layers, count: int, open_union: OpenUnion) -> None:
        union = open_union(tall)
        directory = directory_of(union, "d")
        assert len(directory.reals) == count
        assert seen(node_of(union, "everywhere")) == (modes.S_IFREG, (1,))
        assert seen(node_of(union, f"file{count - 1}", directory)) == (modes.S_IFREG, (count,))
        assert node_of(union, "file10", directory) is None
        assert len(listed(union, directory)) == count - count // 10 + 1

    def test_mount(self, tall: Layers, count: int) -> None:
        with Unionfs().mount(tall) as mnt:
            names = os.listdir(mnt / "d")
            assert len(names) == count - count // 10 + 1
            assert (mnt / "d" / f"file{count - 1}").read_bytes() == b"%d" % (count - 1)
            assert (mnt / "everywhere").read_bytes() == b"0"
            (mnt / "d" / f"file{count - 1}").write_bytes(b"changed")
        assert os.listdir(tall.top / "d") == [f"file{count - 1}"]


def test_a_chain_of_directories(layers: Layers, open_union: OpenUnion) -> None:
    """Deeper than a path can say."""
    fd = os.open(layers.lowers[0], os.O_PATH)
    for _ in range(60):
        os.mkdir("n" * 200, dir_fd=fd)
        below = os.open("n" * 200, os.O_PATH, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("last", os.O_CREAT, dir_fd=fd))
    os.close(fd)
    union = open_union(layers)
    node = union.root
    for _ in range(60):
        node = directory_of(union, "n" * 200, node)
    union.layers[0].descriptors.close()
    assert seen(node_of(union, "last", node)) == (modes.S_IFREG, (1,))


def test_nothing_leads_out_of_a_layer(layers: Layers, open_union: OpenUnion, scratch: Path) -> None:
    """A directory that becomes a symlink behind the union's back is not followed."""
    (scratch / "outside").mkdir()
    (scratch / "outside" / "secret").write_bytes(b"")
    (layers.lowers[0] / "d").mkdir()
    union = open_union(layers)
    directory = directory_of(union, "d")
    directory.reals[0].close()
    (layers.lowers[0] / "d").rmdir()
    (layers.lowers[0] / "d").symlink_to(scratch / "outside")
    changes_meant(*layers.lowers)
    with pytest.raises(OSError, match="Errno") as failed:
        node_of(union, "secret", directory)
    assert failed.value.errno in (errno.ELOOP, errno.ENOTDIR)



def test_what_would_show_below(make_layers: LayersFactory, open_union: OpenUnion) -> None:
    layers = make_layers(lowers=2)
    (layers.lowers[1] / "file").write_bytes(b"")
    (layers.lowers[1] / "hidden").write_bytes(b"")
    os.mknod(layers.lowers[0] / "hidden", modes.S_IFCHR, 0)
    (layers.top / "own").write_bytes(b"")
    union = open_union(layers)
    found = {name: lookup.find_below(union, union.root, name) for name in (b"file", b"hidden", b"own", b"absent")}
    assert found == {b"file": True, b"hidden": False, b"own": False, b"absent": False}
