"""Are the marks written and read as the kernel's overlayfs writes and reads them?"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.overlay.conftest import OpenUnion
from tests.support.mounts import Kernel, Layers
from unionfs.linux import handle
from unionfs.linux.handle import Handle
from unionfs.overlay import copyup, lookup, marks
from unionfs.overlay.config import Uuid
from unionfs.overlay.marks import Origin

fuzz = settings(max_examples=300)
HANDLES = st.builds(Handle, st.integers(0, 0xFE), st.binary(max_size=128))
UUIDS = st.binary(min_size=16, max_size=16)


@fuzz
@given(uuid=UUIDS, found=HANDLES)
def test_an_origin_comes_back(uuid: bytes, found: Handle) -> None:
    value = marks.encode_origin(uuid, found)
    assert value[:5] == bytes([0, 0xFB, 21 + len(found.opaque), int(sys.byteorder == "big"), found.kind])
    assert value[5:21] == uuid
    assert marks.decode_origin(value) == Origin(uuid, found)


@pytest.mark.parametrize("kind", [-1, 0xFF, 0x100])
def test_an_origin_that_cannot_be_said(kind: int) -> None:
    assert marks.encode_origin(bytes(16), Handle(kind, b"x")) == b""
    assert marks.encode_origin(bytes(16), None) == b""


@fuzz
@given(value=st.binary(max_size=64))
def test_any_bytes_as_an_origin(value: bytes) -> None:
    origin = marks.decode_origin(value)
    assert origin is None or value[1] == marks.ORIGIN_MAGIC


GOOD = marks.encode_origin(bytes(range(16)), Handle(1, b"12345678"))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:20],
        GOOD[:-1],
        b"\x01" + GOOD[1:],
        GOOD[:1] + b"\xfa" + GOOD[2:],
        GOOD[:3] + b"\x01" + GOOD[4:] if sys.byteorder == "little" else GOOD[:3] + b"\0" + GOOD[4:],
        GOOD[:3] + b"\x80" + GOOD[4:],
    ],
    ids=["empty", "short", "cut", "version", "magic", "byte order", "unknown flag"],
)
def test_an_origin_that_is_not_understood(value: bytes) -> None:
    assert marks.decode_origin(value) is None


@pytest.mark.parametrize("value", [GOOD + b"\0", GOOD[:3] + b"\x04" + GOOD[4:]], ids=["long", "of an upper object"])
def test_an_origin_that_is_understood_all_the_same(value: bytes) -> None:
    assert marks.decode_origin(value) == marks.decode_origin(GOOD)


def test_an_origin_of_any_byte_order() -> None:
    assert marks.decode_origin(GOOD[:3] + b"\x02" + GOOD[4:]) == marks.decode_origin(GOOD)


@pytest.mark.parametrize("scratch", ["ext4", "xfs", "btrfs"], indirect=True)
def test_origins_are_those_of_the_kernel(make_layers: Callable[..., Layers], open_union: OpenUnion) -> None:
    """Both copy up the same lower objects; what they note of them is the same, byte for byte."""
    theirs = make_layers()
    upper, work, mnt = (theirs.mnt.parent / name for name in ("our upper", "our work", "nowhere"))
    ours = Layers(theirs.lowers, upper, work, mnt)
    for path in (ours.top, ours.mnt.parent / "our work"):
        path.mkdir()
    lower = theirs.lowers[0]
    (lower / "dir").mkdir()
    (lower / "dir" / "file").write_bytes(b"data")
    (lower / "symlink").symlink_to("x")
    (lower / "linked").write_bytes(b"")
    os.link(lower / "linked", lower / "link")
    names = ["dir", "dir/file", "symlink", "linked"]
    with Kernel().mount(theirs, {"uuid": "null"}) as mnt:
        for name in names:
            os.chown(mnt / name, 7, 7, follow_symlinks=False)
    union = open_union(ours, uuid=Uuid.NULL)
    for name in names:
        parent = union.root
        *directories, last = name.encode().split(b"/")
        for step in directories:
            found = lookup.lookup(union, parent, step)
            assert found is not None
            assert isinstance(found[0], type(union.root))
            parent = found[0]
        found = lookup.lookup(union, parent, last)
        assert found is not None
        copyup.ensure_upper(union, found[0])
    for name in [".", *names]:
        assert private(ours.top / name) == private(theirs.top / name), name
    assert private(ours.top / "dir" / "file").keys() == {"trusted.overlay.origin"}
    assert private(ours.top / "linked") == {}, "one name of several is no longer the lower file"


def private(path: Path) -> dict[str, bytes]:
    """The marks on an upper object."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith("trusted.overlay.")}


