"""How long is it worth to look for the next request before going to sleep?  Adaptive polling of the device.

Waking a sleeping thread costs more than serving most requests, so that after a request the session looks for the next
one for a short while; on a single core, where looking would only hold up the client, it does not.  Then it naps: it waits
in the kernel, which costs a fraction of waiting in the event loop, but not for long, since signals and timers are seen to
by the event loop.  At rest it sleeps there.
"""

from __future__ import annotations

import os
import select
import time
from typing import Final

_SHORTEST: Final = 20_000
_LONGEST: Final = 100_000
#: Milliseconds of a nap.
_NAP: Final = 20
_clock: Final = time.perf_counter_ns


class Poller:
    """Polls one descriptor; times in nanoseconds."""

    __slots__ = ("_budget", "_poll")

    def __init__(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._budget = 50_000 if len(os.sched_getaffinity(0)) > 1 else 0

    def look(self) -> bool:
        """Is there a request right now?"""
        return bool(self._poll(0))

    def ready(self) -> bool:
        """Look for a request, for the present budget and then napping; False: go to sleep."""
        poll = self._poll
        if poll(0):
            return True
        budget = self._budget
        if not budget:
            return bool(poll(_NAP))
        end = _clock() + budget
        while _clock() < end:
            if poll(0):
                self._budget = min(_LONGEST, budget + (budget >> 3))
                return True
        self._budget = max(_SHORTEST, budget - (budget >> 3))
        return bool(poll(_NAP))
