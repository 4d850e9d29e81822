"""Are the marks of files without data read and written as overlayfs has them, and do their data come up safely?"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.overlay.conftest import OpenUnion, opened
from tests.overlay.test_lookup import node_of
from tests.support.mounts import Layers
from unionfs.linux import fs
from unionfs.overlay import attrs, copyup, datacopyup, digests, files, metacopy, redirect, remove, rename, xattrs
from unionfs.overlay.config import Fsync, RedirectDir, Verity
from unionfs.overlay.errors import CopyUpNeeded, LayerError
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union

SHA256 = bytes(range(32))
SHA512 = bytes(range(64))
MARK = "trusted.overlay.metacopy"
DATA = b"data" * 1000


class TestDigests:
    @pytest.mark.parametrize(
        ("algorithm", "digest", "mark"), [(1, SHA256, b"\0\x24\0\1" + SHA256), (2, SHA512, b"\0\x44\0\2" + SHA512)]
    )
    def test_both_ways(self, algorithm: int, digest: bytes, mark: bytes) -> None:
        assert digests.encode(algorithm, digest) == mark
        assert digests.decode(mark) == (algorithm, digest)

    @pytest.mark.parametrize("mark", [b"", b"\0\4\0\0", b"\0\5\0\0x"])
    def test_none(self, mark: bytes) -> None:
        assert digests.decode(mark) is None

    @pytest.mark.parametrize(
        ("mark", "code"),
        [
            (b"\0", errno.EIO),
            (b"\0\3\0", errno.EIO),
            (b"\1\x24\0\1" + SHA256, errno.EIO),
            (b"\0\x23\0\1" + SHA256, errno.EIO),
            (b"\0\x24\0\1" + SHA256[:-1], errno.EIO),
            (b"\0\x45\0\2" + SHA512 + b"x", errno.ERANGE),
        ],
    )
    def test_damaged(self, mark: bytes, code: int) -> None:
        with pytest.raises(OSError, match="mark") as caught:
            digests.decode(mark)
        assert caught.value.errno == code


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (b"a", b"a"), (b"/a/b", b"/a/b"), (b"a\0/b", b"a"), (b"/a\0//", b"/a"), (b"..", b".."), (b"/a/../b", b"/a/../b"),
        (b"\0", b""),
    ],
)  # fmt: skip
def test_redirects_of_files(value: bytes, path: bytes) -> None:
    assert redirect.of_file(value) == path


@pytest.mark.parametrize("value", [b"", b"/", b"a/b", b"/a/", b"//a", b"/a//b", b"/\0a"])
def test_what_is_no_redirect_of_a_file(value: bytes) -> None:
    with pytest.raises(OSError, match="malformed") as caught:
        redirect.of_file(value)
    assert caught.value.errno == errno.EINVAL


@pytest.fixture
def union(layers: Layers, open_union: OpenUnion) -> Union:
    (layers.lowers[0] / "file").write_bytes(DATA)
    return open_union(layers, metacopy=True)


@pytest.fixture
def node(union: Union) -> Node:
    """A file whose mode was changed."""
    found = node_of(union, "file")
    assert found is not None
    attrs.chmod(union, found, 0o640)
    return found


def read(node: Node) -> bytes:
    fd = files.open_data(node, False)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def test_metadata_alone(layers: Layers, union: Union, node: Node) -> None:
    above = layers.top / "file"
    assert node.upper
    assert not node.data_upper
    assert not files.is_settled(union, node)
    assert os.getxattr(above, MARK) == b""
    assert (above.stat().st_mode & 0o777, above.stat().st_size, above.stat().st_blocks) == (0o640, len(DATA), 0)
    assert read(node) == DATA


def test_it_brings_redirects_along(union: Union) -> None:
    assert union.redirects is RedirectDir.ON


def test_the_data_follow(layers: Layers, union: Union, node: Node) -> None:
    before = attrs.real_stat(node)
    files.prepare_open(union, node, os.O_RDWR, None)
    above = layers.top / "file"
    assert node.data_upper
    assert files.is_settled(union, node)
    assert MARK not in os.listxattr(above)
    assert above.read_bytes() == DATA
    assert attrs.real_stat(node).mtime_ns == before.mtime_ns
    assert node in union.changed


@pytest.mark.parametrize("step", ["copy_data", "sync_data"])
def test_a_failure_leaves_them_below(
    step: str, layers: Layers, union: Union, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(datacopyup, step, fail)
        with pytest.raises(OSError, match="full"):
            files.prepare_open(union, node, os.O_RDWR, None)
    assert os.getxattr(layers.top / "file", MARK) == b""
    assert not node.data_upper
    assert read(node) == DATA
    attrs.truncate(union, node, 6)
    assert (layers.top / "file").read_bytes() == DATA[:6]


def test_the_mark_goes_after_the_data_are_written_out(union: Union, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[bool] = []
    sync = datacopyup.sync_data

    def note(of: Union, fd: int) -> None:
        marked.append(MARK in os.listxattr(fd))
        sync(of, fd)

    monkeypatch.setattr(datacopyup, "sync_data", note)
    copyup.ensure_upper(union, node)
    assert marked == [True]


def test_a_large_file_is_for_a_thread(layers: Layers, open_union: OpenUnion) -> None:
    data = os.urandom(copyup.INLINE_LIMIT + 1)
    (layers.lowers[0] / "large").write_bytes(data)
    union = open_union(layers, metacopy=True)
    node = node_of(union, "large")
    assert node is not None
    attrs.chmod(union, node, 0o600)
    with pytest.raises(CopyUpNeeded):
        files.prepare_open(union, node, os.O_RDWR, None)
    job = copyup.job(union, node)
    union.copying.add(node)
    try:
        job.prepare()
        # Whoever changes the metadata meanwhile has to wait: the copy restores times and capabilities.
        with pytest.raises(CopyUpNeeded):
            attrs.chmod(union, node, 0o644)
        job.cancelled.value = True
        with pytest.raises(OSError, match="interrupted"):
            job.copy()
    finally:
        job.close()
        union.copying.discard(node)
    assert os.getxattr(layers.top / "large", MARK) == b""
    copyup.job(union, node).run()
    assert node.data_upper
    assert (layers.top / "large").read_bytes() == data


def test_a_file_without_a_name_is_copied_whole(layers: Layers, open_union: OpenUnion) -> None:
    (layers.lowers[0] / "file").write_bytes(DATA)
    union = open_union(layers, metacopy=True)
    node = node_of(union, "file")
    assert node is not None
    remove.unlink(union, union.root, b"file")
    attrs.chmod(union, node, 0o600)
    assert node.data_upper
    assert read(node) == DATA


def test_the_data_follow_a_file_without_a_name(layers: Layers, union: Union, node: Node) -> None:
    """It lost its name while its data were below, and is opened again through /proc."""
    remove.unlink(union, union.root, b"file")
    assert read(node) == DATA
    files.prepare_open(union, node, os.O_RDWR, None)
    assert node.data_upper
    assert read(node) == DATA


def test_nobody_sees_the_mark(union: Union, node: Node) -> None:
    rename.rename(union, union.root, b"file", union.root, b"moved", 0)
    assert xattrs.names(union, node, trusted=True) == []


def test_strict_syncs_the_metadata(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    (layers.lowers[0] / "file").write_bytes(DATA)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for level, least in ((Fsync.STRICT, 1), (Fsync.AUTO, 0)):
        with opened(layers, metacopy=True, fsync=level) as union:
            node = node_of(union, "file")
            assert node is not None
            attrs.chmod(union, node, 0o600)
            assert len(synced) >= least
            assert bool(synced) is bool(least)
        synced.clear()
        (layers.top / "file").unlink()


class TestVerity:
    """The kernel may have no fs-verity: what it measures is made up here."""

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, tuple[int, bytes]]:
        """The digests of files, by their contents."""
        known: dict[bytes, tuple[int, bytes]] = {}
        monkeypatch.setattr(fs, "measure_verity", lambda fd: known.get(os.pread(fd, 100, 0)))
        return known

    def changed(self, layers: Layers, open_union: OpenUnion, verity: Verity) -> tuple[Union, Node]:
        (layers.lowers[0] / "file").write_bytes(b"sealed")
        union = open_union(layers, metacopy=True, verity=verity)
        node = node_of(union, "file")
        assert node is not None
        attrs.chmod(union, node, 0o600)
        return union, node

    @pytest.mark.parametrize("verity", [Verity.ON, Verity.REQUIRE])
    def test_a_digest_is_kept(
        self, verity: Verity, layers: Layers, open_union: OpenUnion, measured: dict[bytes, tuple[int, bytes]]
    ) -> None:
        measured[b"sealed"] = (1, SHA256)
        union, node = self.changed(layers, open_union, verity)
        assert os.getxattr(layers.top / "file", MARK) == digests.encode(1, SHA256)
        files.prepare_open(union, node, os.O_RDONLY, None)
        assert node.data is not None
        node.data.checked = False
        measured[b"sealed"] = (1, SHA256[::-1])
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(OSError, match="digest") as caught:
                files.prepare_open(union, node, flags, None)
            assert caught.value.errno == errno.EIO
        del measured[b"sealed"]
        with pytest.raises(OSError, match="digest"):
            files.prepare_open(union, node, os.O_RDONLY, None)

    def test_off_looks_at_none(self, layers: Layers, open_union: OpenUnion, measured: dict[bytes, tuple[int, bytes]]) -> None:
        measured[b"sealed"] = (1, SHA256)
        union, node = self.changed(layers, open_union, Verity.OFF)
        assert os.getxattr(layers.top / "file", MARK) == b""
        files.prepare_open(union, node, os.O_RDONLY, None)

    def test_require_copies_what_has_none(
        self, layers: Layers, open_union: OpenUnion, measured: dict[bytes, tuple[int, bytes]]
    ) -> None:
        _, node = self.changed(layers, open_union, Verity.REQUIRE)
        assert node.data_upper
        assert not measured

    def test_require_refuses_a_mark_without(
        self, layers: Layers, open_union: OpenUnion, measured: dict[bytes, tuple[int, bytes]]
    ) -> None:
        measured[b"sealed"] = (1, SHA256)
        (layers.lowers[0] / "file").write_bytes(b"sealed")
        (layers.top / "file").write_bytes(b"")
        os.truncate(layers.top / "file", 6)
        os.setxattr(layers.top / "file", MARK, b"")
        union = open_union(layers, metacopy=True, verity=Verity.REQUIRE)
        node = node_of(union, "file")
        assert node is not None
        with pytest.raises(OSError, match="verity=require"):
            metacopy.check(union, node)


def test_files_without_fs_verity_have_no_digest(scratch: Path) -> None:
    (scratch / "f").write_bytes(b"x")
    fd = os.open(scratch / "f", os.O_RDONLY)
    try:
        assert fs.measure_verity(fd) is None
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"metacopy": True}, "metacopy=on"), ({"verity": Verity.ON}, "verity="), ({"data": (b"/x",)}, "data-only")],
)
def test_without_the_privilege_for_such_marks(
    options: dict[str, object], named: str, layers: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unionfs.linux.creds.in_initial_user_namespace", lambda: False)
    with pytest.raises(LayerError, match=named), opened(layers, **options):
        pytest.fail("it was opened")
