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
                while scan.next_layer():
                    while entries := await trio.to_thread.run_sync(scan.read):
                        scan.take(entries)
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
