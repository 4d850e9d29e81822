"""Layers written under fuse-overlayfs and read here, and the other way round: is every object what its writer made of it?"""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import check_refusal, unionfs, words
from tests.conftest import LayersFactory
from tests.support.mounts import Driver, FuseOverlayfs, Layers, Options, Unionfs, option_string, wait_until_gone
from tests.support.syscalls import capability
from tests.support.trees import Record, Tree, diff, snapshot

WHITEOUTS = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT"
CONTAINERS = "user.containers.override_stat"
APART = "user.containers.override_"
BOTH_WAYS: list[Options] = [
    {},
    {"xattr_permissions": "1"},
    {"xattr_permissions": "2"},
    {"uidmapping": "0:100000:65536", "gidmapping": "0:100000:65536"},
    {"squash_to_root": None},
    {"squash_to_uid": "7", "squash_to_gid": "8"},
    {"noacl": None, "static_nlink": None},
    {"xino": "on", "timeout": "0", "threaded": "0", "writeback": "0", "fsync": "1"},
]


@pytest.fixture
def filled(make_layers: LayersFactory) -> Layers:
    """Things to change and to remove in the lower layer."""
    layers = make_layers()
    fill(layers.lowers[0])
    return layers


def fill(lower: Path) -> None:
    for name in ("kept", "changed", "removed", "given", "replaced"):
        (lower / name).write_bytes(b"lower " + name.encode())
        (lower / name).chmod(0o644)
        (lower / f"{name} directory").mkdir(mode=0o755)
        (lower / f"{name} directory" / "inside").write_bytes(b"inside")
    os.symlink("kept", lower / "link")


