"""Less privilege: does a union work in a user namespace, and for an ordinary user through fusermount3?"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.command import NOBODY, Finished, as_ordinary_user, ordinary_user_place
from tests.support import lowers
from tests.support.mounts import Layers, Unionfs, is_mounted

pytestmark = pytest.mark.both_bindings

WORK = """
test "$(cat mnt/file)" = below
echo more >> mnt/file
echo new > mnt/new
rm mnt/gone
mkdir mnt/directory
rm -r mnt/old && mkdir mnt/old
test "$(ls mnt | tr '\\n' ' ')" = "directory file new old "
test -z "$(ls -A mnt/old)"
ln mnt/file mnt/link
mv mnt/new mnt/directory/moved
chmod 600 mnt/file
test "$(stat -c '%h %a' mnt/link)" = "2 600"
head -c 3000000 /dev/urandom > mnt/big && cp mnt/big mnt/directory/big && cmp mnt/big mnt/directory/big
printf '#!/bin/sh\\necho ran\\n' > mnt/script && chmod +x mnt/script && test "$(mnt/script)" = ran
"""

MOUNT = 'cd "$1"; $PYTHON -m unionfs -o $2,lowerdir=lower,upperdir=upper,workdir=work mnt\n'


GONE = '! grep -q " $PWD/mnt fuse.unionfs" /proc/self/mounts'


def fill(base: Path) -> None:
    """A lower layer with what WORK expects."""
    for name in ("lower/old", "upper", "work", "mnt"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "lower" / "file").write_bytes(b"below\n")
    (base / "lower" / "gone").write_bytes(b"")
    (base / "lower" / "old" / "hidden").write_bytes(b"")


def check_upper(base: Path, namespace: str) -> None:
    """What WORK leaves in the upper layer, in the format of the kernel's overlayfs, and the lower layer as it was."""
    upper = base / "upper"
    assert sorted(os.listdir(upper)) == ["big", "directory", "file", "gone", "link", "old", "script"]
    assert (upper / "file").read_bytes() == b"below\nmore\n"
    whiteout = os.lstat(upper / "gone")
    assert (stat.S_IFMT(whiteout.st_mode), whiteout.st_rdev) == (stat.S_IFCHR, 0)
    assert os.getxattr(upper / "old", f"{namespace}.overlay.opaque") == b"y"
    assert sorted(path.name for path in (base / "lower").rglob("*")) == ["file", "gone", "hidden", "old"]
    assert (base / "lower" / "file").read_bytes() == b"below\n"


def in_user_namespace(script: str, *arguments: str) -> Finished:
    """Runs a script as the root of a new user namespace, in mount and process namespaces that go with it."""
    isolated = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run(
        [*isolated, "sh", "-euc", script, "sh", *arguments], env={**Unionfs().environment(), "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_root_of_a_user_namespace(layers: Layers) -> None:
    base = layers.lowers[0].parent
    (base / "lower0").rename(base / "lower")
    fill(base)
    lowers.watch([base / "lower"], layers.work)
    done = in_user_namespace(MOUNT + WORK + "umount mnt", str(base), "userxattr")
    assert done.returncode == 0, done.stderr
    check_upper(base, "user")
    assert not is_mounted(layers.mnt)


def test_userxattr_is_the_choice_where_trusted_xattrs_are_forbidden(layers: Layers) -> None:
    """podman gives its mount program no `userxattr`; fuse-overlayfs falls back to that namespace by itself."""
    base = layers.lowers[0].parent
    (base / "lower0").rename(base / "lower")
    fill(base)
    lowers.watch([base / "lower"], layers.work)
    done = in_user_namespace(MOUNT + WORK + "umount mnt", str(base), "volatile")
    assert done.returncode == 0, done.stderr
    check_upper(base, "user")


@pytest.mark.parametrize("options", ["userxattr", "userxattr,writeback=0", "userxattr,timeout=0"])
def test_ordinary_user(options: str) -> None:
    with ordinary_user_place() as place:
        fill(place)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        mount = f"$PYTHON -m unionfs -o {options},lowerdir=lower,upperdir=upper,workdir=work mnt\n"
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, mount + WORK + "fusermount3 -u mnt\n" + GONE)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        check_upper(place, "user")
        assert {path.lstat().st_uid for path in (place / "upper").rglob("*")} == {NOBODY}


@pytest.mark.parametrize("end", ["fusermount3 -u mnt", "kill -TERM $server", "kill -INT $server", "kill -HUP $server"])
def test_ordinary_user_in_foreground(end: str) -> None:
    script = f"""
    $PYTHON -m unionfs -f -o userxattr,lowerdir=lower,upperdir=upper,workdir=work mnt & server=$!
    for attempt in $(seq 200); do if grep -q " $PWD/mnt fuse.unionfs" /proc/self/mounts; then break; fi; sleep 0.05; done
    echo new > mnt/new
    {end}
    wait $server
    {GONE}
    """
    with ordinary_user_place() as place:
        fill(place)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, script)
        assert done.returncode == 0, done.stderr
        assert (place / "upper" / "new").read_bytes() == b"new\n"


def test_awake_cpus_demanded_but_not_to_be_had() -> None:
    """The device is root's."""
    with ordinary_user_place() as place:
        fill(place)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        done = as_ordinary_user(place, "$PYTHON -m unionfs -o cpu_idle=poll,lowerdir=lower mnt\n")
    said = "unionfs: cpu_idle=poll: /dev/cpu_dma_latency: Permission denied; use cpu_idle=auto\n"
    assert (done.returncode, done.stderr) == (32, said)


def test_passthrough_demanded_but_not_to_be_had(layers: Layers) -> None:
    base = layers.lowers[0].parent
    (base / "lower0").rename(base / "lower")
    fill(base)
    lowers.watch([base / "lower"], layers.work)
    done = in_user_namespace(MOUNT + WORK + "umount mnt", str(base), "userxattr,passthrough=on")
    assert done.returncode == 32
    assert "passthrough" in done.stderr
    assert "CAP_SYS_ADMIN" in done.stderr
