"""Going to the background: who waits for whom, what is closed, and how an error of the child reaches the user.

Each case runs in a Python process of its own, since a test worker with its threads is no place to fork.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PROLOGUE = """
import os, signal, sys, time
from unionfs.cli.daemon import serve_in_background
from unionfs.cli.messages import CommandError

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests were started to outlive their terminal

def run(work):
    try:
        print(serve_in_background(work))
    except CommandError as error:
        print(error.message, file=sys.stderr)
        sys.exit(error.status)
"""
SECONDS = 20.0


@contextmanager
def started(body: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs PROLOGUE and `body`; killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(body), str(place)],
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=SECONDS)


def finished(body: str, place: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of such a process."""
    with started(body, place) as process:
        output, errors = process.communicate(timeout=SECONDS)
        return process.returncode, output, errors


def wait_for(path: Path) -> str:
    """The content of a file that another process is about to write by renaming it into place."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.01)
    return path.read_text()


def test_the_parent_returns_when_the_child_is_ready_and_the_child_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    body = """
        place = sys.argv[1]
        def work(ready):
            ready("passthrough: on")
            facts = [os.getsid(0) == os.getpid(), [os.readlink(f"/proc/self/fd/{n}") for n in range(3)]]
            open(place + "/gate").read()
            open(place + "/facts.new", "w").write(repr(facts))
            os.rename(place + "/facts.new", place + "/facts")
        run(work)
    """
    # communicate() ends only at the end of both pipes: the child, still serving, has let go of them.
    assert finished(body, tmp_path) == (0, "passthrough: on\n", "")
    assert not (tmp_path / "facts").exists()
    (tmp_path / "gate").write_text("go on")
    assert wait_for(tmp_path / "facts") == repr([True, ["/dev/null"] * 3])


@pytest.mark.parametrize("status", [1, 2, 32])
def test_an_error_of_the_child_is_raised_in_the_parent(tmp_path: Path, status: int) -> None:
    body = f"""
        def work(ready):
            raise CommandError("/mnt: \\udcff is busy", {status})
        run(work)
    """
    assert finished(body, tmp_path) == (status, "", "/mnt: \\udcff is busy\n")


@pytest.mark.parametrize(
    ("last_act", "words"),
    [
        ("os._exit(7)", "ended with status 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ("raise RuntimeError('bug')", "RuntimeError: bug"),
        ("sys.exit(0)", "SystemExit"),
        ("return", "before the mount answered"),
    ],
)
def test_a_child_that_dies_early_is_a_system_error(tmp_path: Path, last_act: str, words: str) -> None:
    status, output, errors = finished(f"def work(ready):\n    {last_act}\nrun(work)\n", tmp_path)
    assert (status, output) == (2, "")
    assert words in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_waiting_ends_the_child(number: signal.Signals, tmp_path: Path) -> None:
    body = """
        place = sys.argv[1]
        def work(ready):
            open(place + "/child.new", "w").write(str(os.getpid()))
            os.rename(place + "/child.new", place + "/child")
            time.sleep(1000)
        try:
            serve_in_background(work)
        except KeyboardInterrupt:
            sys.exit(8)
    """
    with started(body, tmp_path) as process:
        child = os.pidfd_open(int(wait_for(tmp_path / "child")))
        try:
            process.send_signal(number)
            assert process.wait(SECONDS) == 8
            assert select.select([child], [], [], SECONDS)[0], "the child is still there"
        finally:
            os.close(child)


def test_a_failed_fork_is_a_system_error(tmp_path: Path) -> None:
    body = """
        def no_fork():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        os.fork = no_fork
        before = len(os.listdir("/proc/self/fd"))
        try:
            serve_in_background(lambda ready: None)
        except CommandError as error:
            assert len(os.listdir("/proc/self/fd")) == before
            print(error.message)
            sys.exit(error.status)
    """
    status, output, _ = finished(body, tmp_path)
    assert status == 2
    assert "Resource temporarily unavailable" in output


def test_a_child_ends_whose_parent_is_gone(tmp_path: Path) -> None:
    """A command that was killed has not mounted: nobody would unmount it."""
    os.mkfifo(tmp_path / "gate")
    body = """
        place = sys.argv[1]
        def end(number, frame):
            open(place + "/ended", "w").close()
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        def work(ready):
            open(place + "/gate").read()
            ready("on")
            time.sleep(1000)
        run(work)
    """
    with started(body, tmp_path) as process, (tmp_path / "gate").open("w"):
        process.kill()
        process.wait(SECONDS)
    assert wait_for(tmp_path / "ended") == ""


def test_a_command_that_has_mounted_can_not_be_interrupted_any_more(tmp_path: Path) -> None:
    body = """
        run(lambda ready: ready("on"))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
    """
    assert finished(body, tmp_path) == (0, "on\n", "")
