"""podman and buildah: how are they set up so that a given program mounts their images, and the machine stays as it is?

Everything they write lies in one directory with a short name, since podman waits 20 s for a container whose attach socket has a
path over 107 bytes; their control groups, networks, locks and states are out of reach or their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.clients.command import NOBODY, Finished, as_ordinary_user, ordinary_user_place
from tests.support.mounts import REPOSITORY, Unionfs
from tests.support.programs import install

STORAGE = """
[storage]
driver = "overlay"
runroot = "{base}/runroot"
graphroot = "{base}/graph"
[storage.options.overlay]
"""

MOUNT_PROGRAM = 'mount_program = "{base}/unionfs"\n'

KERNEL = 'mountopt = "redirect_dir=on"\n'
"""With it, as with a mount program, podman makes a layer by comparing two mounted trees. Else it would take what is in the upper
layer, which may be more: a directory that is as it was, a second name of a file.
"""

ENGINE = """
[engine]
cgroup_manager = "cgroupfs"
runtime = "crun"
tmp_dir = "{base}/tmp"
"""

WRAPPER = """#!/bin/sh
echo "$@" >> '{base}/mounts.log'
'{base}/lowers' watch "$@"
exec env PYTHONPATH='{search}' LD_LIBRARY_PATH='{libraries}' '{python}' -m unionfs "$@"
"""

LOWERS = """#!/bin/sh
look() { find "$1/." -printf '%P %y %s %m %U %G %n %T@ %C@ %l\\n' | sort; }
seen='{base}/lowers.seen'
noted() { echo "$seen/$(echo "$1" | tr / _)$(stat -c %i.%w "$1" | tr -d ' ')"; }
mkdir -p "$seen"
if test "$1" = check; then
    for before in "$seen"/*; do
        layer=$(cat "$before.of" 2>/dev/null) && test -d "$layer" && test "$(noted "$layer")" = "$before" || continue
        if ! look "$layer" | diff "$before" - >&2; then
            echo "a lower layer changed: $layer" >&2
            exit 1
        fi
    done
    exit
fi
for word; do
    case "$word" in *lowerdir=*) ;; *) continue ;; esac
    word=${word#*lowerdir=}
    IFS=:
    for lower in ${word%%,*}; do
        layer=$(readlink -f "$lower")
        case "$layer" in */diff) ;; *) continue ;; esac
        name="$(noted "$layer")"
        if test -e "$name" || test -z "$(ls -A "$layer")"; then continue; fi
        look "$layer" > "$name.$$"
        echo "$layer" > "$name.of"
        mv "$name.$$" "$name"
    done
done
"""
"""Notes what there is in each layer of an image before it is first mounted as a lower one; `check` looks again.

ctime tells of changed contents, too (`tests.support.lowers`).  A layer that was removed meanwhile is left out, also if there is
another of that name now, and an empty one is not noted yet: a build mounts a new layer before it fills it.
"""

ISOLATED = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")

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
untouched() { $INSIDE ./lowers check || exit 1; }
podman() { case "$1" in rmi | system) untouched ;; esac; command podman "$@"; }
buildah() { case "$1" in rmi) untouched ;; esac; command buildah "$@"; }
run() { podman run --cgroups=disabled --network none --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 "$@"; }
build() { podman build -q --isolation chroot --timestamp 0 "$@"; }
mounted() { pgrep -c -f -- "^[^ ]*python[^ ]* -m unionfs .*$PWD/" || true; }
ended() {
    for attempt in $(seq 200); do
        if test "$(mounted)" = 0; then untouched; return; fi
        sleep 0.1
    done
    pgrep -a -f -- "^[^ ]*python[^ ]* -m unionfs" >&2
    return 1
}
"""
"""Shell: `run` is `podman run`, `build` `podman build` with what works where a process may not manage cgroups and networks.

`mounted` prints how many servers there are; `ended` waits for the end of all, and fails if one lives on. That, and the removal of
images, fail if a layer of an image is not what it was before it was mounted.
"""

SUBORDINATE_IDS = """
mkdir "$place/dev/upper" "$place/dev/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$place/dev/upper,workdir=$place/dev/work" overlay /etc
for file in /etc/subuid /etc/subgid; do echo nobody:200000:65536 > $file; done
install -d -o 65534 -g 65534 -m 700 /run/user/65534
"""
"""Shell, as root: subordinate ids for the user, in the /etc of this mount namespace alone, and a runtime directory where podman
looks when a process of its own has not inherited the environment.
"""


def make_image(directory: Path, programs: Iterable[str]) -> Path:
    """`image.tar` in `directory`: a root file system of a few megabytes, programs of this machine with their libraries."""
    root = directory / "image"
    install(programs, root)
    for name in ("etc", "data", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir()
    (root / "etc" / "motd").write_text("hello\n")
    (root / "data" / "file").write_text("")
    image = directory / "image.tar"
    subprocess.run(["tar", "--owner=0", "--group=0", "-C", str(root), "-cf", str(image), "."], check=True)
    return image


def prepare(directory: Path, base: Path, files: Iterable[Path], search: str, python: Path, kernel: bool) -> None:
    """podman's configuration and `files` in `directory`, which will be called `base`.

    The mount program is this checkout; with `kernel` there is none, and the kernel's overlayfs is mounted.
    """
    for file in files:
        subprocess.run(["cp", "-a", file, directory], check=True)
    (directory / "run").mkdir(mode=0o700)
    (directory / "containers.conf").write_text(ENGINE.format(base=base))
    (directory / "storage.conf").write_text((STORAGE + (KERNEL if kernel else MOUNT_PROGRAM)).format(base=base))
    wrapper = WRAPPER.format(base=base, search=search, libraries=python.parents[1] / "lib", python=python)
    for name, text in (("unionfs", wrapper), ("lowers", LOWERS.replace("{base}", str(base)))):
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


def as_root(directory: Path, script: str, files: Iterable[Path], kernel: bool = False) -> Finished:
    """Runs a shell script with podman set up to keep its storage in `directory`, a new one on a disk that carries uppers.

    The script fails if a mount or server is there that does not end by itself; whatever happens, nothing outlives it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="podman-") as short:
        prepare(directory, Path(short), files, str(REPOSITORY), Path(sys.executable), kernel)
        isolated = [*ISOLATED, "sh", "-euc"]
        before = f"INSIDE=; mount --bind '{directory}' '{short}'" + ALONE + PRIVATE
        return subprocess.run(
            [*isolated, before + script + "ended", "sh", short], env=Unionfs().environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip


def rootless(script: str, files: Iterable[Path], directory: Path | None = None) -> Finished:
    """The same as an ordinary user with subordinate ids. `$INSIDE` runs a command where that user's ids are root's.

    The storage is in a place of its own; what the script leaves in `results` comes to `directory`.
    """
    with ordinary_user_place() as place:
        python = place / "python" / "bin" / "python{}.{}".format(*sys.version_info[:2])
        prepare(place, place, files, f"{place}/source:{place}/packages", python, False)
        for path in (place, *place.rglob("*")):
            os.lchown(path, NOBODY, NOBODY)
        script = 'INSIDE="podman unshare"; set -- "$PWD"' + PRIVATE + script + "ended"
        done = as_ordinary_user(place, script, ALONE + SUBORDINATE_IDS)
        if directory is not None and (place / "results").exists():
            shutil.copytree(place / "results", directory / "results")
        return done
