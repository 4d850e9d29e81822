"""mount(8): do unions mount by type and by fstab, change their flags, and show themselves as other filesystems do?"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.by_mount import mount_table, run
from tests.clients.command import NOBODY, as_ordinary_user, ordinary_user_place
from tests.clients.test_unprivileged import GONE, fill
from tests.conftest import LayersFactory
from tests.support import lowers
from tests.support.mounts import Layers, option_string


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union with one file in its lower layer."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    return layers


def test_by_type(filled: Layers, scratch: Path) -> None:
    """mount(8) finds the command by the type `fuse.unionfs`, through mount.fuse3(8)."""
    script = """
    mount -t fuse.unionfs union "$1" -o "$2"
    grep "^union $1 fuse.unionfs rw," /proc/self/mounts
    echo above > "$1/file"
    umount "$1"
    """
    with mount_table(scratch):
        done = run(script, scratch, filled.mnt, f"nofail,_netdev,x-systemd.automount,noatime,{option_string(filled, {})}")
    assert done.returncode == 0, done.stderr
    assert "noatime" in done.stdout
    assert (filled.top / "file").read_bytes() == b"above\n"


FSTAB = """
mount -a -t fuse.unionfs
findmnt --noheadings --output SOURCE,FSTYPE "$1"
refused mountpoint -q "$2"
mount "$2"
mountpoint -q "$2"
echo above > "$1/file"
echo above > "$2/file"
mount -a -t fuse.unionfs 2>&1
grep -c " $1 " /proc/self/mounts
df --output=fstype,size "$1" | tail -1
df --output=size . | tail -1
findmnt --noheadings --output TARGET --types fuse.unionfs --source other
umount other
umount -a -t fuse.unionfs
refused grep " fuse.unionfs " /proc/self/mounts
"""


def test_fstab(filled: Layers, make_layers: LayersFactory, scratch: Path) -> None:
    """`mount -a` takes the line that is for the boot, and leaves the one that is not to whoever names it."""
    other = make_layers()
    (other.lowers[0] / "file").write_bytes(b"below\n")
    boot = "nofail,x-systemd.requires=/srv,x-systemd.mount-timeout=30,X-mount.mkdir"
    lines = [
        f"first {filled.mnt} fuse.unionfs {boot},{option_string(filled, {})} 0 0",
        f"other {other.mnt} fuse.unionfs noauto,user,suid,comment=by-hand,{option_string(other, {})} 0 0",
    ]
    filled.mnt.rmdir()
    with mount_table(scratch, *lines):
        done = run(FSTAB, scratch, filled.mnt, other.mnt)
    assert done.returncode == 0, done.stderr
    first, once, size, whole, target = done.stdout.splitlines()
    assert first.split() == ["first", "fuse.unionfs"]
    assert once == "1"
    assert size.split() == ["fuse.unionfs", whole.strip()]
    assert target.strip() == str(other.mnt)
    assert [(layers.top / "file").read_bytes() for layers in (filled, other)] == [b"above\n"] * 2


REMOUNT = """
mount "$1"
exec 9> "$1/open"
refused mount -o remount,ro "$1" 2> message
cat message
echo still > "$1/open2"
exec 9>&-
for way in "" "--internal-only"; do
    mount $way -o remount,ro "$1"
    findmnt --noheadings --output OPTIONS "$1" | tr , '\\n' | grep -x -e ro -e noexec -e nosuid -e noatime | tr '\\n' ' '
    echo
    (refused sh -c "echo new > '$1/new'") 2>&1 | grep -o 'Read-only file system'
    (refused touch "$1/file") 2>&1 | grep -o 'Read-only file system'
    cat "$1/file"
    mount $way -o remount,rw "$1"
    echo "written" >> "$1/file"
    findmnt --noheadings --output OPTIONS "$1" | tr , '\\n' | grep -x -e rw -e noexec -e nosuid -e noatime | tr '\\n' ' '
    echo
