"""How does a union live as a mount under pyfuse3?  Mount, let pyfuse3 serve, unmount."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pyfuse3
import trio

from unionfs.overlay.union import Union
from unionfs.serve import status, surroundings
from unionfs.serve.config import UNLIMITED_TIMEOUT, SessionConfig
from unionfs.serve.context import Context
from unionfs.serve.dispatch import Server
from unionfs.serve.errors import MountError
from unionfs.serve.mounting import Mounted, open_mount
from unionfs.serve.passthrough import Backings
from unionfs.serve.pyfuse3_binding.numbers import Numbers
from unionfs.serve.pyfuse3_binding.operations import Operations
from unionfs.serve.signals import watch_signals

_log: Final = logging.getLogger("unionfs")
_OBSTACLE: Final = "binding=pyfuse3 has none"


class _Notices:
    """Notices by pyfuse3's functions, which raise where the kernel knows nothing of the node."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def attributes_changed(self, nodeid: int) -> None:
        self._invalidate(nodeid, attributes_only=True)

    def contents_changed(self, nodeid: int) -> None:
        self._invalidate(nodeid, attributes_only=False)

    def _invalidate(self, nodeid: int, *, attributes_only: bool) -> None:
        number = self._numbers.find(nodeid)
        if number is not None:
            with suppress(OSError):
                pyfuse3.invalidate_inode(number, attributes_only)

    def store(self, nodeid: int, offset: int, data: bytes) -> None:
        number = self._numbers.find(nodeid)
        if number is not None:
            with suppress(OSError):
                pyfuse3.notify_store(number, offset, data)


class _Life:
    """One mount's life."""

    def __init__(self, union: Union, config: SessionConfig, mounted: Mounted, ready: Callable[[str], None]) -> None:
        self._union = union
        self._config = config
        self._mounted = mounted
        self._ready = ready
        self._backings = Backings(mounted.device, union.identity)
        self._backings.reason = _OBSTACLE
        seconds = min(config.timeout, UNLIMITED_TIMEOUT)
        valid = (int(seconds), int(seconds % 1 * 1e9))
        numbers = Numbers(union.inodes, union.exports)
        context = Context(union, config, valid, mounted.device, _Notices(numbers))
        self._server = Server(context, self._backings)
        self.operations = Operations(context, self._server, numbers)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self.operations.nursery = nursery
            await nursery.start(watch_signals, self._mounted, nursery.cancel_scope, trio.lowlevel.checkpoint)
            nursery.start_soon(self._announce)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    async def _announce(self) -> None:
        await self.operations.started.wait()
        self._mounted.widen_readahead()
        adjustments = surroundings.adjustments(self._union)
        self._ready("; ".join((f"passthrough: off ({_OBSTACLE})", *adjustments)))
        if self._config.debug:
            found = status.collect(self._union, self._backings, self._server.opens, 0, self._config.lower_io)
            for line in (*found.lines(), *adjustments):
                _log.debug("%s", line)


def serve(union: Union, config: SessionConfig, ready: Callable[[str], None]) -> None:
    """As `unionfs.serve.run.serve`.  pyfuse3 has one mount in a process."""
    # Its messages go where ours go, also once the process has gone to the background.
    logger = logging.getLogger("pyfuse3")
    logger.parent = _log
    logger.setLevel(logging.INFO)
    mounted = open_mount(config)
    try:
        life = _Life(union, config, mounted, ready)
        _hand_over(life.operations, mounted)
        try:
            trio.run(life.run)
        finally:
            pyfuse3.close(unmount=False)
    finally:
        mounted.close()
        # Whatever ended the session, nothing stays mounted that would only answer ENOTCONN.
        mounted.unmount(lazy=True)


def _hand_over(operations: Operations, mounted: Mounted) -> None:
    """Give libfuse a descriptor of the mounted device: it takes `/dev/fd/N` as a mount point for that.  Raises MountError."""
    # libfuse ends at the EAGAIN of a non-blocking device, which an interrupted request leaves behind.
    os.set_blocking(mounted.device, True)
    device = os.dup(mounted.device)
    try:
        pyfuse3.init(operations, f"/dev/fd/{device}", set())
    except RuntimeError as error:
        os.close(device)
        raise MountError(f"binding=pyfuse3: {error}") from None
