"""How do operations wait for the index of a very large directory?  One scan for each directory, whoever waits for it."""

from __future__ import annotations

import errno
import logging
from typing import Final

import trio

from unionfs.overlay.node import DirNode
from unionfs.overlay.scan import Scan
from unionfs.overlay.union import Union

_log: Final = logging.getLogger("unionfs")
#: Names that are merged before other requests get a turn: some 0.2 ms' work.
_AT_ONCE: Final = 256


class _Job:
    """A scan under way."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: OSError | None = None


class Scans:
    """The scans under way."""

    __slots__ = ("_jobs", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._jobs: dict[DirNode, _Job] = {}

    async def complete(self, node: DirNode, nursery: trio.Nursery) -> None:
        """Wait for the directory's scan, begun now in `nursery` if it is not under way.

        It goes on when nobody waits any more: the index is there for whoever comes next.  Raises OSError from the layers.
        """
        job = self._jobs.get(node)
        if job is None:
            job = self._jobs[node] = _Job()
            nursery.start_soon(self._run, node, job)
        await job.done.wait()
        if job.error is not None:
            raise job.error

    async def _run(self, node: DirNode, job: _Job) -> None:
        scan: Scan | None = None
        try:
            if node.index is None:
                scan = Scan(self._union, node)
                await self._read(scan)
                scan.finish()
        except OSError as error:
            job.error = error
        except Exception as error:
            _log.exception("the scan of a directory failed")
            job.error = OSError(errno.EIO, str(error))
        finally:
            if scan is not None:
                scan.close()
            del self._jobs[node]
            job.done.set()

    async def _read(self, scan: Scan) -> None:
        """Read all layers; after so many names other requests get a turn."""
        while scan.open_layers():
            while pieces := await trio.to_thread.run_sync(scan.read):
                count = 0
                for piece in pieces:
                    scan.take(piece)
                    count += 1 + len(piece.entries)
                    if count >= _AT_ONCE:
                        await trio.lowlevel.checkpoint()
                        count = 0
