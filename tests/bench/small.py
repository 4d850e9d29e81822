"""How are the small file operations timed, thousands of one kind at a time?

Each loop runs in a forked child, the same for every file system: the interpreter's own cost is the same few
microseconds everywhere, and a child that hangs on a broken mount can be given up.
"""

import gc
import json
import os
import random
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.layers import flat_name

Loop = Callable[[], None]
CHILD_SECONDS = 180.0


class ChildError(BenchError):
    """A loop failed or did not end; the message is the error it met."""


def timed_in_child(*loops: Loop) -> list[float]:
    """Runs the loops one after the other in one forked child and returns the milliseconds of each.

    Raises ChildError when a loop raises or the child is not done after CHILD_SECONDS.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(writing, loops)
    os.close(writing)
    try:
        answer = _answer(reading)
    except ChildError:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
    os.waitpid(pid, 0)
    result = json.loads(answer or '{"error": "the child died"}')
    if "error" in result:
        raise ChildError(str(result["error"]))
    return [float(value) for value in result["ms"]]


def stat_all(directory: Path, count: int) -> Loop:
    """stat(2) of `count` files of a flat directory, by name in a fixed random order."""
    paths = _shuffled(directory, count)

    def loop() -> None:
        for path in paths:
            os.stat(path)

    return loop


def stat_missing(directory: Path, count: int) -> Loop:
    """stat(2) of `count` names that are in no layer."""
    paths = [f"{directory}/missing{index:05d}" for index in range(count)]

    def loop() -> None:
        for path in paths:
            try:
                os.stat(path)
            except FileNotFoundError:
                continue
            raise AssertionError(f"{path} exists")

    return loop


def scan_and_stat(directory: Path) -> Loop:
    """Lists a flat directory and stats every entry in the order of the listing, as `ls -l` does."""

    def loop() -> None:
        with os.scandir(directory) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)

    return loop


def open_read_close(directory: Path, count: int) -> Loop:
    """Opens, reads whole and closes `count` small files."""
    paths = _shuffled(directory, count)

    def loop() -> None:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.read(descriptor, 4096)
            os.close(descriptor)

    return loop


def create(directory: Path, count: int) -> Loop:
    """Creates `count` empty files in a directory that the lower layer has too."""
    paths = _new_names(directory, count)

    def loop() -> None:
        for path in paths:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    return loop


def unlink_created(directory: Path, count: int) -> Loop:
    """Removes what `create` made: upper files with nothing below them, so no whiteout is due."""
    return _unlink(_new_names(directory, count))


def unlink_lower(directory: Path, count: int) -> Loop:
    """Removes `count` lower files, each of which takes a whiteout."""
    return _unlink(_shuffled(directory, count))


def copy_up(directory: Path, count: int) -> Loop:
    """Appends one byte to each of `count` small lower files."""
    paths = _shuffled(directory, count)

    def loop() -> None:
        for path in paths:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            os.write(descriptor, b".")
            os.close(descriptor)

    return loop


def rename_lower(directory: Path, count: int) -> Loop:
    """Renames `count` lower files within their directory."""
    paths = _shuffled(directory, count)

    def loop() -> None:
        for path in paths:
            os.rename(path, path + ".renamed")

    return loop


def _unlink(paths: Sequence[str]) -> Loop:
    def loop() -> None:
        for path in paths:
            os.unlink(path)

    return loop


def _shuffled(directory: Path, count: int) -> list[str]:
    indexes = list(range(count))
    random.Random(count).shuffle(indexes)
    return [f"{directory}/{flat_name(index)}" for index in indexes]


def _new_names(directory: Path, count: int) -> list[str]:
    return [f"{directory}/new{index:05d}" for index in range(count)]


def _child(writing: int, loops: Sequence[Loop]) -> None:
    """The child's whole life: runs the loops, writes one JSON object to the pipe and exits."""
    gc.disable()
    times: list[float] = []
    try:
        for loop in loops:
            start = time.perf_counter_ns()
            loop()
            times.append((time.perf_counter_ns() - start) / 1e6)
        answer = json.dumps({"ms": times})
    except BaseException as error:  # the child must not run on into its parent's code
        answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
    os.write(writing, answer.encode())
    os._exit(0)


def _answer(reading: int) -> str:
    ready, _, _ = select.select([reading], [], [], CHILD_SECONDS)
    if not ready:
        raise ChildError(f"not done after {CHILD_SECONDS:.0f} s")
    return os.read(reading, 65536).decode()
