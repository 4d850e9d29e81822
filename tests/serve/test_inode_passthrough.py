"""With the draft of inode passthrough: is every reply one the kernel takes, and does a program see what it saw without it?"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve import kernel_rules
from tests.serve.fake_kernel import OFFER, ROOT
from tests.serve.passthrough_kernel import READDIRPLUS, PassthroughKernel, passthrough_kernel
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from unionfs.serve.errors import MountError
from unionfs.wire import abi

GETATTR, READDIR = kernel_rules.GETATTR, kernel_rules.READDIR
GETATTR_OPCODE = 3
LayersFactory = Callable[..., Layers]


def attached(connection: PassthroughKernel, path: str) -> int:
    """The operations that pass through for the inode of a path, 0 without a backing file of its own."""
    found = connection.find(path).attached
    return 0 if found is None else found.operations


def requests_for(connection: PassthroughKernel, act: Callable[[], object]) -> list[int]:
    """The operations the kernel has to ask for while it does something."""
    before = len(connection.requests)
    act()
    return connection.requests[before:]


class TestAgreement:
    """INIT."""

    def test_both_sides(self, static: PassthroughKernel) -> None:
        assert static.rules.inode_operations
        assert static.rules.flags & abi.PASSTHROUGH

    def test_never_unasked(self, one_lower: Layers) -> None:
        with passthrough_kernel(one_lower, offer=OFFER | kernel_rules.INIT_INODES) as connection:
            assert connection.rules.passthrough
            assert not connection.rules.flags & kernel_rules.INIT_INODES
            assert len(connection.ok(kernel.lookup(ROOT, b"plain"))) == 128

    def test_a_kernel_that_does_not_offer_it(self, one_lower: Layers) -> None:
        with (
            pytest.raises(MountError, match="inode_passthrough=draft: the kernel does not offer it"),
            passthrough_kernel(one_lower, draft=True, offer=OFFER),
        ):
            pass

    @pytest.mark.parametrize("minor", [46, 47])
    def test_a_kernel_whose_bit_means_something_else(self, minor: int, one_lower: Layers) -> None:
        with (
            pytest.raises(MountError, match="does not offer it"),
            passthrough_kernel(one_lower, draft=True, minor=minor),
        ):
            pass

    @pytest.mark.parametrize("upper", [False, True])
    def test_a_flag_that_turns_out_to_mean_something_else(
        self, upper: bool, make_layers: LayersFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ioctl proves it, before any reply is given in the new form."""
        monkeypatch.setattr(kernel_rules.Rules, "inode_operations", False)
        with (
            pytest.raises(MountError, match="inode_passthrough=draft: can't be had: the kernel refuses a directory"),
            passthrough_kernel(make_layers(1, upper=upper), draft=True),
        ):
            pass

    def test_layers_that_are_stacked_too_deep(
        self, make_layers: LayersFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kernel_rules, "MOST_STACKED", 2)
        monkeypatch.setattr(kernel_rules, "_DEPTHS", {0xEF53: 1})
        with (
            pytest.raises(MountError, match="can't be had"),
            passthrough_kernel(make_layers(1), draft=True, depth=1),
        ):
            pass


