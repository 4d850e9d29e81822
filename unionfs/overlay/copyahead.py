"""Which file will be copied up next?  Where they are copied up one after the other, the next one is staged ahead of time.

Who changes a whole directory goes through it as it was listed, and copies up one file after the other.  What takes longest
is then to wait until the data are on the device; so while the client is on its way to the next file, that is copied already,
nameless, and only to be shown when it is really asked for.  A lower file does not change, so that such a copy can't be out
of date; if the file is not asked for, or nobody asks for anything, it goes.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from unionfs.linux import stat
from unionfs.overlay import copyup
from unionfs.overlay.errors import CopyUpNeeded
from unionfs.overlay.node import Node

if TYPE_CHECKING:
    from unionfs.overlay.copyup import CopyUp
    from unionfs.overlay.union import Union

#: Behind a file the next one is looked for among so many names.
_NEAR: Final = 4
#: So many right guesses in a row are asked for before a file is staged, at first and at most.
_EASY, _HARD = 1, 64


class CopiesAhead:
    """At most one staged copy, and the guess which file it should be of."""

    __slots__ = ("_due", "_expected", "_needed", "_right", "_staged", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._expected: Node | None = None
        self._staged: tuple[Node, CopyUp] | None = None
        self._due = False
        self._right = 0
        self._needed = _EASY

    def take(self, node: Node) -> CopyUp | None:
        """The staged copy-up of a file that is to be copied up now; None: there is none."""
        staged, self._staged = self._staged, None
        if staged is None:
            return None
        if staged[0] is node:
            self._needed = max(_EASY, self._needed // 2)
            return staged[1]
        staged[1].close()
        self._needed = min(_HARD, self._needed * 2)
        return None

    def note(self, node: Node) -> None:
        """The file was copied up with all its data."""
        self._right = self._right + 1 if node is self._expected else 0
        self._expected = _following(node)
        self._due = self._expected is not None and self._right >= self._needed

    def make(self) -> bool:
        """Stage the next file if it is worth it; whether that has taken a while."""
        if not self._due or self._expected is None:
            return False
        self._due = False
        self.drop()
        node = self._expected
        if not _is_simple(node) or node in self._union.copying:
            return False
        try:
            found = stat.stat(*node.at())
            if found.size > copyup.INLINE_LIMIT:
                return False
            job = copyup.CopyUp(self._union, node, None, found)
            try:
                job.stage()
            except BaseException:
                job.close()
                raise
        except (OSError, CopyUpNeeded):
            # Whoever copies it up is told.
            return False
        self._staged = node, job
        return True

    def drop(self) -> None:
        """Nothing is to be kept ready any longer."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged[1].close()


def _is_simple(node: Node) -> bool:
    """A regular file of a lower layer, with its data, under a name of its own."""
    return (
        node.is_regular and not node.upper and not node.unlinked and node.data is None and node.links is None
        and node.parent is not None and node.parent.upper
    )  # fmt: skip


def _following(node: Node) -> Node | None:
    """The file behind it in its directory's listing, if the kernel knows that."""
    parent = node.parent
    if parent is None or parent.index is None or not parent.index.ready:
        return None
    entry = parent.index.names.get(node.name)
    if entry is None:
        return None
    for name, _ in islice(parent.index.after(entry.cookie), _NEAR):
        child = parent.children.get(name)
        if child is not None and _is_simple(child):
            return child
    return None