def test_origin_of_a_file(scratch: Path, directory: int) -> None:
    """Decoded, it leads back to the file."""
    (scratch / "file").write_bytes(b"data")
    origin = marks.decode_origin(marks.encode_origin(bytes(16), handle.encode(directory, b"file")))
    assert origin is not None
    mount_fd = os.open(scratch, os.O_RDONLY)
    fd = handle.open_handle(mount_fd, origin.handle, os.O_RDONLY)
    assert os.read(fd, 9) == b"data"
    os.close(fd)
    os.close(mount_fd)


PREFIXES = st.sampled_from([marks.TRUSTED, marks.USER])
ATTRIBUTES = st.one_of(
    st.text("abc.", min_size=1, max_size=8).map(lambda text: "user." + text),
    st.builds(
        lambda prefix, depth, rest: prefix + "overlay." * depth + rest,
        st.sampled_from([marks.TRUSTED, marks.USER]),
        st.integers(0, 3),
        st.sampled_from(["opaque", "origin", "", "overlay", "x.y"]),
    ),
)


@fuzz
@given(prefix=PREFIXES, attribute=ATTRIBUTES)
def test_what_a_user_names_comes_back_and_is_no_mark(prefix: str, attribute: str) -> None:
    real = marks.escape(attribute, prefix)
    assert real is not None
    assert marks.unescape(real, prefix) == attribute
    assert real == attribute or real.startswith(prefix + "overlay.")


@pytest.mark.parametrize("prefix", [marks.TRUSTED, marks.USER])
def test_marks_are_hidden(prefix: str) -> None:
    for mark in ("opaque", "origin", "impure", "redirect", "metacopy", "whiteout", "nlink", "upper", "uuid", "protattr", "new"):
        assert marks.unescape(prefix + mark, prefix) is None
    other = marks.USER if prefix == marks.TRUSTED else marks.TRUSTED
    assert marks.unescape(other + "opaque", prefix) == other + "opaque"
    assert marks.unescape("user.fuseoverlayfs.opaque", prefix) is None
    assert marks.escape("user.fuseoverlayfs.opaque", prefix) is None


class TestDirectoryMarks:
    """What the xattrs of a directory say."""

    @pytest.fixture
    def place(self, scratch: Path) -> Path:
        (scratch / "d").mkdir()
        return scratch / "d"

    @pytest.mark.parametrize(
        ("attribute", "value", "opaque", "xwhiteouts"),
        [
            ("trusted.overlay.opaque", b"y", True, False),
            ("trusted.overlay.opaque", b"x", False, True),
            ("trusted.overlay.opaque", b"n", False, False),
            ("trusted.overlay.opaque", b"yes", False, False),
            ("trusted.overlay.opaque", b"", False, False),
            ("user.overlay.opaque", b"y", False, False),
            ("user.fuseoverlayfs.opaque", b"y", True, False),
            ("user.fuseoverlayfs.opaque", b"yes", True, False),
            ("user.fuseoverlayfs.opaque", b"n", False, False),
        ],
    )
    def test_opaque(self, attribute: str, value: bytes, opaque: bool, xwhiteouts: bool, place: Path, directory: int) -> None:
        os.setxattr(place, attribute, value)
        found = marks.read_dir_marks(directory, b"d", marks.TRUSTED)
        assert (found.opaque, found.xwhiteouts) == (opaque, xwhiteouts)

    def test_others(self, place: Path, directory: int) -> None:
        assert marks.read_dir_marks(directory, b"d", marks.TRUSTED) == marks.NO_MARKS
        os.setxattr(place, "trusted.overlay.impure", b"y")
        os.setxattr(place, "trusted.overlay.redirect", b"/a/b")
        os.setxattr(place, "user.overlay.opaque", b"y")
        assert marks.read_dir_marks(directory, b"d", marks.TRUSTED) == (False, False, True, b"/a/b", False)
        assert marks.read_dir_marks(directory, b"d", marks.USER) == (True, False, False, None, False)

    def test_of_files(self, scratch: Path, directory: int) -> None:
        (scratch / "f").write_bytes(b"")
        assert not marks.has_whiteout_xattr(directory, b"f", marks.TRUSTED)
        assert marks.metacopy(directory, b"f", marks.TRUSTED) is None
        os.setxattr(scratch / "f", "trusted.overlay.whiteout", b"")
        os.setxattr(scratch / "f", "trusted.overlay.metacopy", b"")
        assert marks.has_whiteout_xattr(directory, b"f", marks.TRUSTED)
        assert marks.metacopy(directory, b"f", marks.TRUSTED) == b""
        assert not marks.has_whiteout_xattr(directory, b"f", marks.USER)
        assert marks.metacopy(directory, b"f", marks.USER) is None