class TestReadOnlyUnion:
    """One layer that nobody changes: everything is settled."""

    @pytest.mark.parametrize("name", ["plain", "symlink", "fifo", "device", "tree", "tree/below", "tree/below/deep"])
    def test_stat_asks_nobody(self, name: str, static: PassthroughKernel) -> None:
        nodeid = static.find(name).nodeid
        asked = static.asked_stat(nodeid)
        assert requests_for(static, lambda: static.stat(nodeid)) == []
        assert static.stat(nodeid) == asked

    @pytest.mark.parametrize("name", ["tree", "tree/below"])
    def test_listing_asks_nobody(self, name: str, static: PassthroughKernel) -> None:
        nodeid = static.find(name).nodeid
        assert requests_for(static, lambda: static.names(nodeid)) == []
        assert static.names(nodeid) == static.asked_names(nodeid)

    def test_the_root_is_never_looked_up(self, static: PassthroughKernel) -> None:
        static.find("plain")
        assert static.rules.inodes[ROOT].attached is None

    def test_open_names_no_id(self, static: PassthroughKernel) -> None:
        nodeid = static.find("plain").nodeid
        reply = answers.opened(static.ok(kernel.open_(nodeid, os.O_RDONLY)))
        assert reply.open_flags & kernel_rules.PASSTHROUGH
        assert reply.backing_id == 0

    def test_reading(self, static: PassthroughKernel) -> None:
        first, second = static.open("plain"), static.open("plain")
        assert first.backing is second.backing is static.rules.inodes[first.nodeid].attached
        assert static.read(first) == b"plain data"
        for opened in (first, second):
            static.release(opened)
        assert static.read(static.open("plain")) == b"plain data"

    def test_a_directory_on_two_layers(self, make_layers: LayersFactory) -> None:
        """What is below it is settled all the same, but for the number of `..`."""
        layers = make_layers(2, upper=False)
        for number, lower in enumerate(layers.lowers):
            (lower / "both" / f"own{number}" / "deep").mkdir(parents=True)
        with passthrough_kernel(layers, draft=True) as connection:
            assert attached(connection, "both") == 0
            assert attached(connection, "both/own0") == GETATTR | READDIR
            assert attached(connection, "both/own1") == GETATTR
            assert attached(connection, "both/own1/deep") == GETATTR | READDIR
            for path in ("both", "both/own0", "both/own1", "both/own1/deep"):
                nodeid = connection.find(path).nodeid
                assert connection.names(nodeid) == connection.asked_names(nodeid)
                assert connection.stat(nodeid) == connection.asked_stat(nodeid)

    def test_layers_on_two_filesystems(self, one_lower: Layers, disks: Callable[[str], Path]) -> None:
        """Numbers are not the layers' own then."""
        other = disks("tmpfs") / f"t{time.monotonic_ns():x}"
        other.mkdir()
        (other / "alien").write_bytes(b"alien")
        (other / "directory").mkdir()
        layers = Layers((one_lower.lowers[0], other), None, None, one_lower.mnt)
        with passthrough_kernel(layers, draft=True) as connection:
            for path in ("plain", "tree", "alien", "directory"):
                assert attached(connection, path) == 0
            assert connection.read(connection.open("plain")) == b"plain data"
            assert connection.read(connection.open("alien")) == b"alien"

    @pytest.mark.parametrize("hidden", ["whiteout", "marker", "opaque", "xattr"])
    def test_a_directory_that_needs_filtering(self, hidden: str, make_layers: LayersFactory) -> None:
        """It is listed by the server, so that what is private does not show."""
        layers = make_layers(1, upper=False)
        directory = layers.lowers[0] / "directory"
        directory.mkdir()
        (directory / "shown").write_bytes(b"")
        if hidden == "whiteout":
            os.mknod(directory / "gone", 0o020000, os.makedev(0, 0))
        elif hidden == "marker":
            (directory / ".wh.gone").write_bytes(b"")
        elif hidden == "opaque":
            (directory / ".wh..wh..opq").write_bytes(b"")
        else:
            (directory / "gone").write_bytes(b"")
            os.setxattr(directory / "gone", "trusted.overlay.whiteout", b"y")
            os.setxattr(directory, "trusted.overlay.opaque", b"x")
        with passthrough_kernel(layers, draft=True) as connection:
            inode = connection.find("directory")
            assert inode.attached is not None
            assert inode.attached.operations == GETATTR
            assert set(connection.names(inode.nodeid)) == {".", "..", "shown"}