def write(mnt: Path, *, special: bool = True) -> None:
    """Makes, changes and removes objects of every kind that both programs know; `special`: also what can have no marks."""
    (mnt / "new").write_bytes(b"new")
    os.chown(mnt / "new", 1000, 1001)
    (mnt / "new").chmod(0o4755)
    (mnt / "secret").write_bytes(b"secret")
    (mnt / "secret").chmod(0o600)
    (mnt / "new directory").mkdir()
    os.chown(mnt / "new directory", 1000, 1001)
    (mnt / "new directory").chmod(0o1777)
    (mnt / "new directory/inside").write_bytes(b"inside")
    if special:
        os.symlink("new", mnt / "new link")
        os.mkfifo(mnt / "fifo", 0o644)
        os.mknod(mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(mnt / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
    os.link(mnt / "new", mnt / "other name")
    os.setxattr(mnt / "new", "user.any", b"value")
    os.setxattr(mnt / "secret", "security.capability", capability(1))
    with open(mnt / "changed", "ab") as file:
        file.write(b" and changed")
    os.chown(mnt / "given", 5, 6)
    (mnt / "given").chmod(0o640)
    os.chown(mnt / "given directory", 5, 6)
    (mnt / "removed").unlink()
    (mnt / "removed directory/inside").unlink()
    (mnt / "removed directory").rmdir()
    (mnt / "replaced").unlink()
    (mnt / "replaced").mkdir()
    (mnt / "replaced directory/inside").unlink()
    (mnt / "replaced directory").rmdir()
    (mnt / "replaced directory").mkdir()
    (mnt / "replaced directory/new").write_bytes(b"alone")
    (mnt / "moved").write_bytes(b"moved")
    (mnt / "moved").rename(mnt / "kept directory/moved")


def seen(mnt: Path) -> Tree:
    """What is in a mount.

    A directory's link count each program has its own way to tell, and its times other reasons to move.  fuse-overlayfs 1.10 shows
    the marks, and what is kept apart under the names it has.
    """
    return {path: plain(record) for path, record in snapshot(mnt).items()}


def plain(record: Record) -> Record:
    shown = [(name.removeprefix(APART), value) for name, value in record.xattrs or () if not name.endswith("override_stat")]
    record = replace(record, xattrs=tuple(sorted(shown)))
    return record.without(["nlink", "mtime_ns"]) if record.type == "dir" else record


def written(driver: Driver, layers: Layers, options: Options) -> Tree:
    """Writes under one program; what that shows in the end."""
    with driver.mount(layers, options) as mnt:
        # Symbolic links fuse-overlayfs 1.10 can't make then (ENOMEM).
        write(mnt, special=not isinstance(driver, FuseOverlayfs) or options.get("xattr_permissions") != "1")
    with driver.mount(layers, options) as mnt:
        return seen(mnt)


def below(layers: Layers, make_layers: LayersFactory, name: str) -> Layers:
    """A union that has the upper layer of another one, at rest, as its topmost lower layer."""
    above = make_layers(name=name)
    return replace(above, lowers=(layers.top, *layers.lowers))


def assert_same(left: Tree, right: Tree) -> None:
    assert diff(left, right, ("its writer's", "its reader's")) == []


def named(options: Options) -> str:
    return ",".join(name if value is None else f"{name}={value}" for name, value in options.items()) or "none"


by_each = pytest.mark.parametrize("writer", [FuseOverlayfs(), Unionfs()], ids=lambda driver: f"by {driver.name}")


@by_each
@pytest.mark.parametrize("options", [{}, {"xattr_permissions": "2"}], ids=named)
def test_with_files_for_whiteouts(
    writer: Driver, options: Options, filled: Layers, make_layers: LayersFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WHITEOUTS, "")
    test_as_the_upper_layer_and_as_a_lower_one(writer, options, filled, make_layers)
    assert (filled.top / ".wh.removed").is_file()


@by_each
@pytest.mark.parametrize("options", BOTH_WAYS, ids=named)
def test_as_the_upper_layer_and_as_a_lower_one(
    writer: Driver, options: Options, filled: Layers, make_layers: LayersFactory
) -> None:
    reader: Driver = Unionfs() if isinstance(writer, FuseOverlayfs) else FuseOverlayfs()
    tree = written(writer, filled, options)
    # As the upper layer, fuse-overlayfs 1.10 looks for its own old mark alone.
    if not (isinstance(reader, FuseOverlayfs) and options.get("xattr_permissions") == "2"):
        with reader.mount(filled, options) as mnt:
            assert_same(tree, seen(mnt))
    read = {name: value for name, value in options.items() if name != "xattr_permissions"}
    with reader.mount(below(filled, make_layers, "reading"), read) as mnt:
        assert_same(tree, seen(mnt))


@pytest.mark.parametrize("value", ["1", "2"])
def test_taken_up_and_given_back(value: str, filled: Layers) -> None:
    """An upper layer with owners in xattrs, begun by fuse-overlayfs, goes on here and then there again."""
    options: Options = {"xattr_permissions": value}
    written(FuseOverlayfs(), filled, options)
    with Unionfs().mount(filled, options) as mnt:
        (mnt / "ours").write_bytes(b"ours")
        os.chown(mnt / "ours", 9, 10)
        (mnt / "ours").chmod(0o751)
        os.chown(mnt / "given", 11, 12)
        os.chown(mnt / "kept directory", 13, 14)
        ours = seen(mnt)
    with FuseOverlayfs().mount(filled, options) as mnt:
        assert_same(ours, seen(mnt))


@pytest.fixture
def stored(layers: Layers) -> Layers:
    """A lower layer as containers/storage writes it with force_mask: owners, modes and special files in marks."""
    lower = layers.lowers[0]
    marks = {
        ".": b"0:0:0755:dir",
        "tool": b"0:0:4755:file",
        "mine": b"1000:1001:0640:file",
        "tmp": b"0:0:1777:dir",
        "null": b"0:0:0666:char-1-3",
        "disk": b"0:6:0660:block-8-0",
        "pipe": b"3:4:0600:pipe",
        "odd": b"0:0:0666:char5:1",
    }
    for name, mark in marks.items():
        if mark.endswith(b":dir"):
            (lower / name).mkdir(exist_ok=True)
        else:
            (lower / name).write_bytes(b"content" if mark.endswith(b":file") else b"")
        (lower / name).chmod(0o700)
        os.setxattr(lower / name, CONTAINERS, mark)
    os.setxattr(lower / "tool", "user.containers.override_security.capability", capability(1))
    (lower / "unmarked").write_bytes(b"")
    (lower / "unmarked").chmod(0o604)
    return layers


def attributes(mnt: Path) -> dict[str, tuple[str, int, int, str]]:
    """Type and mode, owner, group and device number of every name, all of which a listing says right, too."""
    found = {}
    for entry in os.scandir(mnt):
        status = entry.stat(follow_symlinks=False)
        assert entry.is_file(follow_symlinks=False) == stat.S_ISREG(status.st_mode)
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode)
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}" if status.st_rdev else ""
        found[entry.name] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, device)
    return found


