"""By which number does the kernel know a node under pyfuse3?

pyfuse3 has one number, `st_ino` of its EntryAttributes, for what are two in FUSE: the nodeid, and the inode number that users
see.  So a node gets its inode number as its nodeid too.  Where that is taken, or means another node to the kernel (1 is the
root), it gets one of a range that the union never uses; such a node shows its inode number by stat(2), but in listings its name
alone can be shown with it.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import Final

from unionfs.overlay.exports import Exports
from unionfs.overlay.inodes import ROOT_ID, Inodes

#: The first of our own numbers; those of the union have 63 bits.
_OWN: Final = 1 << 63


class Numbers:
    """The numbers of the nodes that the kernel knows.

    refused: how often names were listed with a number, but without the node that it may stand for.
    """

    __slots__ = ("_exports", "_inodes", "_next", "_nodeids", "_numbers", "refused")

    def __init__(self, inodes: Inodes, exports: Exports | None) -> None:
        self._inodes = inodes
        self._exports = exports
        self._next = _OWN
        self.refused = Counter[int]()
        self._numbers = {ROOT_ID: ROOT_ID}
        self._nodeids = {ROOT_ID: ROOT_ID}

    def nodeid(self, number: int) -> int:
        """The union's nodeid of a number.  Raises ESTALE."""
        nodeid = self._nodeids.get(number)
        if nodeid is None:
            raise OSError(errno.ESTALE, "unknown number")
        return nodeid

    def find_nodeid(self, number: int) -> int | None:
        """The union's nodeid of a number, None if it stands for no node."""
        return self._nodeids.get(number)

    def find(self, nodeid: int) -> int | None:
        """The number of a node, None if the kernel was not told of it."""
        return self._numbers.get(nodeid)

    def choose(self, nodeid: int, ino: int) -> int:
        """The number that a node with this inode number has or will get."""
        number = self._numbers.get(nodeid)
        if number is not None:
            return number
        if ROOT_ID < ino < _OWN and ino not in self._nodeids:
            return ino
        self._next += 1
        return self._next

    def keep(self, nodeid: int, number: int) -> None:
        """The kernel is told of the node by this number."""
        self._numbers[nodeid] = number
        self._nodeids[number] = nodeid

    def refuse(self, number: int, lookups: int) -> int:
        """How many of the references to a number that the kernel drops are those it never took, of `refused`."""
        count = min(lookups, self.refused[number])
        self.refused[number] -= count
        if not self.refused[number]:
            del self.refused[number]
        return count

    def forget(self, nodeid: int) -> None:
        """The kernel has dropped references to the node: its number goes with it.  Of what handles may name it stays."""
        if nodeid in self._inodes.by_id or (self._exports is not None and self._exports.remembers(nodeid)):
            return
        number = self._numbers.pop(nodeid, None)
        if number is not None:
            del self._nodeids[number]
