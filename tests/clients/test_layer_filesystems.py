"""Filesystems of layers: is passthrough there, and data right, whatever the lower and the upper layer lie on?"""

from __future__ import annotations

import mmap
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.command import in_foreground, unionfs
from tests.clients.request_log import RequestLog
from tests.conftest import assert_nothing_left
from tests.support import lowers
from tests.support.disks import remove_disk
from tests.support.mounts import Layers, Unionfs, option_string, unmount

MEGABYTE = 1 << 20
DATA = bytes(range(256)) * 4096
OWNER, GROUP, STRANGER = 1001, 1002, 1003
TEXT = "for the group\n"
UPPERS = ("ext4", "xfs", "btrfs", "tmpfs")
IMAGES = {
    "squashfs": ["mksquashfs", "{tree}", "{image}", "-quiet", "-no-progress"],
    "erofs": ["mkfs.erofs", "--quiet", "{image}", "{tree}"],
}
"""Filesystems that are made with their content in them."""

Disks = Callable[[str], Path]


def fill(tree: Path) -> None:
    """The lower layer: data, a hole, an executable, names for one file, an xattr, a symlink."""
    (tree / "directory").mkdir(parents=True)
    tree.chmod(0o755)
    for name in ("data", "directory/inside"):
        (tree / name).write_bytes(DATA)
    with open(tree / "sparse", "wb") as file:
        file.truncate(4 * MEGABYTE)
        file.seek(2 * MEGABYTE)
        file.write(b"island")
    subprocess.run(["cp", "-L", "/bin/true", tree / "program"], check=True)
    (tree / "small").write_bytes(b"small\n")
    os.link(tree / "small", tree / "link")
    os.setxattr(tree / "small", "user.name", b"value")
    (tree / "grouped").write_text(TEXT)
    os.chown(tree / "grouped", OWNER, GROUP)
    (tree / "grouped").chmod(0o640)
    (tree / "symlink").symlink_to("data")


