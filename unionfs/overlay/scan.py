"""How does a directory of very many names get its index, while other requests go on?  A scan in slices.

Names are read in a worker thread, which may wait for the disk, and merged on the event loop, some thousand at a time.  A
name that changes meanwhile is looked at anew when everything has been read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from unionfs.linux import procfs
from unionfs.linux.fd import Fd
from unionfs.overlay.merge import LayerScan, MergedIndex, PartialIndex, entry_now
from unionfs.overlay.node import DirNode

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

#: Names of one slice: some milliseconds' work.
SLICE: Final = 2048


class Scan:
    """One directory's scan.

    `read` may run in a worker thread, everything else belongs to the event loop:

        while scan.next_layer():
            while entries := scan.read():
                scan.take(entries)
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
        self._merged = node.is_merged
        self._layer: LayerScan | None = None
        self._directory: Fd | None = None
        self._entries: Iterator[os.DirEntry[bytes]] | None = None

    def next_layer(self) -> bool:
        """Go on with the next layer; False when there is none."""
        self._end_layer()
        real = next(self._reals, None)
        if real is None:
            return False
        self._layer = LayerScan(self._union, self._index, real, self._closed, self._merged)
        self._directory = Fd(os.dup(real.fd()))
        return True

    def read(self) -> list[os.DirEntry[bytes]]:
        """The next names of the layer; none at its end."""
        if self._entries is None:
            assert self._directory is not None
            self._entries = os.scandir(procfs.fd_path(self._directory.fileno()))
        return list(islice(self._entries, SLICE))

    def take(self, entries: list[os.DirEntry[bytes]]) -> None:
        """Merge them."""
        assert self._layer is not None
        self._layer.take(entries)

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
        self._layer = None
        self._end_layer()

    def _end_layer(self) -> None:
        if self._layer is not None:
            self._layer.end()
            self._layer = None
        if self._entries is not None:
            with suppress(AttributeError):
                self._entries.close()  # type: ignore[attr-defined]
            self._entries = None
        if self._directory is not None:
            self._directory.close()
            self._directory = None
