"""Who is given the attributes of what he lists, and who the names alone?"""

from __future__ import annotations

import os

from tests.serve.fake_kernel import FakeKernel, fake_kernel
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from tests.wire.answers import Dirent
from unionfs.serve.listers import Listers, Wish
from unionfs.wire import abi

READER, OTHER = 11, 12


class Dropped:
    """Notices; the directories whose listings the kernel was told to drop."""

    def __init__(self) -> None:
        self.listings: list[int] = []

    def attributes_changed(self, nodeid: int) -> None:
        raise AssertionError("nothing is known of attributes here")

    def contents_changed(self, nodeid: int) -> None:
        self.listings.append(nodeid)

    def store(self, nodeid: int, offset: int, data: bytes) -> None:
        raise AssertionError("nothing is known of data here")


def list_all(listers: Listers, pid: int, nodeid: int, files: int) -> Wish:
    """A thread lists a directory in one part."""
    wish = listers.wish(pid, 0)
    listers.gave(pid, nodeid, {Wish.ALL: 0, Wish.ALL_BUT_ONE: min(1, files), Wish.NONE: files}[wish])
    return wish


def taught(listers: Listers, pid: int = READER, first: int = 100) -> None:
    """A thread that has missed none of the names that were left out."""
    for nodeid in range(first, first + 4):
        assert list_all(listers, pid, nodeid, 5) is Wish.ALL_BUT_ONE


def test_who_misses_nothing_gets_names() -> None:
    listers = Listers(Dropped())
    taught(listers)
    assert list_all(listers, READER, 104, 5) is Wish.NONE
    assert listers.wish(READER, 3) is Wish.NONE
    assert list_all(listers, OTHER, 104, 5) is Wish.ALL_BUT_ONE


def test_directories_without_files_say_nothing() -> None:
    listers = Listers(Dropped())
    for nodeid in range(100, 120):
        assert list_all(listers, READER, nodeid, 0) is Wish.ALL_BUT_ONE
    taught(listers)


def test_one_look_is_enough_at_first() -> None:
    """Who looks the name up that was left out is given everything for good; by whom it was looked up does not matter."""
    notices = Dropped()
    listers = Listers(notices)
    assert list_all(listers, READER, 100, 5) is Wish.ALL_BUT_ONE
    listers.looked_up(100)
    for nodeid in range(101, 120):
        assert list_all(listers, READER, nodeid, 5) is Wish.ALL
    assert not notices.listings


def test_only_the_beginning_of_a_listing_has_a_name_left_out() -> None:
    listers = Listers(Dropped())
    assert listers.wish(READER, 0) is Wish.ALL_BUT_ONE
    assert listers.wish(READER, 77) is Wish.ALL


def test_a_thread_that_is_not_visible_may_be_any() -> None:
    listers = Listers(Dropped())
    for nodeid in range(100, 120):
        assert list_all(listers, 0, nodeid, 5) is Wish.ALL
    assert not listers.watching


def test_names_that_are_missed_after_all() -> None:
    """The kernel's listings go, so that whoever lists next is seen; a few names out of many are no change of mind."""
    notices = Dropped()
    listers = Listers(notices)
    taught(listers)
    for nodeid in range(200, 260):
        assert list_all(listers, READER, nodeid, 5) is Wish.NONE
    assert list_all(listers, READER, 300, 1000) is Wish.NONE
    for _ in range(400):
        listers.looked_up(300)
    assert not notices.listings
    looks = 0
    for nodeid in range(200, 260):
        for _ in range(5):
            if not notices.listings:
                looks += 1
                listers.looked_up(nodeid)
    # Half of all the names of the directories that were looked at: 2 x (400 + n) >= 1000 + n.
    assert looks <= 205
    assert {300, *range(200, 260)} <= set(notices.listings)
    assert list_all(listers, READER, 200, 5) is Wish.ALL
    assert list_all(listers, OTHER, 200, 5) is Wish.ALL_BUT_ONE


