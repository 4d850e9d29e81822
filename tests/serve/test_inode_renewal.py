"""With the draft of inode passthrough: what becomes of nodes that are copied up, and of directories whose numbers change?"""

from __future__ import annotations

import errno
import os
import time
from unittest import mock

import pytest

from tests.serve import kernel_rules
from tests.serve.fake_kernel import ROOT
from tests.serve.passthrough_kernel import PassthroughKernel
from tests.serve.test_inode_passthrough import GETATTR, attached
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from unionfs.wire import abi, notify

PATIENCE = 10.0


class TestCopyUp:
    """What is copied up keeps its number, and so has none of its own to be attached by; if it can't keep it, a new node."""

    @pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
    def test_a_lower_file(self, flags: int, live: PassthroughKernel, written: Layers) -> None:
        before = live.open("file")
        ino = live.rules.inodes[before.nodeid].ino
        opened = live.open("file", flags)
        live.write(opened, b"above")
        assert attached(live, "file") == 0
        assert live.find("file").ino == ino != (written.top / "file").stat().st_ino
        assert (written.top / "file").read_bytes() == b"above"
        assert live.read(before) == b"above"

    def test_by_its_attributes(self, live: PassthroughKernel) -> None:
        nodeid = live.find("file").nodeid
        live.ok(kernel.setattr_(nodeid, abi.FATTR_MODE, mode=0o600))
        assert attached(live, "file") == 0
        assert live.stat(nodeid) == live.asked_stat(nodeid)
        assert live.read(live.open("file")) == b"below"

    def test_one_of_two_names(self, live: PassthroughKernel, written: Layers) -> None:
        """It is another inode from then on: the name gets a new node, which is attached, and the old one goes on."""
        old = live.find("first")
        before = live.open("first")
        live.ok(kernel.setattr_(old.nodeid, abi.FATTR_MODE, mode=0o600))
        new = live.find("first")
        assert new.nodeid != old.nodeid
        assert new.ino == (written.top / "first").stat().st_ino
        assert new.attached is not None
        assert live.stat(new.nodeid) == live.asked_stat(new.nodeid)
        assert live.read(before) == b"two names"
        assert live.asked_stat(old.nodeid).mode == 0o100600
        assert live.find("second").ino == old.ino
        live.release(before)

    def test_one_of_two_names_by_an_inode_the_kernel_still_has(self, live: PassthroughKernel) -> None:
        """The open by the old nodeid is sent to look the name up again, and by a descriptor it works all the same.

        A descriptor leads to the old nodeid twice; whoever has come by the latest meanwhile had a name to look up.
        """
        old = live.find("first").nodeid
        live.ok(kernel.setattr_(old, abi.FATTR_MODE, mode=0o600))
        with pytest.raises(OSError, match="Stale") as failed:
            live.open_inode(old, os.O_RDWR)
        assert failed.value.errno == errno.ESTALE
        found = live.open("first", os.O_RDWR)
        assert found.nodeid != old
        assert found.backing is live.rules.inodes[found.nodeid].attached is not None
        with pytest.raises(OSError, match="Stale"):
            live.open_inode(old)
        again = live.open_inode(old)
        assert live.read(again) == b"two names"

    def test_one_of_two_names_gets_a_third(self, live: PassthroughKernel) -> None:
        old = live.find("first").nodeid
        made = answers.node2(live.ok(kernel.link(ROOT, b"third", old)))
        assert made.nodeid != old
        assert live.find("first").nodeid == live.find("third").nodeid == made.nodeid
        assert live.rules.inodes[made.nodeid].attached is not None
        assert live.stat(made.nodeid) == live.asked_stat(made.nodeid)

    def test_one_of_two_names_in_a_listing(self, live: PassthroughKernel) -> None:
        old = live.find("first")
        live.ok(kernel.setattr_(old.nodeid, abi.FATTR_MODE, mode=0o600))
        listed = {entry.name: entry for entry in live.listing(ROOT, plus=True)}[b"first"]
        assert listed.node is not None
        assert listed.node.nodeid != old.nodeid
        assert listed.ino == listed.node.attr.ino != old.ino
        assert live.find("first").nodeid == listed.node.nodeid
        assert live.find("first").attached is not None

    def test_one_of_two_names_first_known_by_a_listing(self, live: PassthroughKernel) -> None:
        listed = {entry.name: entry.node for entry in live.listing(ROOT, plus=True)}[b"first"]
        assert listed is not None
        live.ok(kernel.setattr_(listed.nodeid, abi.FATTR_MODE, mode=0o600))
        new = live.find("first")
        assert new.nodeid != listed.nodeid
        assert new.attached is not None

    def test_a_directory_becomes_merged(self, live: PassthroughKernel) -> None:
        """It was never attached, since that was to be expected."""
        nodeid = live.find("only").nodeid
        before = live.names(nodeid)
        live.release(live.create(nodeid, "new"))
        assert attached(live, "only") == 0
        assert set(live.names(nodeid)) - set(before) == {"new"}

    def test_cached_opens_are_in_the_way(self, live: PassthroughKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        """A registration failed for want of memory: the backing file comes with the first lookup after those opens are gone."""
        with monkeypatch.context() as patch:
            patch.setattr(kernel_rules.Rules, "backing_open", mock.Mock(side_effect=OSError(errno.ENOMEM, "no memory")))
            before = live.open("plain")
        inode = live.find("plain")
        assert inode.cached
        assert inode.attached is None
        live.release(before)
        assert live.find("plain").attached is not None
        assert live.read(live.open("plain")) == b"plain data"


class TestListingAfterChanges:
    """A directory whose real listing no longer shows the union's numbers gets a new node."""

    def wait_expired(self, connection: PassthroughKernel, parent: int, name: bytes) -> None:
        """Until the kernel was told to look the name up again."""
        flags = abi.EXPIRE_ONLY
        wanted = answers.answer(notify.inval_entry(parent, name, flags))
        deadline = time.monotonic() + PATIENCE
        while wanted not in connection.notifications:
            assert time.monotonic() < deadline, "the kernel was not told"
            connection.settle()

    @pytest.mark.parametrize("how", ["link", "rename", "exchange"])
    def test_an_object_with_an_origin_comes_in(self, how: str, live: PassthroughKernel) -> None:
        tree = live.find("tree").nodeid
        inode = live.find("tree/below")
        assert live.names(inode.nodeid) == live.asked_names(inode.nodeid)
        file = live.find("file")
        live.ok(kernel.setattr_(file.nodeid, abi.FATTR_MODE, mode=0o600))
        if how == "link":
            live.ok(kernel.link(inode.nodeid, b"come", file.nodeid))
            name = "come"
        elif how == "rename":
            live.ok(kernel.rename(ROOT, b"file", inode.nodeid, b"come"))
            name = "come"
        else:
            live.ok(kernel.rename2(ROOT, b"file", inode.nodeid, b"deep", 2))
            name = "deep"
        self.wait_expired(live, tree, b"below")
        new = live.find("tree/below")
        assert new.nodeid != inode.nodeid
        assert new.ino == inode.ino
        assert new.attached is not None
        assert new.attached.operations == GETATTR
        assert live.names(new.nodeid)[name][0] == file.ino
        assert live.names(new.nodeid) == live.asked_names(new.nodeid) == live.asked_names(inode.nodeid)

    def test_it_comes_into_a_directory_with_another_number(self, live: PassthroughKernel) -> None:
        inode, tree = live.find("tree/below"), live.find("tree").nodeid
        live.ok(kernel.rename(tree, b"below", ROOT, b"moved"))
        self.wait_expired(live, ROOT, b"moved")
        new = live.find("moved")
        assert new.nodeid != inode.nodeid
        assert live.names(new.nodeid) == live.asked_names(new.nodeid)
        assert live.find("moved/deep").attached is not None

    def test_a_rename_that_changes_no_number(self, live: PassthroughKernel) -> None:
        inode, tree = live.find("tree/below"), live.find("tree").nodeid
        live.ok(kernel.rename(tree, b"below", tree, b"renamed"))
        live.ok(kernel.rename(tree, b"leaf", inode.nodeid, b"leaf"))
        assert live.find("tree/renamed") is inode
        assert live.names(inode.nodeid) == live.asked_names(inode.nodeid)
        assert live.notifications == []

    def test_the_old_node_goes(self, live: PassthroughKernel) -> None:
        inode, tree = live.find("tree/below"), live.find("tree").nodeid
        live.ok(kernel.rename(tree, b"below", ROOT, b"moved"))
        new = live.find("moved")
        live.send(kernel.forget(inode.nodeid, live.rules.inodes[inode.nodeid].lookups))
        live.settle()
        assert live.error(kernel.getattr_(inode.nodeid)) == errno.ESTALE
        assert live.names(new.nodeid) == live.asked_names(new.nodeid)
