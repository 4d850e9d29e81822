"""Does a node go when the kernel has forgotten it, and not before?  And every descriptor with it?"""

from __future__ import annotations

import errno
import os

import pytest

from tests.serve.fake_kernel import ROOT, FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import answers, kernel


def known(connection: FakeKernel) -> set[int]:
    """The nodeids in the table."""
    connection.settle()
    return set(connection.union.inodes.by_id)


def descriptors() -> int:
    """How many this process, and so the server, has open."""
    return len(os.listdir("/proc/self/fd"))


def test_every_lookup_counts(connection: FakeKernel) -> None:
    nodeid = connection.lookup("file").nodeid
    assert connection.lookup("file").nodeid == nodeid
    assert connection.lookup("file").nodeid == nodeid
    connection.send(kernel.forget(nodeid, 2))
    assert known(connection) == {ROOT, nodeid}
    connection.send(kernel.forget(nodeid, 1))
    assert known(connection) == {ROOT}
    assert connection.error(kernel.getattr_(nodeid)) == errno.ESTALE


def test_a_nodeid_is_never_used_again(connection: FakeKernel) -> None:
    seen = set()
    for _ in range(5):
        nodeid = connection.lookup("file").nodeid
        assert nodeid not in seen
        seen.add(nodeid)
        connection.send(kernel.forget(nodeid, 1))


def test_a_missing_name_counts_nothing(connection: FakeKernel) -> None:
    assert answers.node(connection.ok(kernel.lookup(ROOT, b"absent"))).nodeid == 0
    assert known(connection) == {ROOT}


def test_the_root_stays(connection: FakeKernel) -> None:
    connection.send(kernel.forget(ROOT, 1000))
    assert known(connection) == {ROOT}


def test_forget_of_what_is_not_there(connection: FakeKernel) -> None:
    connection.send(kernel.forget(4711, 1))
    connection.send(kernel.batch_forget([(4711, 1), (ROOT, 1), (0, 5)]))
    assert known(connection) == {ROOT}


def test_what_is_made_counts_once(connection: FakeKernel) -> None:
    made = [
        answers.node(connection.ok(message)).nodeid
        for message in (
            kernel.mkdir(ROOT, b"new dir", 0o755),
            kernel.mknod(ROOT, b"fifo", 0o10644),
            kernel.symlink(ROOT, b"link", b"target"),
            kernel.create(ROOT, b"new", os.O_RDWR, 0o100644),
            kernel.tmpfile(ROOT, os.O_RDWR, 0o100600),
        )
    ]
    assert known(connection) == {ROOT, *made}
    again = answers.node(connection.ok(kernel.link(ROOT, b"second", made[1])))
    assert again.nodeid == made[1]
    assert again.attr.nlink == 2
    connection.send(kernel.batch_forget([(nodeid, 1) for nodeid in made]))
    assert known(connection) == {ROOT, made[1]}
    connection.send(kernel.forget(made[1], 1))
    assert known(connection) == {ROOT}


def test_a_listing_with_nodes_counts_each_of_its_entries(connection: FakeKernel) -> None:
    for size in (200, 4096):
        entries = connection.listing(ROOT, size, plus=True)
        nodes = {entry.name: entry.node.nodeid for entry in entries if entry.node and entry.node.nodeid}
        assert nodes.keys() == {b"file", b"large", b"symlink", b"dir", b"own"}
        assert known(connection) == {ROOT, *nodes.values()}, "an entry that did not fit counts nothing"
        connection.send(kernel.batch_forget([(nodeid, 1) for nodeid in nodes.values()]))
        assert known(connection) == {ROOT}


def test_a_plain_listing_counts_nothing(connection: FakeKernel) -> None:
    connection.listing(ROOT)
    assert known(connection) == {ROOT}


@pytest.mark.parametrize("directories_first", [True, False])
def test_the_order_does_not_matter(directories_first: bool, connection: FakeKernel, filled: Layers) -> None:
    """A child may be forgotten after its directory; it can be looked at until then, and is changed in its place or not at all."""
    inner, other = connection.lookup("dir/inner"), connection.lookup("dir/other")
    parent = connection.lookup("dir")
    order = [(parent.nodeid, 3), (inner.nodeid, 1), (other.nodeid, 1)]
    for nodeid, lookups in order if directories_first else reversed(order):
        if nodeid == other.nodeid:
            assert answers.attributes(connection.ok(kernel.getattr_(nodeid)))[1].size == 5
            changed = connection.error(kernel.setattr_(nodeid, 1, mode=0o600))
            assert changed == (errno.ESTALE if directories_first else 0)
            assert not (filled.top / "other").exists()
        connection.send(kernel.forget(nodeid, lookups))
    assert known(connection) == {ROOT}


def test_an_unlinked_file_lives_until_it_is_forgotten(connection: FakeKernel) -> None:
    before = descriptors()
    for name in ("own", "file"):
        nodeid = connection.lookup(name).nodeid
        opened = answers.opened(connection.ok(kernel.open_(nodeid, os.O_RDONLY)))
        connection.ok(kernel.unlink(ROOT, name.encode()))
        _, attributes = answers.attributes(connection.ok(kernel.getattr_(nodeid)))
        assert attributes.nlink == 0
        assert connection.ok(kernel.read(nodeid, opened.fh, 0, 100)) == {"own": b"above", "file": b"below"}[name]
        connection.ok(kernel.release(nodeid, opened.fh))
        connection.send(kernel.forget(nodeid, 1))
    assert known(connection) == {ROOT}
    assert descriptors() <= before + 1, "the root's own may have been opened"


def test_a_removed_directory_lives_until_it_is_forgotten(connection: FakeKernel) -> None:
    inner = connection.lookup("dir/inner").nodeid
    parent = connection.lookup("dir").nodeid
    connection.ok(kernel.rmdir(parent, b"inner"))
    assert answers.attributes(connection.ok(kernel.getattr_(inner)))[1].nlink == 0
    assert [entry.name for entry in connection.listing(inner)] in ([b".", b".."], [])
    assert answers.node(connection.ok(kernel.lookup(inner, b"x"))).nodeid == 0
    assert connection.error(kernel.mkdir(inner, b"x", 0o755)) == errno.ENOENT
    connection.send(kernel.batch_forget([(inner, 1), (parent, 2)]))
    assert known(connection) == {ROOT}


def test_descriptors_are_closed(filled: Layers) -> None:
    for number in range(200):
        (filled.lowers[0] / f"d{number}").mkdir()
        (filled.lowers[0] / f"d{number}" / "file").write_bytes(b"x")
    outside = descriptors()
    with fake_kernel(filled) as connection:
        connection.listing(ROOT)
        before = descriptors()
        lookups: dict[int, int] = {}
        for number in range(200):
            directory = connection.lookup(f"d{number}").nodeid
            file = connection.lookup("file", directory).nodeid
            fh = answers.opened(connection.ok(kernel.open_(file, os.O_RDWR))).fh
            connection.ok(kernel.write(file, fh, 0, b"written"))
            if number % 2:
                connection.ok(kernel.unlink(directory, b"file"))
            connection.ok(kernel.release(file, fh, os.O_RDWR))
            lookups |= {directory: 1, file: 1}
        connection.send(kernel.batch_forget(list(lookups.items())))
        assert known(connection) == {ROOT}
        assert descriptors() == before
    assert descriptors() == outside
