"""mount(8): how does a test have it mount unions, with a table of its own, and leave nothing of that on the machine?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clients.command import Finished, wait_for
from tests.support.mounts import Unionfs, processes_naming

WRAPPER = """#!/bin/sh
exec env PYTHONPATH='{path}' LD_LIBRARY_PATH='{libraries}' '{python}' -m unionfs "$@"
"""

BEGIN = """
cd "$1"; shift
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
cp command /usr/local/bin/unionfs
mount --bind fstab /etc/fstab
refused() { if "$@"; then echo "not refused: $*" >&2; exit 1; fi; }
"""
"""Shell: mount(8) looks for the command in /usr/local/bin first, and reads the line of the test in /etc/fstab.

`refused COMMAND` is one that has to fail, which `sh -e` alone does not say."""


@contextmanager
def mount_table(place: Path, *lines: str) -> Iterator[Path]:
    """`place` with an fstab of these lines and a script that stands for the command; nothing may live on that names `place`."""
    path, python = Unionfs().environment()["PYTHONPATH"], Path(sys.executable).resolve()
    (place / "fstab").write_text("".join(f"{line}\n" for line in lines))
    wrapper = place / "command"
    wrapper.write_text(WRAPPER.format(path=path, libraries=python.parents[1] / "lib", python=sys.executable))
    wrapper.chmod(0o755)
    yield place
    wait_for(lambda: not processes_naming(place), "the end of the servers")


def run(script: str, place: Path, *arguments: str | Path) -> Finished:
    """Runs a shell script with mount(8) at hand in a private mount namespace, `place` being its current directory.

    What it leaves mounted goes, and so do the servers, when it ends.
    """
    isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", BEGIN + script, "sh"]
    return subprocess.run(
        [*isolated, os.fspath(place), *(os.fspath(argument) for argument in arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip


def field(path: Path) -> str:
    r"""A path as a field of fstab(5): blanks and backslashes as \ and three octal digits."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\#" else char for char in os.fspath(path))
