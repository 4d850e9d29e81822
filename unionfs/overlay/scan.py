"""How does a directory of very many names get its index, while other requests go on?  A scan in slices.

Names are read in a worker thread, which may wait for the disk, and merged on the event loop, some thousand at a time.  A
name that changes meanwhile is looked at anew when everything has been read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.linux import procfs
from unionfs.linux.fd import Fd
from unionfs.overlay.merge import LayerScan, MergedIndex, PartialIndex, entry_now
from unionfs.overlay.node import DirNode

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

#: Names that are read in one go, and of these that are merged in one go: some milliseconds' and some 0.2 ms' work.
SLICE: Final = 2048
_PIECE: Final = 256
#: Layers that are open at the same time.
_LAYERS: Final = 64


class Piece(NamedTuple):
    """Names of one layer; is_last: it has no more."""

    layer: LayerScan
    entries: list[os.DirEntry[bytes]]
    is_last: bool


class _Part:
    """One layer's part of the directory, open for reading."""

    __slots__ = ("_directory", "_entries", "layer")

    def __init__(self, layer: LayerScan, directory: Fd) -> None:
        self.layer = layer
        self._directory = directory
        self._entries: Iterator[os.DirEntry[bytes]] | None = None

    def read(self, most: int) -> Piece:
        """The next names; with the last ones the part is closed."""
        if self._entries is None:
            self._entries = os.scandir(procfs.fd_path(self._directory.fileno()))
        entries = list(islice(self._entries, most))
        if len(entries) < most:
            self.close()
        return Piece(self.layer, entries, len(entries) < most)

    def close(self) -> None:
        if self._entries is not None:
            with suppress(AttributeError):
                self._entries.close()  # type: ignore[attr-defined]
            self._entries = None
        self._directory.close()


class Scan:
    """One directory's scan.

    `read` may run in a worker thread, everything else belongs to the event loop:

        while scan.open_layers():
            while pieces := scan.read():
                for piece in pieces:
                    scan.take(piece)
        scan.finish()

    `close` ends it in any case.
    """

    def __init__(self, union: Union, node: DirNode) -> None:
        self._union = union
        self._node = node
        self._partial = node.index = PartialIndex()
        self._index = MergedIndex()
        self._closed: set[bytes] = set()
        self._reals = iter(node.reals)
        self._open: deque[_Part] = deque()

    def open_layers(self) -> bool:
        """Go on with the next layers, when those before are read; False when there are none."""
        for real in islice(self._reals, _LAYERS):
            layer = LayerScan(self._union, self._index, self._node, real, self._closed)
            self._open.append(_Part(layer, Fd(os.dup(real.fd()))))
        return bool(self._open)

    def read(self) -> list[Piece]:
        """The next names of the open layers; none at their end."""
        pieces: list[Piece] = []
        left = SLICE
        while left > 0 and self._open:
            piece = self._open[0].read(min(left, _PIECE))
            if piece.is_last:
                self._open.popleft()
            pieces.append(piece)
            left -= max(1, len(piece.entries))
        return pieces

    def take(self, piece: Piece) -> None:
        """Merge them."""
        piece.layer.take(piece.entries)
        if piece.is_last:
            piece.layer.end()

    def finish(self) -> None:
        """All names are read: from now on the index is the directory's, unless that is gone."""
        union, node, index = self._union, self._node, self._index
        if node.index is not self._partial or union.inodes.by_id.get(node.nodeid) is not node:
            return
        for name in self._partial.touched:
            found = entry_now(union, node, name)
            if found is None:
                index.discard(name)
            else:
                index.put(name, *found)
        node.index = index
        union.note_index(node, len(index.names))

    def close(self) -> None:
        """Give back what is open; an index that was not finished is as if it had never been begun."""
        if self._node.index is self._partial:
            self._node.index = None
        while self._open:
            self._open.popleft().close()
