"""Containers: how does a program run with a mounted union as its root, and what must be true once it has ended?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.clients.rootfs import Rootfs
from tests.support.mounts import Driver, Kernel, Layers, Options
from tests.support.trees import Tree, diff, digest_of, snapshot

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "GIT_CONFIG_COUNT": "2",
    "GIT_CONFIG_KEY_0": "user.name",
    "GIT_CONFIG_VALUE_0": "Somebody",
    "GIT_CONFIG_KEY_1": "user.email",
    "GIT_CONFIG_VALUE_1": "somebody@example.org",
}

ENTER = """
set -e
root=$1; shift
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
exec chroot "$root" "$@"
"""
"""Shell: makes its first argument the root of a container and runs the others in it; mounts go with the namespace."""


class ProgramFailed(AssertionError):
    """A program in a container ended with another status than 0; the text has what it printed."""


@dataclass(frozen=True)
class Container:
    """A root directory that programs are run in, each in mount, process and network namespaces of its own."""

    root: Path

    def run(self, script: str, *arguments: str, seconds: float = 200) -> str:
        """Runs a shell script (`sh -euc`, with `arguments` as $1...) and returns its standard output.

        Everything the script leaves running is killed with its process namespace. Raises ProgramFailed if it fails,
        subprocess.TimeoutExpired after `seconds`.
        """
        done = subprocess.run(
            self.command("sh", "-euc", script, "sh", *arguments), env=ENVIRONMENT, timeout=seconds,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
            raise ProgramFailed(f"exit {done.returncode}: {script.strip()}\n{said}")
        return done.stdout

    def python(self, program: str, *arguments: str, seconds: float = 200) -> str:
        """Runs a Python program in the container with its own python3."""
        return self.run('exec python3 -c "$@"', program, *arguments, seconds=seconds)

    def command(self, *program: str) -> list[str]:
        """The argument list that runs `program` in the container; killing the first process kills all of them."""
        namespaces = ["--mount", "--pid", "--net", "--fork", "--kill-child", "--propagation", "private"]
        return ["unshare", *namespaces, "sh", "-c", ENTER, "sh", os.fspath(self.root), *program]


def view(layers: Layers) -> Tree:
    """What the mounted union shows; contents only where the upper has a file of the name: the rest is the lower's."""
    tree = snapshot(layers.mnt, leave_out=("ctime_ns", "holes", "digest"))
    for name, record in tree.items():
        if record.type == "dir":
            tree[name] = replace(record, nlink=None)  # defined for merged directories by the oracle tests, not here
        elif record.type == "file" and (layers.top / name).is_file():
            tree[name] = replace(record, digest=digest_of(os.fspath(layers.mnt / name)))
    return tree


@contextmanager
def container(rootfs: Rootfs, base: Path, driver: Driver, options: Options | None = None) -> Iterator[Container]:
    """A container on a union of the root file system and a fresh upper in `base`, mounted by `driver`.

    When the block ends, the union is unmounted (nothing may stay mounted or running), the upper must show the same tree
    when the kernel's overlayfs mounts it over the same lower and when `driver` mounts it again, and the lower must be
    what it was.
    """
    layers = replace(Layers.create(base / "container", lowers=0), lowers=(rootfs.path,))
    with driver.mount(layers, options):
        yield Container(layers.mnt)
        live = view(layers)
    for other in (Kernel(), driver):
        with other.mount(layers):
            changes = diff(live, view(layers), ("live", other.name))
        assert not changes, f"{other.name} shows another tree ({len(changes)}):\n" + "\n".join(changes[:20])
    rootfs.assert_unchanged()
