"""What will be asked next?  The rest of a listing, made ready while the client looks at the part it has.

A program that lists a directory works on what it got before it asks for more; meanwhile the server has nothing to do, and
makes the next answer.  It is used only if nothing has happened in between that could make it wrong: no request but those
that only look, no task under way, and no file open for writing, which the kernel changes without a word to the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.serve.listers import Wish
from unionfs.wire.abi import Opcode
from unionfs.wire.reply import DirBuffer

if TYPE_CHECKING:
    from unionfs.overlay.node import DirNode, Node
    from unionfs.overlay.union import Union

#: Requests that change nothing an answer made ahead depends on.
LOOKING: Final = frozenset(
    map(
        int,
        (
            Opcode.LOOKUP, Opcode.GETATTR, Opcode.STATX, Opcode.READLINK, Opcode.OPENDIR, Opcode.READDIR, Opcode.READDIRPLUS,
            Opcode.RELEASEDIR, Opcode.GETXATTR, Opcode.LISTXATTR, Opcode.READ, Opcode.STATFS, Opcode.FLUSH,
        ),
    )
)  # fmt: skip
#: So many answers may be made in vain, above those that were of use, before the next ones are left out.
_TRUST: Final = 4
#: After so many listings that were left out one is made ahead again.
_RETRY: Final = 64


class Part(NamedTuple):
    """A part of a listing: its entries, the nodes they name, and the cookie the next part begins after, 0 at the end.

    bare: how many names were given without a node.
    """

    buffer: DirBuffer
    nodes: list[Node]
    next_offset: int
    bare: int


class Place(NamedTuple):
    """Which part of which listing: what its READDIRPLUS says, and what the thread wants that sent it."""

    node: DirNode
    offset: int
    size: int
    wish: Wish


class LookAhead:
    """At most one answer made ahead, and the one to be made.

    ready: whether there is one that the next request may make wrong.
    """

    __slots__ = ("_left_out", "_next", "_part", "_place", "_trust", "_union", "ready")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._next: Place | None = None
        self._place: Place | None = None
        self._part: Part | None = None
        self._trust = _TRUST
        self._left_out = 0
        self.ready = False

    def expect(self, place: Place | None) -> None:
        """This part will probably be asked for next."""
        if place is not None and self._trust <= 0:
            self._left_out += 1
            if self._left_out < _RETRY:
                place = None
            else:
                self._left_out = 0
                self._trust = 1
        self._next = place

    def due(self) -> Place | None:
        """The part to be made now, once."""
        place, self._next = self._next, None
        return place

    def keep(self, place: Place, part: Part) -> None:
        """`part` was made; its nodes were not counted as looked up."""
        self.drop()
        self._place, self._part = place, part
        self.ready = True

    def take(self, place: Place) -> Part | None:
        """The part, if it was made; the caller counts its nodes."""
        if place != self._place:
            if place.node is (self._place.node if self._place is not None else None):
                self.drop()
            return None
        part, self._part, self._place = self._part, None, None
        self.ready = False
        self._trust = min(_TRUST, self._trust + 1)
        return part

    def drop(self) -> None:
        """What was made, or was to be made, may be wrong by now."""
        self._next = None
        part, self._part, self._place = self._part, None, None
        self.ready = False
        if part is None:
            return
        self._trust -= 1
        for node in part.nodes:
            if node.lookups <= 0 and self._union.inodes.by_id.get(node.nodeid) is node:
                self._union.forget(node.nodeid, 0)
