"""podman: does it run, inspect and commit containers on file systems this program mounts, as root and rootless?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.clients.command import NOBODY, as_ordinary_user, ordinary_user_place, wait_for
from tests.support.mounts import REPOSITORY, Unionfs, processes_naming

PROGRAMS = ("sh", "cat", "ls", "rm", "mkdir", "cp", "mv", "id", "chmod", "stat", "sleep")

STORAGE = """
[storage]
driver = "overlay"
runroot = "{base}/runroot"
graphroot = "{base}/graph"
[storage.options.overlay]
mount_program = "{base}/unionfs"
"""

ENGINE = """
[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
tmp_dir = "{base}/tmp"
"""

WRAPPER = """#!/bin/sh
echo "$@" >> '{base}/mounts.log'
exec env PYTHONPATH='{search}' LD_LIBRARY_PATH='{libraries}' '{python}' -m unionfs "$@"
"""

RUN = "podman run --cgroups=disabled --network none \
--ulimit nofile=1024:1024 --ulimit nproc=1000:1000"
"""What works where a process may not manage cgroups and networks."""

LOOK = r"""
look() { find "$1" -printf '%P %y %s %m %U %G %n %T@ %C@ %l\n' | sort; find "$1" -type f -exec sha256sum {} + | sort; }
look "$(podman image inspect "$1" --format '{{.GraphDriver.Data.UpperDir}}')"
"""
"""Shell: prints all there is to say of the layer of an image, the lower of its containers, with ctime and contents."""

USE = f"""
podman import -q image.tar tiny >/dev/null
$INSIDE sh look tiny > before
test "$(wc -l < before)" -gt 20
{RUN} --rm tiny sh -c '
cat /etc/motd; echo more >> /etc/motd; cat /etc/motd
rm -r /data; mkdir /data; ls /data; echo x > /data/x; chmod 4711 /data/x
stat -c %a:%u:%g /data/x; mv /data/x /bin/x; id -u'
{RUN} --name one tiny sh -c 'rm /etc/motd; echo new > /etc/new; rm -r /data; mkdir /data /d'
podman diff one | LC_ALL=C sort
podman commit -q one two >/dev/null
{RUN} --rm two sh -c 'ls -d /d /etc/new; ls /data; ls /etc/motd 2>/dev/null || echo gone'
{RUN} --detach --name long two sleep 100 >/dev/null
podman exec long cat /etc/new
podman kill long >/dev/null
podman rm -f -a >/dev/null
$INSIDE sh look tiny > after
diff before after
podman rmi -f -a >/dev/null
"""

EXPECTED = """hello
hello
more
4711:0:0
0
A /d
A /etc/new
C /data
C /etc
D /data/file
D /etc/motd
/d
/etc/new
gone
new
"""

ALONE = """
umount /sys/fs/cgroup/unified 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
"""
"""Shell, as root in a mount namespace: podman finds no control groups, and keeps its locks and states to itself."""

PRIVATE = """
set -e
cd "$1"
export CONTAINERS_CONF="$1/containers.conf" CONTAINERS_STORAGE_CONF="$1/storage.conf" TMPDIR="$1" XDG_RUNTIME_DIR="$1/run"
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A tar of a root file system of a few megabytes: some programs of this machine, their libraries, two files."""
    root = tmp_path / "image"
    for name in ("bin", "etc", "data", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program, f"{name} is not installed"
        shutil.copy(os.path.realpath(program), root / "bin" / name)
        needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        for library in (word for word in needed if word.startswith("/")):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), root / library[1:])
    (root / "etc" / "motd").write_text("hello\n")
    (root / "data" / "file").write_text("")
    image = tmp_path / "image.tar"
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", str(root), "-cf", str(image), "."], check=True)
    return image


def prepare(directory: Path, base: Path, image: Path, search: str, python: Path) -> None:
    """podman's configuration in `directory`, which will be called `base`; its mount program is this checkout."""
    shutil.copy(image, directory / "image.tar")
    (directory / "run").mkdir(mode=0o700)
    (directory / "containers.conf").write_text(ENGINE.format(base=base))
    (directory / "storage.conf").write_text(STORAGE.format(base=base))
    (directory / "look").write_text(LOOK)
    wrapper = WRAPPER.format(base=base, search=search, libraries=python.parents[1] / "lib", python=python)
    (directory / "unionfs").write_text(wrapper)
    (directory / "unionfs").chmod(0o755)


def test_podman_as_root(image: Path, scratch: Path) -> None:
    """`scratch` gets a short name: podman waits 20 s for a container whose attach socket has a path over 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        prepare(scratch, Path(short), image, str(REPOSITORY), Path(sys.executable))
        isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-euc"]
        script = f"INSIDE=; mount --bind '{scratch}' '{short}'" + ALONE + PRIVATE + USE
        done = subprocess.run(
            [*isolated, script, "sh", short], env=Unionfs().environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip
        try:
            assert done.returncode == 0, done.stderr
            assert done.stdout == EXPECTED, done.stderr
            assert len((scratch / "mounts.log").read_text().splitlines()) >= 4
        finally:
            wait_for(lambda: not processes_naming(short), "the end of podman and its mounts")


ROOTLESS = """
mkdir "$place/dev/upper" "$place/dev/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$place/dev/upper,workdir=$place/dev/work" overlay /etc
for file in /etc/subuid /etc/subgid; do echo nobody:200000:65536 > $file; done
"""
"""Shell, as root: subordinate ids for the user, in the /etc of this mount namespace alone."""


def test_podman_rootless(image: Path) -> None:
    with ordinary_user_place() as place:
        python = place / "python" / "bin" / "python{}.{}".format(*sys.version_info[:2])
        prepare(place, place, image, f"{place}/source:{place}/packages", python)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        done = as_ordinary_user(place, 'INSIDE="podman unshare"; set -- "$PWD"' + PRIVATE + USE, ALONE + ROOTLESS)
        assert done.returncode == 0, done.stderr
        assert done.stdout == EXPECTED, done.stderr
