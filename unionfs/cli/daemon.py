"""How does the server get into the background, and how does the command learn that the mount answers?

The command forks before any thread or event loop exists. The child serves; the parent waits at a pipe for one report:
status and text. Whatever ends the parent before that ends the child too: a command that failed leaves no mount. The
child's standard streams are closed before the report, so whoever reads the command's output sees its end as soon as the
command returns (podman waits for that).
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from unionfs.cli.log import log_to_system
from unionfs.cli.messages import CommandError, ExitStatus, describe_bug
from unionfs.linux.process import ENDING_SIGNALS

Ready = Callable[[str], None]
"""Called once with a status line when the mount answers."""

_CHUNK = 4096


def serve_in_background(work: Callable[[Ready], None]) -> str:
    """Runs `work` in a child process and returns, in the parent, the line that `work` reported as ready.

    `work` gets a function to call once when the mount answers, and then goes on until the mount is gone; it raises
    CommandError when it cannot. Raises that CommandError here in the parent; with status 2 when the fork failed or the
    child died without a word; KeyboardInterrupt after the child was ended, when a signal interrupts the wait (SIGINT,
    SIGTERM, SIGHUP). Once the mount answers such signals are ignored: the command has done what it should.
    The child never returns from this function.
    """
    reader, writer = os.pipe()
    # An exception in what Python does after a fork would be lost.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        child = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(reader)
        os.close(writer)
        raise CommandError(f"cannot start the server process: {error.strerror}", ExitStatus.SYSTEM) from None
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(reader)
        _run_child(work, writer)
    os.close(writer)
    try:
        _interrupt_at_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        report = _read_all(reader)
        line = _understand(report, child)
        _ignore_signals()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        raise
    finally:
        os.close(reader)
    return line


def _interrupt_at_signals() -> None:
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _ignore_signals() -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _run_child(work: Callable[[Ready], None], writer: int) -> NoReturn:
    """The child's whole life. It leaves by os._exit: the parent's buffers and exit handlers are not its own."""
    status = int(ExitStatus.OK)
    reported = False

    def ready(line: str) -> None:
        nonlocal reported
        _detach()
        log_to_system()
        reported = True
        if not _report(writer, ExitStatus.OK, line):
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        os.setsid()
        work(ready)
        if not reported:
            raise CommandError("the server ended before the mount answered", ExitStatus.SYSTEM)
    except CommandError as error:
        status = error.status
        if reported:
            logging.getLogger("unionfs").error(error.message)
        else:
            _report(writer, status, error.message)
    except BaseException as error:
        # Whatever it is, the parent waits for a word, and a forked child must not run the parent's exit path.
        status = int(ExitStatus.SYSTEM)
        if reported:
            logging.getLogger("unionfs").critical("the server failed", exc_info=True)
        else:
            _report(writer, status, f"the server failed: {describe_bug(error)}")
    os._exit(status)


def _report(writer: int, status: int, text: str) -> bool:
    """Writes `STATUS TEXT` to the parent and closes the pipe; False if the parent is gone."""
    message = f"{int(status)} {text}".encode(errors="surrogateescape")
    try:
        while message:
            message = message[os.write(writer, message) :]
    except BrokenPipeError:
        return False
    finally:
        os.close(writer)
    return True


def _understand(report: bytes, child: int) -> str:
    """The ready line out of the child's report, or the CommandError it stands for."""
    if not report:
        _, wait_status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        raise CommandError(f"the server {how} before the mount answered", ExitStatus.SYSTEM)
    status, _, text = report.decode(errors="surrogateescape").partition(" ")
    if int(status) != ExitStatus.OK:
        os.waitpid(child, 0)
        raise CommandError(text, int(status))
    return text


def _read_all(reader: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(reader, _CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)


def _detach() -> None:
    """Lets go of the standard streams, which would keep others waiting."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    if null > 2:
        os.close(null)
