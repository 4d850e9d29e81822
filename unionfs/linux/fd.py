"""Who closes a descriptor?  The `Fd` that owns it, exactly once.  And where are there numbers for many?"""

import fcntl
import os
import resource
from contextlib import suppress
from types import TracebackType


def reserve(count: int) -> None:
    """Let the process's table of descriptors be large enough for `count`, as far as its limit allows.

    Of a process with threads each growing of the table halts the one that opens for some 10 ms (fs/file.c, expand_fdtable).
    """
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError):
        any_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(any_fd, fcntl.F_DUPFD_CLOEXEC, count - 1))
        finally:
            os.close(any_fd)


class Fd:
    """Owns one file descriptor and forgets its number when it is closed, so that no later use can hit a reused number."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor's number.  Raises ValueError after `close` or `detach`."""
        if self._number < 0:
            raise ValueError("descriptor is closed")
        return self._number

    @property
    def closed(self) -> bool:
        return self._number < 0

    def close(self) -> None:
        """Close it; a second call does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def detach(self) -> int:
        """Give up ownership and return the number."""
        number = self.fileno()
        self._number = -1
        return number

    def __enter__(self) -> "Fd":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Fd {self._number}>" if self._number >= 0 else "<Fd closed>"
