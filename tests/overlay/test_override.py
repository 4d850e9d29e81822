"""What do marks `override_stat` say, where are they looked for, and what keeps them from users?"""

from __future__ import annotations

import errno
import os
import stat as modes
from pathlib import Path

import pytest

from tests.overlay.conftest import OpenUnion
from tests.support.mounts import Layers
from unionfs.linux import stat
from unionfs.linux.stat import Stat
from unionfs.overlay import isolation
from unionfs.overlay.config import XattrPermissions
from unionfs.overlay.errors import LayerError
from unionfs.overlay.override import CONTAINERS, PRIVILEGED, USER, Override, decode, encode

NOTHING = Stat(*(0,) * len(Stat._fields))
FILE = NOTHING._replace(mode=modes.S_IFREG | 0o700, uid=1, gid=2, size=3)
DIRECTORY = NOTHING._replace(mode=modes.S_IFDIR | 0o711)


@pytest.mark.parametrize(
    ("value", "uid", "gid", "mode", "rdev"),
    [
        (b"0:0:644", 0, 0, modes.S_IFREG | 0o644, (0, 0)),
        (b"1000:1011:0644:file", 1000, 1011, modes.S_IFREG | 0o644, (0, 0)),
        (b"1000:1011:0644:file\0", 1000, 1011, modes.S_IFREG | 0o644, (0, 0)),
        (b"5:6:104755", 5, 6, modes.S_IFREG | 0o4755, (0, 0)),
        (b"-2:-2:0600:file", 4294967294, 4294967294, modes.S_IFREG | 0o600, (0, 0)),
        (b"4294967294:1:0", 4294967294, 1, modes.S_IFREG, (0, 0)),
        (b"0:6:0660:block-8-0", 0, 6, modes.S_IFBLK | 0o660, (8, 0)),
        (b"0:6:666:char1:3", 0, 6, modes.S_IFCHR | 0o666, (1, 3)),
        (b"1:1:0600:char-10-200", 1, 1, modes.S_IFCHR | 0o600, (10, 200)),
        (b"0:0:0666:pipe", 0, 0, modes.S_IFIFO | 0o666, (0, 0)),
        (b"0:0:0700:socket", 0, 0, modes.S_IFSOCK | 0o700, (0, 0)),
        (b"0:0:0777:symlink", 0, 0, modes.S_IFREG | 0o777, (0, 0)),
        (b"0:0:0755:dir", 0, 0, modes.S_IFREG | 0o755, (0, 0)),
    ],
)
def test_what_a_mark_says_of_a_file(value: bytes, uid: int, gid: int, mode: int, rdev: tuple[int, int]) -> None:
    meant = decode(value, FILE)
    assert (meant.uid, meant.gid, oct(meant.mode), (meant.rdev_major, meant.rdev_minor)) == (uid, gid, oct(mode), rdev)
    assert meant.size == 3


@pytest.mark.parametrize("word", [b"dir", b"file", b"pipe", b"char-1-3"])
def test_a_directory_stays_one(word: bytes) -> None:
    assert decode(b"7:8:1777:" + word, DIRECTORY).mode == modes.S_IFDIR | 0o1777


@pytest.mark.parametrize(
    "value",
    [
        b"", b":", b"0:0", b"0:0:", b"a:0:644", b"0:0:888", b"0:0:644:", b"0:0:644:bogus", b"0:0:644:char", b"0:0:644:block-8",
        b"0:0:644:file-1-2", b"0:0:644:char-1-3-5", b"0 :0:644", b"0:0:644\n", b"99999999999:0:644", b"\xff:0:644",
    ],
)  # fmt: skip
def test_a_damaged_mark_is_an_error(value: bytes) -> None:
    with pytest.raises(OSError, match="damaged") as refused:
        decode(value, FILE)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("mode", "rdev", "value"),
    [
        (modes.S_IFREG | 0o4755, 0, b"1:2:4755:file"),
        (modes.S_IFDIR | 0o5, 0, b"1:2:0005:dir"),
        (modes.S_IFIFO | 0o600, 0, b"1:2:0600:pipe"),
        (modes.S_IFSOCK | 0o600, 0, b"1:2:0600:socket"),
        (modes.S_IFCHR | 0o666, os.makedev(10, 200), b"1:2:0666:char-10-200"),
        (modes.S_IFBLK | 0o660, os.makedev(259, 70000), b"1:2:0660:block-259-70000"),
    ],
)
def test_what_is_written_is_read_back(mode: int, rdev: int, value: bytes) -> None:
    assert encode(mode, 1, 2, rdev) == value
    real = DIRECTORY if modes.S_ISDIR(mode) else FILE
    meant = decode(value, real)
    assert (meant.mode, meant.uid, meant.gid, meant.rdev) == (mode, 1, 2, rdev)


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        ("user.any", "user.any"),
        ("security.capability", "user.containers.override_security.capability"),
        ("user.containers.override_stat", "user.containers.override_user.containers.override_stat"),
        ("user.containers.override_security.x", "user.containers.override_user.containers.override_security.x"),
        ("trusted.any", "trusted.any"),
    ],
)
def test_names_kept_apart(theirs: str, kept: str) -> None:
    """None of a user's attributes becomes the mark, or another's."""
    override = Override(CONTAINERS)
    assert isolation.encode(override, theirs) == kept
    assert isolation.decode(override, kept) == theirs