@pytest.fixture(scope="module")
def lower_on(disks: Disks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """`lower_on("erofs")` is the filled lower layer on that filesystem, made on first use, kept for the module."""
    made: dict[str, Path] = {}
    base = tmp_path_factory.mktemp("lowers")

    def lower(kind: str) -> Path:
        if kind not in made:
            if kind in IMAGES:
                made[kind] = mount_image(kind, base)
            else:
                made[kind] = disks(kind) / f"lower{time.monotonic_ns():x}"
                fill(made[kind])
        return made[kind]

    yield lower
    for kind, path in made.items():
        if kind in IMAGES:
            remove_disk(path)
        else:
            subprocess.run(["rm", "-r", path], check=True)


def mount_image(kind: str, base: Path) -> Path:
    """Made and mounted; the image has no name any more then, so that nothing is left of it."""
    tree, image, mountpoint = base / f"{kind}-tree", base / f"{kind}.img", base / kind
    fill(tree)
    mountpoint.mkdir()
    command = [word.format(tree=tree, image=image) for word in IMAGES[kind]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", kind, "-o", "loop,ro", image, mountpoint], check=True)
    image.unlink()
    return mountpoint


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs", "squashfs", "erofs"])
def lower(request: pytest.FixtureRequest, lower_on: Callable[[str], Path]) -> Path:
    return lower_on(request.param)


@pytest.fixture(params=UPPERS)
def layers(request: pytest.FixtureRequest, lower: Path, disks: Disks) -> Iterator[Layers]:
    """An empty upper layer on each filesystem that can carry one, over the filled lower one."""
    base = disks(request.param) / f"union{time.monotonic_ns():x}"
    made = Layers((lower,), base / "upper", base / "work", base / "mnt")
    for path in (made.top, made.work, made.mnt):
        assert path is not None
        path.mkdir(parents=True)
    yield made
    assert_nothing_left(base)
    lowers.check(made.lowers)
    subprocess.run(["rm", "-r", base], check=True)


def test_changed_while_it_is_read(layers: Layers) -> None:
    """Read and mapped at the lower file, copied up by another descriptor, right through both at once and after a remount."""
    with Unionfs().mount(layers, {"passthrough": "on"}) as mnt:
        number = (mnt / "data").stat().st_ino
        with open(mnt / "data", "rb", buffering=0) as reader, mmap.mmap(reader.fileno(), MEGABYTE, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == DATA
            with open(mnt / "data", "r+b", buffering=0) as writer:
                os.pwrite(writer.fileno(), b"changed", 4096)
                assert os.pread(reader.fileno(), 10, 4096) == b"changed" + DATA[4103:4106]
                assert os.pread(writer.fileno(), MEGABYTE, 0) == DATA[:4096] + b"changed" + DATA[4103:]
            assert mapped[:4096] == DATA[:4096]
        assert (mnt / "data").stat().st_ino == number
        assert subprocess.run([mnt / "program"], check=False).returncode == 0
        (mnt / "program").chmod(0o700)
        assert subprocess.run([mnt / "program"], check=False).returncode == 0
    with Unionfs().mount(layers, {"passthrough": "on"}) as mnt:
        assert (mnt / "data").read_bytes() == DATA[:4096] + b"changed" + DATA[4103:]
        assert (mnt / "directory" / "inside").read_bytes() == DATA


def test_what_is_copied_up(layers: Layers) -> None:
    """Holes, xattrs, names, modes: the file is what it was, and its data are the server's business no more."""
    with Unionfs().mount(layers, {"passthrough": "on"}) as mnt:
        for name in ("sparse", "small"):
            with open(mnt / name, "ab") as file:
                file.write(b"end")
        with open(mnt / "sparse", "rb") as file:
            file.seek(2 * MEGABYTE)
            assert file.read(6) == b"island"
            assert not any(file.read(MEGABYTE))
        assert (mnt / "sparse").stat().st_size == 4 * MEGABYTE + 3
        assert (mnt / "small").read_bytes() == b"small\nend"
        assert os.getxattr(mnt / "small", "user.name") == b"value"
        assert (mnt / "link").read_bytes() == b"small\n"
        assert os.readlink(mnt / "symlink") == "data"
        (mnt / "directory" / "inside").unlink()
        (mnt / "directory").rmdir()
        (mnt / "directory").mkdir()
        assert os.listdir(mnt / "directory") == []
    # An image of EROFS has no holes.
    blocks, below = ((layer / "sparse").stat().st_blocks for layer in (layers.top, layers.lowers[0]))
    assert blocks * 512 < MEGABYTE or below * 512 > 2 * MEGABYTE


def test_who_is_not_the_owner(layers: Layers) -> None:
    """Access is by group and others, also where the layer's filesystem has no ACLs that could say more."""
    with Unionfs().mount(layers) as mnt:
        for uid, gid, output in ((OWNER, OWNER, TEXT), (STRANGER, GROUP, TEXT), (STRANGER, STRANGER, "")):
            # By a relative path: the directories above are not everybody's.
            command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "cat", "grouped"]
            done = subprocess.run(command, cwd=mnt, check=False, capture_output=True, text=True)
            assert (done.stdout, "Permission denied" in done.stderr) == (output, not output), done.stderr
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(mnt / "grouped", "system.posix_acl_access")


def test_the_kernel_does_the_io(layers: Layers, tmp_path: Path) -> None:
    """No READ and no WRITE of what is on the upper layer, whatever the two filesystems are."""
    (tmp_path / "log").touch()
    log = RequestLog(tmp_path / "log")
    with in_foreground(layers, {"passthrough": "on"}, ("-f", "-d"), log.path):
        log.skip()
        with open(layers.mnt / "data", "r+b", buffering=0) as file:
            file.write(DATA[::-1])
            assert os.pread(file.fileno(), MEGABYTE, 0) == DATA[::-1]
        (layers.mnt / "new").write_bytes(DATA)
        assert (layers.mnt / "new").read_bytes() == DATA
        requests = log.count()
    assert requests["READ"] == requests["WRITE"] == 0
    assert requests["OPEN"] >= 2
    assert requests["CREATE"] == 1


@pytest.mark.parametrize("upper", UPPERS)
def test_one_lower_on_each_filesystem(upper: str, lower_on: Callable[[str], Path], disks: Disks) -> None:
    """All of them in one union: passthrough for every one, numbers unique, and the mount can be stacked on."""
    base = disks(upper) / f"union{time.monotonic_ns():x}"
    tops = tuple(lower_on(kind) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "squashfs", "erofs"))
    layers = Layers(tops, base / "upper", base / "work", base / "mnt")
    for name in ("upper", "work", "mnt", "above", "above-upper", "above-work"):
        (base / name).mkdir(parents=True)
    try:
        done = unionfs("-v", "-o", option_string(layers, {"passthrough": "on"}), layers.mnt)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "passthrough: on", "")
        numbers = [os.lstat(layers.mnt / name).st_ino for name in os.listdir(layers.mnt) if name != "link"]
        assert len(set(numbers)) == len(numbers) == 7
        options = f"lowerdir={layers.mnt},upperdir={base}/above-upper,workdir={base}/above-work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, base / "above"], check=True)
        try:
            assert (base / "above" / "directory" / "inside").read_bytes() == DATA
        finally:
            subprocess.run(["umount", base / "above"], check=True)
    finally:
        unmount(layers.mnt)
        assert_nothing_left(base)
        lowers.check(layers.lowers)
        subprocess.run(["rm", "-r", base], check=True)
