"""Which numbers does pyfuse3 hand to the kernel, and what is said where pyfuse3 itself is missing?"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.clients.command import check_refusal, unionfs
from tests.overlay.conftest import opened
from tests.support.mounts import Layers, Unionfs, is_mounted, option_string
from unionfs.overlay import lookup
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union
from unionfs.serve import pyfuse3_binding
from unionfs.serve.errors import MountError
from unionfs.serve.pyfuse3_binding.numbers import Numbers

LayersFactory = Callable[..., Layers]
OWN = 1 << 63


@pytest.fixture
def union(make_layers: LayersFactory) -> Iterator[Union]:
    """A read-only union of two files."""
    made = make_layers(1, upper=False)
    for name in ("a", "b"):
        (made.lowers[0] / name).write_bytes(b"")
    with opened(made) as union:
        yield union


@pytest.fixture
def numbers(union: Union) -> Numbers:
    return Numbers(union.inodes, None)


def known(union: Union, name: bytes) -> Node:
    """The node of a file, looked up once."""
    found = lookup.lookup(union, union.root, name)
    assert found is not None
    found[0].lookups += 1
    return found[0]


def test_a_node_gets_its_inode_number(union: Union, numbers: Numbers) -> None:
    a, b = known(union, b"a"), known(union, b"b")
    for node in (a, b):
        numbers.keep(node.nodeid, numbers.choose(node.nodeid, node.ino))
    assert (numbers.find(a.nodeid), numbers.find(b.nodeid)) == (a.ino, b.ino)
    assert (numbers.nodeid(a.ino), numbers.nodeid(b.ino)) == (a.nodeid, b.nodeid)


@pytest.mark.parametrize("ino", [0, 1, OWN, OWN + 5])
def test_a_number_that_means_something_else_is_not_given(ino: int, union: Union, numbers: Numbers) -> None:
    """0 is a missing name, 1 the root, and from 2 to the 63rd on they are our own."""
    a = known(union, b"a")
    number = numbers.choose(a.nodeid, ino)
    assert number > OWN
    assert number != ino


def test_two_nodes_of_one_inode_number(union: Union, numbers: Numbers) -> None:
    a, b = known(union, b"a"), known(union, b"b")
    numbers.keep(a.nodeid, numbers.choose(a.nodeid, 77))
    second = numbers.choose(b.nodeid, 77)
    numbers.keep(b.nodeid, second)
    assert (numbers.nodeid(77), numbers.nodeid(second)) == (a.nodeid, b.nodeid)
    assert numbers.choose(b.nodeid, 77) == second


def test_the_number_stays_when_the_inode_number_changes(union: Union, numbers: Numbers) -> None:
    a = known(union, b"a")
    numbers.keep(a.nodeid, numbers.choose(a.nodeid, 77))
    assert numbers.choose(a.nodeid, 78) == 77


def test_a_number_goes_with_its_node(union: Union, numbers: Numbers) -> None:
    a = known(union, b"a")
    numbers.keep(a.nodeid, a.ino)
    numbers.forget(a.nodeid)
    assert numbers.nodeid(a.ino) == a.nodeid, "the kernel still knows it"
    union.forget(a.nodeid, 1)
    numbers.forget(a.nodeid)
    assert numbers.find(a.nodeid) is None
    with pytest.raises(OSError, match="unknown") as caught:
        numbers.nodeid(a.ino)
    assert caught.value.errno == errno.ESTALE


def test_a_number_of_which_there_may_be_handles_stays(make_layers: LayersFactory) -> None:
    made = make_layers(1, upper=False)
    (made.lowers[0] / "a").write_bytes(b"")
    with opened(made, index=True, nfs_export=True) as union:
        numbers = Numbers(union.inodes, union.exports)
        a = known(union, b"a")
        numbers.keep(a.nodeid, a.ino)
        union.forget(a.nodeid, 1)
        numbers.forget(a.nodeid)
        assert numbers.nodeid(a.ino) == a.nodeid


def test_references_that_the_kernel_never_took(numbers: Numbers) -> None:
    """It drops them as soon as it has listed the name, by the number of whatever node that may be."""
    numbers.refused[77] += 2
    assert numbers.refuse(78, 1) == 0
    assert numbers.refuse(77, 1) == 1
    assert numbers.refuse(77, 5) == 1
    assert numbers.refuse(77, 5) == 0
    assert not numbers.refused


# --------------------------------------------------------------------------------------------------------- without the package

def test_pyfuse3_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("pyfuse3")
    old.__version__ = "3.4.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyfuse3", old)
    with pytest.raises(MountError, match=r"pyfuse3 3\.4\.2 is too old.*pip install 'unionfs\[pyfuse3\]'"):
        pyfuse3_binding.load()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ModuleNotFoundError('pyfuse3')", "is not installed: pip install 'unionfs[pyfuse3]'"),
        ("raise ImportError('libfuse3.so.3: cannot open shared object file')", "can't be loaded: libfuse3.so.3"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["-f"]])
def test_pyfuse3_is_not_there(module: str, said: str, flags: list[str], layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "pyfuse3.py").write_text(f"{module}\n")
    path = os.pathsep.join([str(tmp_path), Unionfs().environment()["PYTHONPATH"]])
    options = option_string(layers, {"binding": "pyfuse3"})
    done = unionfs(*flags, "-o", options, layers.mnt, env={"PYTHONPATH": path})
    check_refusal(done, 32, "binding=pyfuse3", said)
    assert not is_mounted(layers.mnt)
