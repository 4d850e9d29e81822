"""How is a message taken apart without reading past its end? One bounded cursor over bytes."""

import builtins
import struct
from typing import Any


class Malformed(ValueError):
    """The bytes are not a message of the protocol: too short, or a name that cannot be one."""


class Cursor:
    """A position in a buffer that only moves forward and never past the end.

    Every method takes the next bytes, or raises `Malformed` and leaves the position where it was.
    """

    __slots__ = ("_at", "_view")

    def __init__(self, buffer: builtins.bytes | bytearray | memoryview) -> None:
        self._view = memoryview(buffer)
        self._at = 0

    def __len__(self) -> int:
        """Number of bytes not yet taken."""
        return len(self._view) - self._at

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of `layout`, unpacked from the next `layout.size` bytes."""
        try:
            fields = layout.unpack_from(self._view, self._at)
        except struct.error:
            raise Malformed(f"{layout.size} bytes of fields expected, {len(self)} left") from None
        self._at += layout.size
        return fields

    def bytes(self, count: int) -> builtins.bytes:
        """A copy of the next `count` bytes."""
        if count > len(self):
            raise Malformed(f"{count} bytes of data expected, {len(self)} left")
        start = self._at
        self._at = start + count
        return self._view[start : start + count].tobytes()

    def rest(self) -> memoryview:
        """Everything that is left, not copied."""
        rest = self._view[self._at :]
        self._at = len(self._view)
        return rest

    def string(self) -> builtins.bytes:
        """Bytes up to a NUL, which is taken too but not returned; refused when empty or not terminated."""
        left = self._view[self._at :].tobytes()
        end = left.find(0)
        if end < 1:
            raise Malformed("empty string" if end == 0 else "string without NUL")
        self._at += end + 1
        return left[:end]

    def name(self) -> builtins.bytes:
        """A string that is one component of a path: it has no slash."""
        start = self._at
        name = self.string()
        if b"/" in name:
            self._at = start
            raise Malformed(f"slash in name {name!r}")
        return name