class TestWrittenUnion:
    """Objects that move, and objects that don't."""

    @pytest.mark.parametrize("name", ["file", "first", "only", "only/inner", "both"])
    def test_nothing_unsettled_is_attached(self, name: str, live: PassthroughKernel) -> None:
        assert attached(live, name) == 0
        assert GETATTR_OPCODE in requests_for(live, lambda: live.stat(live.find(name).nodeid))

    @pytest.mark.parametrize("name", ["plain", "symlink", "fifo", "device", "tree", "tree/below", "tree/leaf"])
    def test_stat_of_what_is_on_the_upper_layer_alone(self, name: str, live: PassthroughKernel) -> None:
        inode = live.find(name)
        assert inode.attached is not None
        assert live.stat(inode.nodeid) == live.asked_stat(inode.nodeid)

    def test_listing_of_what_is_on_the_upper_layer_alone(self, live: PassthroughKernel) -> None:
        """`..` of a directory in a merged one has the number of the lower one."""
        assert attached(live, "tree") == GETATTR
        assert attached(live, "tree/below") == GETATTR | READDIR
        for path in ("tree", "tree/below"):
            nodeid = live.find(path).nodeid
            assert live.names(nodeid) == live.asked_names(nodeid)

    @pytest.mark.parametrize("what", ["create", "mknod", "mkdir", "symlink", "link", "tmpfile"])
    def test_new_objects(self, what: str, live: PassthroughKernel) -> None:
        parent = live.find("tree/below").nodeid
        if what == "create":
            opened = live.create(parent, "new")
            assert opened.backing is live.rules.inodes[opened.nodeid].attached
            nodeid = opened.nodeid
        elif what == "tmpfile":
            body = live.ok(kernel.tmpfile(parent, os.O_RDWR, 0o100600))
            assert answers.opened(body, 312).backing_id == 0
            nodeid = answers.node2(body).nodeid
        else:
            message = {
                "mknod": kernel.mknod(parent, b"new", 0o100644),
                "mkdir": kernel.mkdir(parent, b"new", 0o755),
                "symlink": kernel.symlink(parent, b"new", b"target"),
                "link": kernel.link(parent, b"new", live.find("plain").nodeid),
            }[what]
            nodeid = answers.node2(live.ok(message)).nodeid
        inode = live.rules.inodes[nodeid]
        assert inode.attached is not None
        assert live.stat(nodeid) == live.asked_stat(nodeid)
        if what == "mkdir":
            assert inode.attached.operations == GETATTR | READDIR
        if what != "tmpfile":
            assert live.names(parent) == live.asked_names(parent)
            assert "new" in live.names(parent)

    def test_a_missing_name(self, live: PassthroughKernel) -> None:
        body = live.ok(kernel.lookup(ROOT, b"absent"))
        assert len(body) == 312
        assert answers.node2(body).nodeid == 0

    def test_changes_show_at_the_backing_file(self, live: PassthroughKernel) -> None:
        nodeid = live.find("plain").nodeid
        live.ok(kernel.setattr_(nodeid, abi.FATTR_MODE, mode=0o600))
        live.ok(kernel.setattr_(nodeid, abi.FATTR_SIZE, size=3))
        opened = live.open("plain", os.O_RDWR)
        live.write(opened, b"more", 3)
        assert live.stat(nodeid) == live.asked_stat(nodeid)
        assert (live.stat(nodeid).mode, live.stat(nodeid).size) == (0o100600, 7)
        assert live.read(opened) == b"plamore"

    def test_an_open_file_loses_its_name(self, live: PassthroughKernel) -> None:
        opened = live.open("plain", os.O_RDWR)
        live.ok(kernel.unlink(ROOT, b"plain"))
        live.release(opened)
        # By /proc/self/fd, as long as the kernel knows the inode.
        again = live.open_inode(opened.nodeid, os.O_RDWR)
        assert again.backing is live.rules.inodes[opened.nodeid].attached
        live.write(again, b"late")
        assert live.stat(opened.nodeid) == live.asked_stat(opened.nodeid)
        assert live.stat(opened.nodeid).nlink == 0

    def test_a_file_without_a_name_gets_one(self, live: PassthroughKernel) -> None:
        body = live.ok(kernel.tmpfile(ROOT, os.O_RDWR, 0o100600))
        nodeid, opened = answers.node2(body).nodeid, answers.opened(body, 312)
        live.ok(kernel.release(nodeid, opened.fh))
        live.ok(kernel.link(ROOT, b"named", nodeid))
        found = live.open("named", os.O_RDWR)
        assert found.nodeid == nodeid
        assert live.stat(nodeid) == live.asked_stat(nodeid)