def test_what_is_remembered_has_a_bound() -> None:
    listers = Listers(Dropped())
    for pid in range(1, 1000):
        taught(listers, pid, pid * 10)
    taught(listers, 5000, 20_000)
    for nodeid in range(30_000, 35_000):
        list_all(listers, 5000, nodeid, 9)
    assert len(listers.watching) == 2048
    assert len(listers._threads) == 256
    for nodeid in range(30_000, 35_000):
        listers.looked_up(nodeid)


def by_name(entries: list[Dirent]) -> dict[str, Dirent]:
    """All but the two dots."""
    return {os.fsdecode(entry.name): entry for entry in entries if entry.name not in (b".", b"..")}


def listed(connection: FakeKernel, nodeid: int) -> dict[str, Dirent]:
    """A directory's entries as one thread gets them."""
    return by_name(connection.listing(nodeid, 65536, plus=True, pid=1))


def bare(entries: dict[str, Dirent]) -> set[str]:
    """The names that came without a node."""
    return {name for name, entry in entries.items() if entry.node is None or not entry.node.nodeid}


def test_what_comes_without_attributes(layers: Layers) -> None:
    """Files and links, never directories; each with the number and type that its attributes show; whiteouts not at all."""
    lower = layers.lowers[0]
    for number in range(5):
        (lower / f"d{number}/sub").mkdir(parents=True)
        for name in ("file", "changed", "hidden"):
            (lower / f"d{number}" / name).write_bytes(b"")
        (lower / f"d{number}/link").symlink_to("file")
        os.mkfifo(lower / f"d{number}/fifo")
    with fake_kernel(layers) as connection:
        directories = [connection.lookup(f"d{number}").nodeid for number in range(5)]
        for directory in directories:
            connection.ok(kernel.unlink(directory, b"hidden"))
            changed = connection.lookup("changed", directory).nodeid
            connection.ok(kernel.setattr_(changed, abi.FATTR_MODE, mode=0o600))
            connection.send(kernel.forget(changed, 1))
        found = [listed(connection, directory) for directory in directories]
        assert [len(bare(entries)) for entries in found] == [1, 1, 1, 1, 3]
        # What was copied up has the number of the lower file, for which its attributes have to be read.
        assert bare(found[4]) == {"file", "link", "fifo"}
        for directory, entries in zip(directories, found, strict=True):
            assert entries.keys() == {"file", "changed", "link", "fifo", "sub"}
            for name, entry in entries.items():
                attr = connection.lookup(name, directory).attr
                assert (entry.ino, entry.type) == (attr.ino, attr.mode >> 12), name


def test_a_part_made_ahead_is_that_of_who_asks(layers: Layers) -> None:
    """Two threads read one directory in turn, of which one wants names."""
    lower = layers.lowers[0]
    for directory in ("d0", "d1", "d2", "d3", "big"):
        (lower / directory).mkdir()
        for number in range(40):
            (lower / directory / f"file{number:02}").write_bytes(b"")
    with fake_kernel(layers) as connection:
        for number in range(4):
            assert len(bare(listed(connection, connection.lookup(f"d{number}").nodeid))) == 1
        big = connection.lookup("big").nodeid
        offsets = {1: 0, 7: 0}
        names: dict[int, list[Dirent]] = {1: [], 7: []}
        while offsets:
            for pid in list(offsets):
                entries = answers.listing(connection.ok(kernel.readdirplus(big, 0, offsets[pid], 2000, pid=pid)), True)
                names[pid] += entries
                if entries:
                    offsets[pid] = entries[-1].off
                else:
                    del offsets[pid]
        for pid, least in ((1, 40), (7, 1)):
            assert len(names[pid]) == len(by_name(names[pid])) + 2 == 42
            assert len(bare(by_name(names[pid]))) == least
        connection.settle()
        nodes = connection.union.inodes.by_id.values()
        counts = {os.fsdecode(node.name): node.lookups for node in nodes if node.parent is not None and node.parent.nodeid == big}
        assert sum(counts.values()) == 39, "one for each entry with a node"
