"""How are real programs timed on a mount?"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.errors import BenchError

PROGRAM_SECONDS = 180.0

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "GIT_AUTHOR_NAME": "bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
}

_SOURCE = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <unistd.h>

int part{index}(const char *text)
{{
    char *copy = strdup(text);
    int length = copy ? printf("{index} %zu %s\\n", strlen(copy), strerror(errno)) : -1;
    free(copy);
    return length;
}}
"""


class ProgramError(BenchError):
    """A program failed; the message names it and holds its last line on standard error."""


def timed(*command: str) -> float:
    """Runs a command of this machine and returns its milliseconds from start to exit.

    Raises ProgramError when it fails or is not done after PROGRAM_SECONDS.
    """
    start = time.perf_counter_ns()
    run(*command)
    return (time.perf_counter_ns() - start) / 1e6


def run(*command: str) -> str:
    """Runs a command, returns its standard output; raises ProgramError as `timed` does."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False, env=_ENVIRONMENT
        )
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise ProgramError(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ProgramError(f"{command[0]}: {lines[-1]}")
    return done.stdout


def timed_shell(script: str, *arguments: str) -> float:
    """Runs a shell script with its arguments as $1, $2, ...; returns milliseconds, raises as `timed` does."""
    return timed("bash", "-o", "pipefail", "-euc", script, "bash", *arguments)


def timed_in_root(root: Path, script: str) -> float:
    """Runs a shell script with the mount as its root directory; returns milliseconds, raises as `timed` does."""
    with _devices(root):
        return timed("chroot", str(root), "sh", "-euc", script)


def make_sources(directory: Path, count: int) -> None:
    """Writes `count` small C files and a main program that calls each."""
    directory.mkdir(parents=True)
    for index in range(count):
        (directory / f"part{index}.c").write_text(_SOURCE.format(index=index))
    calls = "".join(f"extern int part{index}(const char *);\n" for index in range(count))
    body = "".join(f'    part{index}("text");\n' for index in range(count))
    (directory / "main.c").write_text(f"{calls}int main(void)\n{{\n{body}    return 0;\n}}\n")


def make_work_tree(directory: Path, count: int) -> None:
    """Writes `count` small text files in directories of twenty, for git to add."""
    for index in range(count):
        path = directory / f"dir{index // 20:03d}" / f"file{index:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line of file {index}\n" * 20)


def fio(path: Path, **options: str | int) -> float:
    """Runs one fio job on a file and returns the milliseconds its I/O took, without fio's own start.

    Raises ProgramError as `run` does.
    """
    # runtime is in whole milliseconds; the sum of the latencies, in nanoseconds, is as good and finer.
    latency = _fio_side(path, options)["lat_ns"]
    return float(latency["mean"]) * int(latency["N"]) / 1e6


def fio_bandwidth(path: Path, **options: str | int) -> float:
    """Runs one fio job on a file and returns what fio calls its bandwidth, in MiB/s; raises ProgramError as `run` does.

    The time it divides by is that of the whole job, from the first request to the end of an `end_fsync`.
    """
    side = _fio_side(path, options)
    return float(side["io_bytes"]) / (1 << 20) / (float(side["runtime"]) / 1000)


def _fio_side(path: Path, options: Mapping[str, str | int]) -> dict[str, Any]:
    """What fio reports of the reading or writing of one job.

    The caches are left as they are (invalidate=0): fadvise empties the backing file's cache on overlayfs, but only
    FUSE's own on a FUSE mount, which would compare a copy from the loop device with a copy from memory.
    """
    fixed = {"name": "bench", "filename": path, "invalidate": 0, "fallocate": "none", "randseed": 1, "thread": 1}
    arguments = [f"--{key}={value}" for key, value in {**fixed, **options}.items()]
    report = json.loads(run("fio", "--output-format=json", *arguments))
    side: dict[str, Any] = report["jobs"][0]["write" if "write" in str(options["rw"]) else "read"]
    return side


@contextmanager
def _devices(root: Path) -> Iterator[None]:
    # FUSE mounts are nodev by default, and git and gcc need /dev/null.
    target = root / "dev"
    target.mkdir(exist_ok=True)
    run("mount", "--bind", "/dev", str(target))
    try:
        yield
    finally:
        run("umount", str(target))


def at_once(count: int, action: Callable[[int], list[str]]) -> float:
    """Starts `count` commands together and returns the milliseconds until the last has ended."""
    start = time.perf_counter_ns()
    running = [
        subprocess.Popen(action(index), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        for index in range(count)
    ]
    statuses = [process.wait(PROGRAM_SECONDS) for process in running]
    if any(statuses):
        raise ProgramError(f"exit statuses {statuses}")
    return (time.perf_counter_ns() - start) / 1e6
