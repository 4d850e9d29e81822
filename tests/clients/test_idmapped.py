"""Idmapped mounts: is a union that is mounted a second time with other ids the same union, and can layers be such mounts?"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import check_refusal, unionfs
from tests.support.lowers import changes_meant
from tests.support.mounts import Driver, Kernel, Layers, Unionfs, option_string
from unionfs.linux import libc
from unionfs.linux.stat import AT_EMPTY_PATH, AT_FDCWD

BASE = 10000
"""What is 0 on disk is this here, and so on for COUNT ids."""

COUNT = 100
MOUNT_ATTR_IDMAP = 0x100000
MOVE_MOUNT_F_EMPTY_PATH = 4
OPEN_TREE_CLONE = 1


@contextmanager
def user_namespace() -> Iterator[int]:
    """A descriptor of one with the mapping."""
    waiting = ["unshare", "--user", "sh", "-c", "echo; read wait"]
    process = subprocess.Popen(waiting, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {BASE} {COUNT}")
        fd = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        process.communicate()


@contextmanager
def idmapped(original: Path, point: Path) -> Iterator[None]:
    """`original` mounted on `point` as well, with the mapping (mount_setattr(2))."""
    point.mkdir()
    clone = libc.syscall("open_tree", AT_FDCWD, os.fsencode(original), OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        with user_namespace() as namespace:
            attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, namespace)
            libc.syscall("mount_setattr", clone, b"", AT_EMPTY_PATH, attributes, ctypes.sizeof(attributes))
        libc.syscall("move_mount", clone, b"", AT_FDCWD, os.fsencode(point), MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(clone)
    try:
        yield
    finally:
        subprocess.run(["umount", str(point)], check=True)


def as_user(uid: int, script: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A shell script as an ordinary user, in that directory."""
    return subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-euc", script], cwd=place,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def public(layers: Layers) -> Iterator[Layers]:
    """A union that everybody may write to, with files of several owners; nobody's way to it is barred."""
    lower = layers.lowers[0]
    for name, uid, mode in (("root's", 0, 0o644), ("five's", 5, 0o600), ("set-id", 5, 0o4777)):
        (lower / name).write_bytes(b"below\n")
        os.chown(lower / name, uid, uid)
        (lower / name).chmod(mode)
    lower.chmod(0o777)
    layers.top.chmod(0o777)
    above = [path for path in layers.mnt.parents if path.stat().st_uid == os.getuid() and not path.stat().st_mode & 0o001]
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in above}
    for path, mode in before.items():
        path.chmod(mode | 0o011)
    yield layers
    for path, mode in before.items():
        path.chmod(mode)


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_ids_are_mapped_both_ways(passthrough: str, public: Layers) -> None:
    point = public.mnt.parent / "mapped"
    with Unionfs().mount(public, {"passthrough": passthrough}) as mnt, idmapped(mnt, point):
        shown = {name: (point / name).stat().st_uid - BASE for name in os.listdir(point)}
        assert shown == {"root's": 0, "five's": 5, "set-id": 5}
        script = "echo more >> five\\'s; mkdir d; touch d/file; ln -s file d/link; mkfifo d/fifo; cat five\\'s"
        made = as_user(BASE + 5, script, point)
        assert (made.returncode, made.stdout) == (0, "below\nmore\n"), made.stderr
        assert as_user(BASE + 6, "cat five\\'s", point).returncode != 0
        assert as_user(5, "cat five\\'s", point).returncode != 0
        assert as_user(5, "cat five\\'s", mnt).stdout == "below\nmore\n"
        for name in ("d", "d/file", "d/link", "d/fifo", "five's"):
            owners = [path.lstat().st_uid for path in (public.top / name, mnt / name, point / name)]
            assert owners == [5, 5, BASE + 5]
        os.chown(point / "root's", BASE + 7, BASE + 8)
        assert ((mnt / "root's").stat().st_uid, (public.top / "root's").stat().st_gid) == (7, 8)
        with pytest.raises(OSError, match="Value too large") as refused:
            os.chown(point / "root's", 7, 7)
        assert refused.value.errno == errno.EOVERFLOW
        outsider = as_user(5, "touch outside", point)
        assert outsider.returncode != 0
        assert not (public.top / "outside").exists()


@pytest.mark.parametrize("passthrough", ["auto", "off"])
def test_set_id_bits_go_when_a_stranger_writes(passthrough: str, public: Layers) -> None:
    """The kernel does not say who writes any more; nor does it of the mount with the ids as they are."""
    point = public.mnt.parent / "mapped"
    with Unionfs().mount(public, {"passthrough": passthrough}) as mnt, idmapped(mnt, point):
        for place, user in ((point, BASE + 6), (mnt, 6)):
            (mnt / "set-id").chmod(0o4777)
            assert as_user(user, "echo x >> set-id", place).returncode == 0
            assert stat.S_IMODE((mnt / "set-id").stat().st_mode) == 0o777
        (mnt / "set-id").chmod(0o4777)
        with open(mnt / "set-id", "ab", buffering=0) as file:
            file.write(b"root may keep them\n")
        assert stat.S_IMODE((mnt / "set-id").stat().st_mode) == 0o4777


@pytest.mark.parametrize("driver", [Kernel(), Unionfs()], ids=lambda driver: driver.name)
def test_a_lower_layer_with_other_ids(driver: Driver, layers: Layers) -> None:
    """Who has no id there can't be given anything, so what is his stays below."""
    lower, point = layers.lowers[0], layers.mnt.parent / "mapped"
    for name, uid in (("five's", 5), ("stranger's", COUNT + 5)):
        (lower / name).write_bytes(b"below\n")
        os.chown(lower / name, uid, uid)
    with idmapped(lower, point), driver.mount(replace(layers, lowers=(point,))) as mnt:
        assert [(mnt / name).stat().st_uid for name in ("five's", "stranger's")] == [BASE + 5, 65534]
        (mnt / "five's").write_bytes(b"above\n")
        changes = (
            lambda: (mnt / "stranger's").write_bytes(b"above\n"),
            lambda: (mnt / "stranger's").chmod(0o600),
            lambda: (mnt / "stranger's").rename(mnt / "mine"),
        )
        for change in changes:
            # EACCES is of the kernel's own check, before it asks overlayfs.
            with pytest.raises(OSError, match=f"{os.strerror(errno.EOVERFLOW)}|{os.strerror(errno.EACCES)}"):
                change()
    changes_meant(point)
    assert (layers.top / "five's").stat().st_uid == BASE + 5
    assert os.listdir(layers.top) == ["five's"]


def test_an_upper_layer_with_other_ids(layers: Layers) -> None:
    base = layers.mnt.parent
    point = base / "mapped"
    with idmapped(base, point):
        upper = replace(layers, upper=point / "upper", work=point / "work")
        done = unionfs("-o", option_string(upper, {}), layers.mnt)
        check_refusal(done, 32, "workdir", point / "work", "idmapped mount")
    assert os.listdir(layers.top) == os.listdir(base / "work") == []
