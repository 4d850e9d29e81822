"""How does a run leave nothing behind, even when it is killed?

The benchmark runs itself again inside a mount and a process namespace of its own. Every mount, loop device, image and
server it makes lives only there, so the kernel removes them all when the run ends, whatever ends it: the process
namespace dies with its first process, the mounts with the last process that sees them, the loop device with its mount
(autoclear, see losetup(8)) and the image with the private tmpfs that holds it. Killed outright, a run leaves the empty
directory in /dev/shm that the tmpfs was mounted on.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tests.bench.errors import BenchError
from tests.bench.machine import check_machine

SCRATCH_VARIABLE = "UNIONFS_BENCH_SCRATCH"
"""Environment variable that holds, inside the namespaces, the directory to put the private tmpfs on."""

_GRACE_SECONDS = 10.0


def run(module: str, arguments: Sequence[str], measure: Callable[[Path], None]) -> int:
    """Runs `measure` with a scratch directory, in what `python -m MODULE ARGUMENTS` starts for it; the exit status.

    That is 1, after one line, for a machine that it can't run on and for what ends it early, 130 when interrupted.
    """
    scratch = os.environ.get(SCRATCH_VARIABLE)
    try:
        check_machine()
        _catch_signals()
        if not scratch:
            return _run_isolated(arguments, module)
        measure(Path(scratch))
    except (BenchError, OSError) as error:
        print(f"{module}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{module}: interrupted", file=sys.stderr)
        return 130
    return 0


def _run_isolated(arguments: Sequence[str], module: str) -> int:
    """Starts the module in namespaces of its own.

    SIGINT and SIGTERM give the run ten seconds to print what it has measured, then end it.
    """
    with tempfile.TemporaryDirectory(prefix="unionfs-bench-", dir="/dev/shm") as scratch:
        command = [
            # The run must also end when this process is killed outright.
            *("setpriv", "--pdeathsig", "KILL", "--"),
            *("unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child"),
            *(sys.executable, "-m", module, *arguments),
        ]
        environment = dict(os.environ, **{SCRATCH_VARIABLE: scratch})
        with subprocess.Popen(command, env=environment) as process:
            try:
                return process.wait()
            except KeyboardInterrupt:
                return _stop(process)


def _catch_signals() -> None:
    """Turns the first SIGINT or SIGTERM into a KeyboardInterrupt and ignores what follows, so that cleaning up ends.

    A run started in the background of a script inherits SIGINT ignored, and the first process of a process namespace
    gets no signal it has no handler for; so both are set here.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> int:
    # A terminal's Ctrl-C has reached the run already, a signal to this process alone has not; it ignores a second.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    try:
        for child in children:
            os.kill(int(child), signal.SIGINT)
        process.wait(_GRACE_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        process.kill()
    return 130
