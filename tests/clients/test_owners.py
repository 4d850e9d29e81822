"""Mapped and squashed owners: are they those that fuse-overlayfs shows and stores for the same options?"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.command import check_refusal, unionfs
from tests.conftest import LayersFactory
from tests.oracle.actor import Actor, perform
from tests.support.mounts import Driver, FuseOverlayfs, Layers, Options, Unionfs, is_mounted, option_string
from tests.support.syscalls import ACL_ACCESS, ACL_DEFAULT, acl, capability

OVERFLOW = 65534
MAPPED: Options = {"uidmapping": "0:1000:1:1:110000:1000", "gidmapping": "0:2000:1:1:120000:1000"}
SHIFTED: Options = {"uidmapping": ":0:100000:65536", "gidmapping": "0:100000:65536:"}
ALIKE: list[Options] = [
    MAPPED,
    SHIFTED,
    {"uidmapping": "5:7:1"},
    {"squash_to_root": None},
    {"squash_to_uid": "4000"},
    {"squash_to_gid": "4001"},
    {"squash_to_root": None, "squash_to_uid": "4000", **MAPPED},
]


def fill(layers: Layers) -> Layers:
    """Objects of several owners in the lower layer."""
    lower = layers.lowers[0]
    for number, name in enumerate(("root", "one", "five", "far")):
        owner = (0, 1, 5, 500000)[number]
        (lower / name).write_bytes(b"content of " + name.encode())
        os.chown(lower / name, owner, owner)
        (lower / name).chmod(0o644)
        (lower / f"{name} directory").mkdir()
        os.chown(lower / f"{name} directory", owner, owner)
        (lower / f"{name} directory").chmod(0o755)
        os.symlink(name, lower / f"{name} link")
        os.chown(lower / f"{name} link", owner, owner, follow_symlinks=False)
    (lower / "for all").mkdir()
    (lower / "for all").chmod(0o1777)
    return layers


def make(name: str) -> None:
    """One object of each kind."""
    for path, kind in ((f"{name} file", stat.S_IFREG), (f"{name} fifo", stat.S_IFIFO)):
        os.mknod(path, kind | 0o640)
    os.mkdir(f"{name} dir", 0o750)
    os.symlink("target", f"{name} symlink")
    with open(f"{name} written", "wb") as file:
        file.write(b"written")


def change(a: Actor) -> None:
    """Creates, gives away and copies up, as root and as users that the options know or don't."""
    for uid in (0, 1000, 110004, 100005, 7, 4000):
        os.chdir("for all")
        with a.user(uid):
            a(make, f"by {uid}")
        os.chdir("..")
    for uid in (0, 1000, 110004, 100005, 7, 300000):
        os.mkdir(f"given to {uid}")
        a(os.chown, f"given to {uid}", uid, uid)
        a(os.chown, "for all/by 0 file", uid, -1)
        a(os.chown, "for all/by 0 symlink", -1, uid, follow_symlinks=False)
    for name in ("root", "one", "five", "far"):
        with open(name, "ab") as file:
            file.write(b"more")
        os.utime(f"{name} directory", (1, 1))


