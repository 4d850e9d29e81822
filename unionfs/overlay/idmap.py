"""Which id do users see for an id of the layers, and which do the layers get for one of theirs?  Ranges, as of `uidmapping=`.

The meaning is that of fuse-overlayfs(1): what no range covers becomes the kernel's overflow id, in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

#: The first number that is no id: -1 as 32 bits means none (chown(2)).
ID_END: Final = 0xFFFFFFFF


class IdRange(NamedTuple):
    """`length` ids: `stored` and those after it on the layers are `shown` and those after it to users."""

    stored: int
    shown: int
    length: int

    def __str__(self) -> str:
        return f"{self.stored}:{self.shown}:{self.length}"


class IdMap:
    """A mapping of user or group ids."""

    __slots__ = ("_overflow", "_ranges")

    def __init__(self, ranges: Sequence[IdRange], overflow: int) -> None:
        """`overflow`: stands for every id that no range covers.  The ranges do not overlap on either side."""
        self._ranges = tuple(ranges)
        self._overflow = overflow

    def shown(self, stored: int) -> int:
        """The id users see."""
        for first, shown, length in self._ranges:
            if first <= stored < first + length:
                return shown + stored - first
        return self._overflow

    def stored(self, shown: int) -> int:
        """The id the layers get."""
        for stored, first, length in self._ranges:
            if first <= shown < first + length:
                return stored + shown - first
        return self._overflow


def find_overlap(ranges: Sequence[IdRange]) -> tuple[IdRange, IdRange] | None:
    """Two ranges that give one id two meanings, on the layers' side or on the users'."""
    for start in (0, 1):
        in_order = sorted(ranges, key=lambda ids: ids[start])
        for one, other in pairwise(in_order):
            if one[start] + one.length > other[start]:
                return one, other
    return None


def overflow_id(kind: str) -> int:
    """What the kernel shows for an id it can't name; `kind` is `uid` or `gid` (proc(5), /proc/sys/kernel/overflowuid)."""
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as setting:
            return int(setting.read())
    except (OSError, ValueError):
        return 65534
