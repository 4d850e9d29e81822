"""What is the user told when something is wrong, and with which exit status?"""

from __future__ import annotations

import enum
import os
import sys
import traceback


class ExitStatus(enum.IntEnum):
    """Exit status of the command; the numbers are those of mount(8), "EXIT STATUS"."""

    OK = 0
    USAGE = 1
    SYSTEM = 2
    INTERRUPTED = 8
    MOUNT_FAILED = 32


class CommandError(Exception):
    """The command cannot go on; `message` is one line that names the option or path, what is wrong and what to do."""

    def __init__(self, message: str, status: int = ExitStatus.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def one_line(text: str) -> str:
    r"""The text with control characters written as `\xNN`, since a path may contain any byte but NUL.

    Bytes that are not UTF-8 (lone surrogates in a str made by os.fsdecode) are written the same way, so that the
    result can be written to any stream.
    """
    raw = os.fsencode(text).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw)


def describe_bug(error: BaseException) -> str:
    """One line for an exception nobody expected: what it is and where it arose, since there is no traceback to see.

    Of a group of exceptions the first one inside is described.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def complain(message: str) -> None:
    """Writes `unionfs: MESSAGE` as one line to standard error; says nothing when that stream is gone."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"unionfs: {one_line(message)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody can be told that telling them failed; the exit status still says it.
        return