STORED = {
    "tool": ("-rwsr-xr-x", 0, 0, ""),
    "mine": ("-rw-r-----", 1000, 1001, ""),
    "tmp": ("drwxrwxrwt", 0, 0, ""),
    "null": ("crw-rw-rw-", 0, 0, "1:3"),
    "disk": ("brw-rw----", 0, 6, "8:0"),
    "pipe": ("prw-------", 3, 4, ""),
    "odd": ("crw-rw-rw-", 0, 0, "5:1"),
    "unmarked": ("-rw----r--", 0, 0, ""),
}


@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_a_layer_of_containers_storage(value: str, stored: Layers) -> None:
    """Shown as it is meant; all of it keeps that when it is copied up, however the upper layer keeps it."""
    with Unionfs().mount(stored, {"xattr_permissions": value}) as mnt:
        assert attributes(mnt) == STORED
        with open(mnt / "null", "r+b", buffering=0) as null:
            null.write(b"nothing")
            assert null.read() == b""
        for name in STORED:
            os.utime(mnt / name, (1, 1))
        assert attributes(mnt) == STORED
        assert os.getxattr(mnt / "tool", "security.capability") == capability(1)
        assert CONTAINERS not in {name for path in STORED for name in os.listxattr(mnt / path)}
    with Unionfs().mount(stored) as mnt:
        assert attributes(mnt) == STORED
        assert os.getxattr(mnt / "tool", "security.capability") == capability(1)
        os.chown(mnt / "tool", 1, 1)
        assert attributes(mnt)["tool"] == ("-rwxr-xr-x", 1, 1, "")
        assert os.listxattr(mnt / "tool") == []


def test_marks_can_not_be_forged(layers: Layers) -> None:
    """What a user names like the mark is an xattr like any other, and the mark itself is not to be seen."""
    with Unionfs().mount(layers, {"xattr_permissions": "2"}) as mnt:
        (mnt / "file").write_bytes(b"")
        os.setxattr(mnt / "file", CONTAINERS, b"0:0:4755:file")
        os.setxattr(mnt / "file", "user.containers.override_security.capability", b"any")
        assert sorted(os.listxattr(mnt / "file")) == ["user.containers.override_security.capability", CONTAINERS]
        assert os.getxattr(mnt / "file", CONTAINERS) == b"0:0:4755:file"
        assert attributes(mnt) == {"file": ("-rw-r--r--", 0, 0, "")}
        os.removexattr(mnt / "file", CONTAINERS)
        assert attributes(mnt) == {"file": ("-rw-r--r--", 0, 0, "")}
        with pytest.raises(OSError, match="No data"):
            os.getxattr(mnt / "file", "security.capability")
    with Unionfs().mount(layers) as mnt:
        assert attributes(mnt) == {"file": ("-rw-r--r--", 0, 0, "")}


def test_real_files_are_closed_to_others(layers: Layers) -> None:
    """Their owner on the layer is the server's user, and their real mode lets nobody else in."""
    with Unionfs().mount(layers, {"xattr_permissions": "2"}) as mnt:
        (mnt / "directory").mkdir()
        (mnt / "file").write_bytes(b"data")
        (mnt / "file").chmod(0o4777)
        os.chown(mnt / "file", 1000, 1000)
        assert (mnt / "file").read_bytes() == b"data"
        assert stat.S_IMODE((mnt / "file").stat().st_mode) == 0o777
    for name in ("directory", "file"):
        real = (layers.top / name).stat()
        assert (stat.S_IMODE(real.st_mode), real.st_uid) == (0o700, 0)