@pytest.mark.parametrize("attribute", [CONTAINERS, PRIVILEGED, USER])
def test_the_mark_is_nobodys(attribute: str) -> None:
    override = Override(attribute)
    assert isolation.decode(override, attribute) is None
    if attribute != CONTAINERS:
        assert isolation.encode(override, attribute) is None
        assert isolation.encode(override, "security.capability") == "security.capability"


@pytest.mark.parametrize("attribute", [CONTAINERS, PRIVILEGED, USER])
def test_a_layer_has_marks_if_its_root_has_one(attribute: str, layers: Layers, open_union: OpenUnion) -> None:
    lower = layers.lowers[0]
    os.setxattr(lower, attribute, b"3:4:0751:dir")
    union = open_union(layers)
    assert union.upper is not None
    assert union.upper.override is None
    (layer,) = union.lowers
    assert layer.override is not None
    assert layer.override.attribute == attribute


def mark(path: Path, attribute: str = CONTAINERS) -> bytes:
    return os.getxattr(path, attribute)


def test_a_fresh_upper_layer_is_marked(layers: Layers, open_union: OpenUnion) -> None:
    """As it is itself, so that nobody sees a difference."""
    layers.top.chmod(0o751)
    os.chown(layers.top, 5, 6)
    open_union(layers, xattr_permissions=XattrPermissions.USER)
    assert mark(layers.top) == b"5:6:0751:dir"


def test_a_fresh_upper_layer_is_like_the_lower_one(layers: Layers, open_union: OpenUnion) -> None:
    os.setxattr(layers.lowers[0], USER, b"3:4:0711")
    open_union(layers, xattr_permissions=XattrPermissions.SECURITY)
    assert mark(layers.top, PRIVILEGED) == b"3:4:0711:dir"


def test_an_upper_layer_begun_by_an_older_program(layers: Layers, open_union: OpenUnion) -> None:
    os.setxattr(layers.top, USER, b"0:0:755")
    union = open_union(layers, xattr_permissions=XattrPermissions.USER)
    assert union.upper is not None
    assert union.upper.override is not None
    assert union.upper.override.attribute == USER


def test_an_upper_layer_with_other_marks_is_refused(layers: Layers, open_union: OpenUnion) -> None:
    os.setxattr(layers.top, PRIVILEGED, b"0:0:755")
    with pytest.raises(LayerError, match=r"xattr_permissions=2: .* was written with another value"):
        open_union(layers, xattr_permissions=XattrPermissions.USER)


def test_a_damaged_mark_on_a_root_is_refused(layers: Layers, open_union: OpenUnion) -> None:
    os.setxattr(layers.lowers[0], CONTAINERS, b"rubbish")
    with pytest.raises(LayerError, match=f"the xattr {CONTAINERS} of the layer's root is damaged"):
        open_union(layers)


def test_applying_it_twice_is_applying_it_once(layers: Layers) -> None:
    place = layers.lowers[0] / "device"
    place.write_bytes(b"")
    os.setxattr(place, CONTAINERS, b"7:8:0666:char-1-3")
    fd = os.open(layers.lowers[0], os.O_PATH | os.O_DIRECTORY)
    try:
        override = Override(CONTAINERS)
        once = override.apply(fd, b"device", stat.stat(fd, b"device"))
        assert (once.mode, once.rdev) == (modes.S_IFCHR | 0o666, os.makedev(1, 3))
        assert override.apply(fd, b"device", once) == once
    finally:
        os.close(fd)
