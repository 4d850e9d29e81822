"""How full is the union?  STATFS: the numbers of the filesystem that takes the writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs.wire import reply
from unionfs.wire.kinds import Header
from unionfs.wire.kinds import Statfs as Request

if TYPE_CHECKING:
    from unionfs.serve.context import Context


class Statfs:
    """The STATFS operation."""

    __slots__ = ("_union",)

    def __init__(self, context: Context) -> None:
        self._union = context.union

    def statfs(self, header: Header, request: Request) -> reply.Statfs:
        found = self._union.statfs()
        return reply.Statfs(
            found.blocks, found.bfree, found.bavail, found.files, found.ffree, found.bsize, found.namelen, found.frsize
        )