def test_a_damaged_mark_hides_one_object_alone(stored: Layers) -> None:
    os.setxattr(stored.lowers[0] / "mine", CONTAINERS, b"rubbish")
    with Unionfs().mount(stored) as mnt:
        assert sorted(os.listdir(mnt)) == sorted(STORED)
        with pytest.raises(OSError, match="Invalid"):
            (mnt / "mine").stat()
        assert (mnt / "tool").stat().st_uid == 0


IN_A_NAMESPACE = """
set -e
mnt=$1; shift
"$@"
cd "$mnt"
touch null
mkfifo new
mkdir directory
chmod 1770 directory
stat -c '%n %A %u:%g %t:%T' null pipe disk new directory
cd /
umount "$mnt"
"""
"""Copies up what an ordinary user can't make, and makes what one can."""


def test_special_files_that_may_not_be_made(stored: Layers) -> None:
    """Root of a user namespace can make no device, nor read a security xattr of others: marks stand for them."""
    command = words("-o", option_string(stored, {"xattr_permissions": "2"}), stored.mnt)
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", IN_A_NAMESPACE, "sh", stored.mnt, *command], env=Unionfs().environment(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert wait_until_gone(stored.mnt) == []
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    # The namespace has no other id than its root's: all else is shown as nobody's.
    assert lines == {
        "null": ["crw-rw-rw-", "0:0", "1:3"],
        "disk": ["brw-rw----", "0:65534", "8:0"],
        "pipe": ["prw-------", "65534:65534", "0:0"],
        "new": ["prw-r--r--", "0:0", "0:0"],
        "directory": ["drwxrwx--T", "0:0", "0:0"],
    }
    kept = {name: os.getxattr(stored.top / name, CONTAINERS) for name in ("null", "new", "directory")}
    assert kept == {
        "null": b"0:0:0666:char-1-3",
        "new": b"0:0:0644:pipe",
        "directory": b"0:0:1770:dir",
    }
    assert stat.S_ISREG((stored.top / "null").stat().st_mode)


def test_the_privileged_mark_needs_the_privilege(layers: Layers) -> None:
    command = words("-o", option_string(layers, {"xattr_permissions": "1"}), layers.mnt)
    done = subprocess.run(
        ["unshare", "-Urm", *command], env=Unionfs().environment(), capture_output=True, text=True, timeout=60, check=False
    )
    check_refusal(done, 32, "xattr_permissions=1", layers.top, "use xattr_permissions=2")


def test_another_value_than_before(layers: Layers) -> None:
    with Unionfs().mount(layers, {"xattr_permissions": "2"}):
        pass
    done = unionfs("-o", option_string(layers, {"xattr_permissions": "1"}), layers.mnt)
    check_refusal(done, 32, "xattr_permissions=1", layers.top, CONTAINERS)


@pytest.mark.parametrize("options", [{"metacopy": "on"}, {"index": "on"}, {"nfs_export": "on"}], ids=named)
def test_marks_of_what_overlayfs_marks_too(options: Options, filled: Layers) -> None:
    """Files copied up without their data, kept together with their other names, moved: all as before at the next mount."""
    lower = filled.lowers[0]
    data = os.urandom(1 << 20)
    (lower / "large").write_bytes(data)
    os.link(lower / "kept", lower / "kept too")
    with Unionfs().mount(filled, {"xattr_permissions": "2", **options}) as mnt:
        os.chown(mnt / "large", 5, 6)
        (mnt / "large").chmod(0o4711)
        assert (mnt / "large").read_bytes() == data
        os.chown(mnt / "kept", 7, 8)
        (mnt / "kept directory").rename(mnt / "moved")
        before = seen(mnt)
    with Unionfs().mount(filled, options) as mnt:
        assert_same(before, seen(mnt))
        with open(mnt / "large", "r+b") as file:
            file.write(b"changed")
        assert (mnt / "large").read_bytes() == b"changed" + data[7:]
        assert attributes(mnt)["large"][1:3] == (5, 6)
