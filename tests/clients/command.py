"""The command: how is `unionfs` started by hand, in the background, in the foreground, or with less privilege?"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import REPOSITORY, Layers, Options, Unionfs, is_mounted, option_string, unionfs_words, unmount

PATIENCE = 20.0
"""Seconds until something that should happen at once counts as not happening."""

NOBODY = 65534
"""The user and group `nobody`, which every system has: the ordinary user of these tests."""

Finished = subprocess.CompletedProcess[str]


def unionfs(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Runs `unionfs ARGUMENTS`. Both streams are read to their end, so a server that keeps one open makes this hang."""
    return subprocess.run(
        words(*arguments), cwd=cwd, env={**Unionfs().environment(), **(env or {})}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip


def check_refusal(done: Finished, status: int, *named: str | Path) -> None:
    """One line that begins `unionfs: ` and has each of `named`, nothing on standard output, the given status."""
    assert re.fullmatch(r"unionfs: [^\n]+\n", done.stderr), done.stderr
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    for word in named:
        assert str(word) in done.stderr


def words(*arguments: str | Path) -> list[str]:
    """The argument list of `unionfs ARGUMENTS`."""
    return unionfs_words(*arguments)


@contextmanager
def in_foreground(
    layers: Layers, options: Options | None = None, flags: Sequence[str] = ("-f",), log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`unionfs -f` with these layers, mounted when the block begins; its output goes to `log`.

    However the block ends, nothing stays mounted, and the process is reaped.
    """
    command = words(*flags, "-o", option_string(layers, options or {}), layers.mnt)
    with open(log or os.devnull, "wb") as output:
        process = subprocess.Popen(
            command, env=Unionfs().environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: is_mounted(layers.mnt) or process.poll() is not None, "the mount")
        assert process.poll() is None, log and log.read_text()
        yield process
    finally:
        if is_mounted(layers.mnt):
            unmount(layers.mnt)
        if process.poll() is None:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                raise AssertionError("the server outlived its mount") from None


def wait_for(condition: object, what: str) -> None:
    """Waits until the function `condition` is true; fails after PATIENCE."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {PATIENCE} s"
        time.sleep(0.02)


def errno_of(path: Path) -> int:
    """The errno with which stat(2) of the path fails, 0 if it does not."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


@contextmanager
def ordinary_user_place() -> Iterator[Path]:
    """A new directory of the user NOBODY that NOBODY can reach; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="unionfs-test-") as name:
        os.chown(name, NOBODY, NOBODY)
        os.chmod(name, 0o755)
        yield Path(name)


AS_USER = """
set -e
place=$1 python=$2 packages=$3 repository=$4 first=$5; shift 5
mkdir "$place/python" "$place/packages" "$place/source" "$place/dev"
mount --bind "$python" "$place/python"
mount --bind "$packages" "$place/packages"
mount --bind "$repository" "$place/source"
mount -t tmpfs tmpfs "$place/dev"
mknod -m 666 "$place/dev/fuse" c 10 229
mount --bind "$place/dev/fuse" /dev/fuse
export PYTHONPATH="$place/source:$place/packages" PYTHONDONTWRITEBYTECODE=1 HOME="$place" PATH="$PATH:/usr/sbin:/sbin"
export PYTHON="$place/python/bin/python%d.%d" LD_LIBRARY_PATH="$place/python/lib"
eval "$first"
cd "$place"
exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all sh -euc "$@"
""" % sys.version_info[:2]  # noqa: UP031
"""Shell: what an ordinary user needs to run this checkout: its files within reach, and a device open to everybody.

All of it is in a mount namespace of its own, so nothing of the machine changes."""


def as_ordinary_user(place: Path, script: str, first: str = "") -> Finished:
    """Runs a shell script as NOBODY in `place`, with `$PYTHON -m unionfs` at hand and /dev/fuse open to everybody.

    `first` is a script that root runs before, also with `$place`. What it mounts, and so the servers, go when it ends.
    """
    isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    needed = (sys.base_prefix, sysconfig.get_path("purelib"), os.fspath(REPOSITORY))
    return subprocess.run(
        [*isolated, "sh", "-c", AS_USER, "sh", os.fspath(place), *needed, first, script],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