class TestLifetime:
    """A registration lives as long as the kernel knows the inode."""

    def test_forgotten_inodes_leave_nothing(self, live: PassthroughKernel) -> None:
        paths = ("plain", "symlink", "fifo", "device", "tree", "file", "both")
        for path in paths:
            live.find(path)
        live.release(live.open("plain", os.O_RDWR))
        live.release(live.open("file"))
        assert len(live.rules.backings) >= 5
        for nodeid, inode in list(live.rules.inodes.items()):
            if nodeid != ROOT:
                live.send(kernel.forget(nodeid, inode.lookups))
        live.settle()
        assert live.rules.backings == {}

    def test_entries_that_do_not_fit_into_a_listing(self, live: PassthroughKernel) -> None:
        """They are forgotten at once, on both sides."""
        live.page(ROOT, 0, 700, plus=True)
        known = {nodeid for nodeid, inode in live.rules.inodes.items() if inode.lookups}
        live.settle()
        assert set(live.union.inodes.by_id) == known

    def test_forgotten_in_a_batch(self, live: PassthroughKernel) -> None:
        inodes = [live.find(path) for path in ("plain", "symlink", "tree")]
        live.send(kernel.batch_forget([(inode.nodeid, inode.lookups) for inode in inodes]))
        live.settle()
        assert live.rules.backings == {}

    def test_many_closed_files_stay_registered_while_they_are_known(
        self, live: PassthroughKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The bound for idle ones is for those that the kernel does not hold on its own."""
        monkeypatch.setattr("unionfs.serve.passthrough._MOST_IDLE", 0)
        first = live.open("plain")
        live.release(first)
        live.release(live.open("tree/leaf"))
        again = live.open("plain")
        assert again.backing is first.backing

    def test_looked_up_again_before_the_kernel_says_that_it_forgot(self, static: PassthroughKernel) -> None:
        """The new inode gets its backing file too."""
        nodeid = static.find("plain").nodeid
        lookups = static.rules.evict(nodeid)
        assert static.find("plain").attached is not None
        static.rules.inodes[nodeid].lookups += lookups
        static.send(kernel.forget(nodeid, lookups))
        assert static.read(static.open_inode(nodeid)) == b"plain data"

    def test_listed_again_before_the_kernel_says_that_it_forgot(self, static: PassthroughKernel) -> None:
        """An entry of a listing can't give it one: then the open names it."""
        tree, nodeid = static.find("tree").nodeid, static.find("tree/leaf").nodeid
        lookups = static.rules.evict(nodeid)
        static.ok(kernel.readdirplus(tree, 0, 0, 4096))
        assert READDIRPLUS in static.requests
        inode = static.rules.inodes[nodeid]
        inode.lookups += lookups
        static.send(kernel.forget(nodeid, lookups))
        assert inode.attached is None
        opened = static.open_inode(nodeid)
        assert static.read(opened) == b"leaf"
        assert static.find("tree/leaf").attached is opened.backing
        static.release(opened)
        assert static.read(static.open_inode(nodeid)) == b"leaf"


def test_first_known_by_a_listing(static: PassthroughKernel) -> None:
    """Attached by a later lookup."""
    tree = static.find("tree").nodeid
    listed = {entry.name: entry.node for entry in static.listing(tree, plus=True)}
    leaf = listed[b"leaf"]
    assert leaf is not None
    assert static.rules.inodes[leaf.nodeid].attached is None
    opened = static.open_inode(leaf.nodeid)
    assert static.read(opened) == b"leaf"
    assert static.find("tree/leaf").attached is opened.backing


def test_a_layer_that_is_refused(written: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be attached is served as without it."""
    with passthrough_kernel(written, draft=True) as connection:
        monkeypatch.setattr(kernel_rules, "_DEPTHS", {0xEF53: 2})
        assert attached(connection, "tree") == 0
        assert attached(connection, "plain") == 0
        assert connection.read(connection.open("plain")) == b"plain data"
        assert connection.asked_names(connection.find("tree").nodeid)


def test_without_the_draft_nothing_is_attached(written: Layers) -> None:
    with passthrough_kernel(written) as connection:
        inode = connection.find("plain")
        opened = connection.open("plain", os.O_RDWR)
        assert inode.attached is None
        assert opened.backing is not None
        assert opened.backing.operations == 0
        assert struct.calcsize("=QQQQII") + 88 == len(connection.ok(kernel.lookup(ROOT, b"plain")))