def owned(root: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group and permission bits of everything in a tree."""
    found = {}
    for base, directories, files in os.walk(root):
        for name in (*directories, *files):
            status = os.lstat(os.path.join(base, name))
            whole = os.path.relpath(os.path.join(base, name), root)
            if not stat.S_ISCHR(status.st_mode) and not name.startswith(".wh."):
                found[whole] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return found


def outcome(driver: Driver, layers: Layers, options: Options) -> tuple[object, ...]:
    """What is shown before and after all changes, what each of them answered, and what the upper layer has then."""
    with driver.mount(layers, options) as mnt:
        before = owned(mnt)
        steps = perform(change, mnt, mnt)
        after = owned(mnt)
    return before, after, [str(step) for step in steps], owned(layers.top)


@pytest.mark.parametrize("options", ALIKE, ids=lambda options: ",".join(options))
def test_as_fuse_overlayfs(options: Options, make_layers: LayersFactory) -> None:
    ours = outcome(Unionfs(), fill(make_layers(name="ours")), options)
    theirs = outcome(FuseOverlayfs(), fill(make_layers(name="theirs")), options)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == other


def shown(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def test_ids_that_no_range_covers(make_layers: LayersFactory) -> None:
    """They are shown as the overflow id, and what their users make is stored as that."""
    layers = fill(make_layers())
    with Unionfs().mount(layers, MAPPED) as mnt:
        assert shown(mnt / "far") == (OVERFLOW, OVERFLOW)
        assert shown(mnt / "one") == (110000, 120000)
        (mnt / "new").write_bytes(b"")
        assert shown(mnt / "new") == (OVERFLOW, OVERFLOW)
    assert shown(layers.top / "new") == (OVERFLOW, OVERFLOW)


@pytest.mark.parametrize("more", [{}, {"xattr_permissions": "2"}], ids=["", "in xattrs"])
def test_in_a_directory_that_gives_its_group(more: Options, make_layers: LayersFactory) -> None:
    """That the set-group-ID bit counts fuse-overlayfs does not know."""
    layers = fill(make_layers())
    shared = layers.lowers[0] / "of a group"
    shared.mkdir()
    os.chown(shared, 0, 5)
    shared.chmod(0o2777)
    with Unionfs().mount(layers, {**SHIFTED, **more}) as mnt:

        def make_new(a: Actor) -> None:
            os.umask(0o27)
            os.chdir("of a group")
            make("new")

        as_user(mnt, 100008, make_new)
        found = {path.name: (*shown(path), oct(path.lstat().st_mode)) for path in (mnt / "of a group").iterdir()}
    assert found == {
        "new file": (100008, 100005, "0o100640"),
        "new fifo": (100008, 100005, "0o10640"),
        "new dir": (100008, 100005, "0o42750"),
        "new symlink": (100008, 100005, "0o120777"),
        "new written": (100008, 100005, "0o100640"),
    }


def as_user(mnt: Path, uid: int, call: Callable[[Actor], object]) -> list[str]:
    """What the calls of a user in the mount answer."""

    def steps(a: Actor) -> None:
        with a.user(uid):
            call(a)

    return [step.outcome for step in perform(steps, mnt, mnt)]


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_the_kernel_checks_what_is_shown(passthrough: str, make_layers: LayersFactory) -> None:
    """Who is shown as the owner may do what owners may, and nobody else; set-id bits go when the file is written."""
    layers = fill(make_layers())
    program = layers.lowers[0] / "five program"
    program.write_bytes(b"#!/bin/true\n")
    os.chown(program, 5, 5)
    program.chmod(0o4777)

    def try_all(a: Actor) -> None:
        a(os.chmod, "five", 0o600)
        a(os.chown, "five", -1, 110004)
        a(os.setxattr, "five", "user.any", b"value")
        a(os.truncate, "five", 3)
        a(write, "five program")

    with Unionfs().mount(layers, {**SHIFTED, "passthrough": passthrough}) as mnt:
        assert as_user(mnt, 5, try_all) == ["EPERM", "EPERM", "EACCES", "EACCES", "ok"]
        assert stat.S_IMODE((mnt / "five program").stat().st_mode) == 0o777
        assert as_user(mnt, 100005, try_all) == ["ok", "EPERM", "ok", "ok", "ok"]
        assert shown(mnt / "five") == (100005, 100005)
        assert (mnt / "five").read_bytes() == b"con"
    assert shown(layers.top / "five") == (5, 5)


def write(path: str) -> None:
    """write(2)."""
    with open(path, "r+b", buffering=0) as file:
        file.write(b"#")


def test_ids_in_access_control_lists(make_layers: LayersFactory) -> None:
    """Users see and set shown ids, the layers have theirs, and the kernel checks the shown ones; copies keep them."""
    layers = fill(make_layers())
    lower = layers.lowers[0]
    os.setxattr(lower / "root", ACL_ACCESS, acl("u::rw-", "user:5:rw-", "g::---", "mask::rw-", "o::---"))
    above, below = acl("u::rwx", "user:100007:rwx", "g::---", "mask::rwx", "o::---"), acl(
        "u::rwx", "user:7:rwx", "g::---", "mask::rwx", "o::---"
    )
    with Unionfs().mount(layers, SHIFTED) as mnt:
        assert os.getxattr(mnt / "root", ACL_ACCESS) == acl("u::rw-", "user:100005:rw-", "g::---", "mask::rw-", "o::---")
        assert as_user(mnt, 100005, lambda a: a(write, "root")) == ["ok"]
        assert as_user(mnt, 5, lambda a: a(write, "root")) == ["EACCES"]
        (mnt / "private").mkdir(0o700)
        os.setxattr(mnt / "private", ACL_ACCESS, above)
        os.setxattr(mnt / "private", ACL_DEFAULT, above)
        assert as_user(mnt, 100007, lambda a: a(os.mkdir, "private/inner")) == ["ok"]
        assert os.getxattr(mnt / "private", ACL_DEFAULT) == os.getxattr(mnt / "private/inner", ACL_DEFAULT) == above
    assert os.getxattr(layers.top / "private", ACL_DEFAULT) == os.getxattr(layers.top / "private/inner", ACL_DEFAULT) == below
    assert shown(layers.top / "private/inner") == (7, 7)


def test_over_whiteouts_and_without_a_name(make_layers: LayersFactory) -> None:
    """What is staged first, or gets its name last, is stored as anything else."""
    layers = fill(make_layers())
    with Unionfs().mount(layers, SHIFTED) as mnt:
        for name in ("one", "one link"):
            (mnt / name).unlink()
        (mnt / "one directory").rmdir()

        def make_anew(a: Actor) -> None:
            os.chmod(".", 0o777)
            with a.user(100008):
                os.mkdir("one directory")
                os.symlink("target", "one link")
                os.mknod("one", stat.S_IFREG | 0o600)
                fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
                a(os.fchmod, fd, 0o640)
                os.close(fd)

        perform(make_anew, mnt, mnt)
        for name in ("one", "one link", "one directory"):
            assert shown(mnt / name) == (100008, 100008)
            assert shown(layers.top / name) == (8, 8)


def test_capabilities_go_with_a_new_owner(make_layers: LayersFactory) -> None:
    layers = fill(make_layers())
    with Unionfs().mount(layers, SHIFTED) as mnt:
        os.setxattr(mnt / "one", "security.capability", capability(1))
        os.chown(mnt / "one", 100001, -1)
        assert "security.capability" not in os.listxattr(mnt / "one")


def test_one_link_for_every_directory(make_layers: LayersFactory) -> None:
    layers = make_layers()
    (layers.lowers[0] / "a/b/c").mkdir(parents=True)
    with Unionfs().mount(layers, {"static_nlink": None}) as mnt:
        (mnt / "new/inner").mkdir(parents=True)
        (mnt / "file").write_bytes(b"")
        os.link(mnt / "file", mnt / "other")
        assert {(mnt / name).stat().st_nlink for name in (".", "a", "a/b", "new", "new/inner")} == {1}
        assert (mnt / "file").stat().st_nlink == 2
    with Unionfs().mount(layers) as mnt:
        assert (mnt / "new").stat().st_nlink == 3


def test_inode_numbers_of_32_bits(make_layers: LayersFactory, disks: Callable[[str], Path]) -> None:
    """Also for layers on several filesystems, whose numbers otherwise say which one; a listing says the same ones."""
    layers = fill(make_layers())
    other = disks("tmpfs") / "narrow"
    other.mkdir()
    (other / "elsewhere").write_bytes(b"")
    both = Layers((*layers.lowers, other), layers.upper, layers.work, layers.mnt)
    try:
        with Unionfs().mount(both, {"ino32_t": None}) as mnt:
            listed = {entry.name: entry.inode() for entry in os.scandir(mnt)}
            found = {name: (mnt / name).lstat().st_ino for name in listed}
            assert listed == found
            assert max(found.values()) < 1 << 32
            assert len(set(found.values())) == len(found)
    finally:
        (other / "elsewhere").unlink()
        other.rmdir()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"uidmapping": "0:1000:10:5:2000:10"}, ("uidmapping=", "overlap")),
        ({"gidmapping": "0:1000"}, ("gidmapping=", "STORED:SHOWN:LENGTH")),
        ({"squash_to_uid": "nobody"}, ("squash_to_uid=nobody", "number")),
        ({"xattr_permissions": "3"}, ("xattr_permissions=3", "0|1|2")),
        ({"plugins": "/usr/lib/plugin.so"}, ("plugins", "lowerdir=")),
        ({"context": '"unclosed'}, ("context=", "label")),
        ({"nfs_export": "on", "ino32_t": None}, ("nfs_export=on", "ino32_t")),
        ({"inode_passthrough": "draft", "squash_to_root": None}, ("inode_passthrough=draft", "squash_to_root")),
    ],
    ids=str,
)
def test_what_is_refused(options: Options, named: tuple[str, ...], make_layers: LayersFactory) -> None:
    layers = make_layers()
    check_refusal(unionfs("-o", option_string(layers, options), layers.mnt), 1, *named)
    assert not is_mounted(layers.mnt)


def test_a_label_with_commas(make_layers: LayersFactory) -> None:
    """As podman gives it; without SELinux it has no effect."""
    layers = fill(make_layers())
    with Unionfs().mount(layers, {"context": '"system_u:object_r:container_file_t:s0:c1,c2"', "ro": None}) as mnt:
        assert (mnt / "one").read_bytes() == b"content of one"
