"""How do operations wait for the copy-up of a large file?  One copy-up for each file, whoever waits for it."""

from __future__ import annotations

import errno
import logging
from typing import Final

import trio

from unionfs.overlay import copyup
from unionfs.overlay.datacopyup import Job
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union

_log: Final = logging.getLogger("unionfs")


class _Job:
    """A copy-up under way and who waits for it."""

    __slots__ = ("copy_up", "done", "error", "waiters")

    def __init__(self, copy_up: Job) -> None:
        self.copy_up = copy_up
        self.done = trio.Event()
        self.error: OSError | None = None
        self.waiters = 0


class CopyUps:
    """The copy-ups under way."""

    __slots__ = ("_jobs", "_union")

    def __init__(self, union: Union) -> None:
        self._union = union
        self._jobs: dict[Node, _Job] = {}

    def begin(self, node: Node, nursery: trio.Nursery) -> _Job:
        """The copy-up of a file, begun in `nursery` if it is not under way: from here on nothing else copies it up."""
        job = self._jobs.get(node)
        if job is None:
            job = self._jobs[node] = _Job(copyup.job(self._union, node))
            self._union.copying.add(node)
            nursery.start_soon(self._run, node, job)
        return job

    async def complete(self, node: Node, nursery: trio.Nursery) -> None:
        """Wait for the copy-up of a file; it is given up when nobody waits for it any more.  Raises OSError from it."""
        while (job := self.begin(node, nursery)).copy_up.cancelled.value:
            await job.done.wait()
        job.waiters += 1
        try:
            await job.done.wait()
        finally:
            job.waiters -= 1
            if not job.waiters:
                job.copy_up.cancelled.value = True
        if job.error is not None:
            raise job.error

    async def _run(self, node: Node, job: _Job) -> None:
        try:
            if not node.data_upper:
                job.copy_up.prepare()
                await trio.to_thread.run_sync(job.copy_up.copy)
                if job.copy_up.cancelled.value or self._union.inodes.by_id.get(node.nodeid) is not node:
                    raise OSError(errno.EINTR, "nobody waits for the copy-up any more")
                job.copy_up.publish()
        except OSError as error:
            job.error = error
        except Exception as error:
            _log.exception("copy-up failed")
            job.error = OSError(errno.EIO, str(error))
        finally:
            job.copy_up.close()
            self._union.copying.discard(node)
            del self._jobs[node]
            job.done.set()
