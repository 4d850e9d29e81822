"""How does a signal end a mount?"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from unionfs.linux.process import ENDING_SIGNALS
from unionfs.serve.mounting import Mounted

_log: Final = logging.getLogger("unionfs")
#: Seconds between a lazy unmount by signal and the end, for those who still have files open.
_GRACE: Final = 5.0


@contextmanager
def held() -> Iterator[None]:
    """In the block, such a signal waits for `watch_signals`: by default it would leave a mount without its server behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def watch_signals(
    mounted: Mounted, life: trio.CancelScope, before_end: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[None]
) -> None:
    """Unmount on the first signal, at once if nobody is inside; end at the second, or when the grace is over.

    `before_end` is what is left to be done then for those who still have files open.
    """
    with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        task_status.started()
        async for _ in signals:
            break
        if not await trio.to_thread.run_sync(mounted.unmount, False):
            await trio.to_thread.run_sync(mounted.unmount, True)
        with trio.move_on_after(_GRACE):
            async for _ in signals:
                break
        _log.warning("%s: still in use; ended all the same", os.fsdecode(mounted.mountpoint))
        await before_end()
        life.cancel()
