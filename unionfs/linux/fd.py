"""Who closes a descriptor?  The `Fd` that owns it, exactly once."""

import os
from types import TracebackType


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