done
mount -o remount,exec "$1"
findmnt --noheadings --output OPTIONS "$1" | tr , '\\n' | grep -x -e rw -e noexec -e nosuid -e noatime | tr '\\n' ' '
umount "$1"
"""


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "not listed"])
def test_remount(listed: bool, filled: Layers, scratch: Path) -> None:
    """With the line still in fstab(5), whose options mount(8) then gives again, and without: flags that are not named stay."""
    line = f"union {filled.mnt} fuse.unionfs noexec,nosuid,noatime,{option_string(filled, {})} 0 0"
    script = REMOUNT if listed else REMOUNT.replace('mount "$1"\n', 'mount "$1"\n: > /etc/fstab\n', 1)
    with mount_table(scratch, line):
        done = run(script, scratch, filled.mnt)
    assert done.returncode == 0, done.stderr
    busy, *rest = done.stdout.splitlines()
    assert busy.startswith("unionfs: remount:")
    assert "open for writing" in busy
    assert [sorted(line.split()) for line in rest] == [
        ["noatime", "noexec", "nosuid", "ro"], ["Read-only", "file", "system"], ["Read-only", "file", "system"], ["below"],
        ["noatime", "noexec", "nosuid", "rw"],
        ["noatime", "noexec", "nosuid", "ro"], ["Read-only", "file", "system"], ["Read-only", "file", "system"], ["below"],
        ["written"],
        ["noatime", "noexec", "nosuid", "rw"],
        ["noatime", "nosuid", "rw"],
    ]  # fmt: skip
    assert sorted(os.listdir(filled.top)) == ["file", "open", "open2"]
    assert (filled.top / "file").read_bytes() == b"below\nwritten\nwritten\n"


def test_mounted_read_only_and_made_writable(filled: Layers, scratch: Path) -> None:
    """As a root filesystem is at the boot."""
    script = """
    mount -o ro "$1"
    refused touch "$1/new" 2> /dev/null
    cat "$1/file"
    mount -o remount,rw "$1"
    echo above > "$1/file"
    umount "$1"
    """
    with mount_table(scratch, f"union {filled.mnt} fuse.unionfs {option_string(filled, {})} 0 0"):
        done = run(script, scratch, filled.mnt)
    assert (done.returncode, done.stdout, done.stderr) == (0, "below\n", "")
    assert (filled.top / "file").read_bytes() == b"above\n"


def test_without_an_upper_layer_it_stays_read_only(filled: Layers, scratch: Path) -> None:
    script = """
    mount "$1"
    refused mount -o remount,rw "$1" 2> message
    cat message
    findmnt --noheadings --output OPTIONS "$1" | cut -c 1-3
    umount "$1"
    refused mount -o remount,ro "$1" 2> message
    refused unionfs -o remount,ro "$1" 2> message
    cat message
    """
    alone = replace(filled, upper=None, work=None)
    with mount_table(scratch, f"union {filled.mnt} fuse.unionfs {option_string(alone, {})} 0 0"):
        done = run(script, scratch, filled.mnt)
    assert done.returncode == 0, done.stderr
    stays, flags, missing = done.stdout.splitlines()
    assert stays == f"unionfs: remount: {filled.mnt} has no upper layer and stays read-only"
    assert flags == "ro,"
    assert missing.startswith("unionfs: remount: no union is mounted on")


LINE_FOR_USERS = """
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
printf '#!/bin/sh\\nexec env PYTHONPATH=%s LD_LIBRARY_PATH=%s %s -m unionfs "$@"\\n' \\
    "$PYTHONPATH" "$LD_LIBRARY_PATH" "$PYTHON" > /usr/local/bin/unionfs
chmod 755 /usr/local/bin/unionfs
layers="lowerdir=$place/lower,upperdir=$place/upper,workdir=$place/work"
echo "mine $place/mnt fuse.unionfs noauto,$WHO,$layers 0 0" > "$place/fstab"
mount --bind "$place/fstab" /etc/fstab
"""


@pytest.mark.parametrize("who", ["user", "users"])
def test_an_ordinary_user_by_fstab(who: str) -> None:
    """mount(8) runs the command as the user, who unmounts as well; `user` and `users` bring noexec, nosuid and nodev along."""
    use = "findmnt --noheadings --output FSTYPE,OPTIONS mnt\necho more >> mnt/file\nrm mnt/gone\n"
    with ordinary_user_place() as place:
        fill(place)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, f'mount "$PWD/mnt"\n{use}umount "$PWD/mnt"\n{GONE}', f"WHO={who}\n{LINE_FOR_USERS}")
        assert done.returncode == 0, done.stderr
        kind, options = done.stdout.split()
        assert kind == "fuse.unionfs"
        assert {"rw", "noexec", "nosuid", "nodev", f"user_id={NOBODY}"} <= set(options.split(","))
        assert (place / "upper" / "file").read_bytes() == b"below\nmore\n"
