"""A union as the root of a system: does man/root-filesystem.md work, and the server go on when all it came from is gone?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.mounts import REPOSITORY
from tests.support.programs import install

RECIPE = REPOSITORY / "man" / "root-filesystem.md"
PROGRAMS = ("sh", "cat", "ls", "rm", "mkdir", "mv", "chmod", "touch", "stat", "sort", "mount", "umount", "chroot", "dd")
"""What the system in the image consists of."""

INITRAMFS = """
base=$1 python=$2 packages=$3 repository=$4 recipe=$5
mount -t tmpfs -o mode=755 tmpfs "$base/initramfs"
cd "$base/initramfs"
mkdir -p old proc dev sys run tmp etc bin image python packages repository
for name in usr lib lib64 bin sbin; do
    if test -L "/$name"; then rm -rf "$name"; cp -P "/$name" "$name"
    elif test -d "/$name"; then mkdir -p "$name"; mount --bind "/$name" "$name"; fi
done
for place in python packages repository; do eval "mount --bind \\"\\$$place\\" $place"; done
cp "$base/image.squashfs" image/root
echo 'ID=test' > etc/initrd-release
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mkdir -p usr/local
mount -t tmpfs -o mode=755 tmpfs usr/local 2>/dev/null
mkdir -p usr/local/bin
cat > usr/local/bin/unionfs <<'END'
#!/bin/sh
export PYTHONPATH=/repository:/packages PYTHONHOME=/python LD_LIBRARY_PATH=/python/lib PYTHONDONTWRITEBYTECODE=1
exec %s -m unionfs "$@"
END
chmod +x usr/local/bin/unionfs
pivot_root . old
umount -l old
image=/image/root
PATH=/usr/local/bin:$PATH
eval "$recipe"
"""
"""Shell: a root on a tmpfs that has what an initramfs has, and then the recipe, in it."""

INIT = """#!/bin/sh
set -e
echo started
cd /
echo more >> /etc/motd
cat /etc/motd
rm -r /data
mkdir /data
ls /data
chmod 600 /etc/motd
touch /new; mv /new /data/new
dd if=/dev/zero of=/data/big bs=1000000 count=3 2>/dev/null
rm /data/big; mkdir /data/big; rm -r /data/big
for count in 1 2 3 4 5 6 7 8 9; do mkdir /top$count; ls / > /dev/null; touch /top$count/inside; cat /etc/motd > /dev/null; done
for process in /proc/[0-9]*; do
    case "$(cat $process/cmdline)" in @*unionfs*) echo marked; cat $process/cmdline > /dev/null; esac
done
ls /mnt
mount --internal-only -n -o remount,ro /
if touch /refused 2>/dev/null; then echo not refused; fi
mount --internal-only -n -o remount,rw /
touch /accepted
stat -c '%n %a' /etc/motd /accepted
ls -a / | sort
"""
"""The system's first program."""

EXPECTED = """started
hello
more
marked
/etc/motd 600
/accepted 644
"""


def system(root: Path) -> None:
    """A root file system of a few programs and their libraries."""
    install(PROGRAMS, root)
    for name in ("sbin", "etc", "data", "mnt", "proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir()
    (root / "etc" / "motd").write_text("hello\n")
    (root / "data" / "hidden").write_text("")
    (root / "sbin" / "init").write_text(INIT)
    (root / "sbin" / "init").chmod(0o755)


def test_the_recipe(scratch: Path) -> None:
    """As it stands, but for the console.  Everything the server was started from is unmounted before the system starts."""
    begin, pivot = re.findall(r"```sh\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert pivot.endswith(" < /dev/console > /dev/console 2>&1\n")
    system(scratch / "system")
    subprocess.run(["mksquashfs", scratch / "system", scratch / "image.squashfs", "-quiet", "-no-progress"], check=True)
    (scratch / "initramfs").mkdir()
    python = Path(os.path.realpath(sys.executable))
    inside = Path("/python") / python.relative_to(os.path.realpath(sys.base_prefix))
    isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    places = (sys.base_prefix, sysconfig.get_path("purelib"), os.fspath(REPOSITORY))
    recipe = begin + pivot.rpartition(" < ")[0]
    done = subprocess.run(
        [*isolated, "timeout", "50", "sh", "-euc", INITRAMFS % inside, "sh", scratch, *places, recipe],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith(EXPECTED), done.stdout
    tops = {f"top{count}" for count in range(1, 10)}
    assert set(done.stdout[len(EXPECTED) :].split()) >= {"accepted", "data", "etc", *tops}
