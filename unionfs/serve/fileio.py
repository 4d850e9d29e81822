"""What does the server keep for a regular file that is or was open?"""

from __future__ import annotations

import os
from typing import Final

from unionfs.linux import creds
from unionfs.overlay import files
from unionfs.overlay.node import Node

#: Callers remembered for each inode; one that is forgotten is told once more.
_MOST_TOLD: Final = 64


class FileIo:
    """The attachment of a node, or of one of its former nodeids: one FUSE inode's state.

    cached, backed: live opens by I/O mode (see `policy`).  writers: live opens for writing.
    mappers: those by passthrough that allow a writable shared mapping.  executing: those by which a program runs.
    backing_id: of the registered backing file, 0 for none; `backing_upper`: that file is on the upper layer.
    mappable: what `policy.is_mappable` says of the file, None until it was asked.
    mtime: the modification time that the kernel has for the file, seconds and nanoseconds; None when it named none (`heldback`).
    stored: the file's data were pushed into the page cache.  mixed: the page cache may be older than the file.
    told: the callers that were answered ESTALE and have not come back; None for none.
    fd: the server's own descriptor for what does not pass through; `fd_upper`: it is the upper file's.
    """

    __slots__ = (
        "backed", "backing_id", "backing_upper", "cached", "executing", "fd", "fd_upper", "mappable", "mappers",
        "mixed", "mtime", "stored", "told", "writers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.cached = 0
        self.backed = 0
        self.writers = 0
        self.mappers = 0
        self.executing = 0
        self.backing_id = 0
        self.backing_upper = False
        self.mappable: bool | None = None
        self.stored = False
        self.mixed = False
        self.mtime: tuple[int, int] | None = None
        self.told: set[int] | None = None
        self.fd = -1
        self.fd_upper = False

    @property
    def is_open(self) -> bool:
        return bool(self.backed or self.cached)

    def came_back(self, caller: int) -> bool:
        """Was the caller answered ESTALE before?  If not, it is noted that it is now."""
        if self.told is None or len(self.told) > _MOST_TOLD:
            self.told = set()
        if caller in self.told:
            self.told.remove(caller)
            return True
        self.told.add(caller)
        return False

    def close(self) -> None:
        """Close the server's own descriptor."""
        fd, self.fd = self.fd, -1
        self.fd_upper = False
        if fd >= 0:
            os.close(fd)


class Descriptors:
    """The server's own descriptors of files, a bounded number of them, the oldest closed first between requests.

    Without the privilege to open any file again, those that are open for writing stay: their mode may forbid it.
    """

    __slots__ = ("_limit", "_open", "_privileged")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._privileged = creds.has_capability(creds.CAP_DAC_OVERRIDE)
        self._open: dict[FileIo, None] = {}

    def get(self, node: Node) -> int:
        """A descriptor of the file's data where they are now, for writing too if they are on the upper layer."""
        io = node.attachment
        if io is None:
            io = node.attachment = FileIo()
        if io.fd >= 0 and io.fd_upper == node.data_upper:
            return io.fd  # type: ignore[no-any-return]
        io.close()
        return self.keep(io, files.open_data(node, node.data_upper), node.data_upper)

    def keep(self, io: FileIo, fd: int, upper: bool) -> int:
        """Take over an open descriptor."""
        io.close()
        io.fd, io.fd_upper = fd, upper
        self._open[io] = None
        return fd

    def drop(self, io: FileIo) -> None:
        io.close()
        self._open.pop(io, None)

    def trim(self) -> None:
        """Close the oldest above the limit; never called while an operation runs."""
        excess = len(self._open) - self._limit
        if excess > 0:
            for io in [io for io in self._open if self._privileged or not io.writers][:excess]:
                self.drop(io)
