"""How long is it worth to look for the next request before going to sleep?  Adaptive polling of the device.

Waking a sleeping thread costs more than serving most requests, so that after a request the session looks for the next
one for a short while; not where looking would only hold up the clients: on a single core, and while others want this
thread's core.  Then it naps: it waits in the kernel, which costs a fraction of waiting in the event loop, but not for long,
since signals and timers are seen to by the event loop.  At rest it sleeps there.
"""

from __future__ import annotations

import os
import resource
import select
import time
from typing import Final

_SHORTEST: Final = 20_000
_LONGEST: Final = 100_000
#: Milliseconds of a nap.
_NAP: Final = 20
#: The core is wanted by others when this thread had to leave it so often in so many nanoseconds.  With one client and a core
#: for each that hardly ever happens; with as many busy processes as cores, some ten times.
_CROWDED: Final = 4
_WINDOW: Final = 20_000_000
_clock: Final = time.perf_counter_ns


class Poller:
    """Polls one descriptor; times in nanoseconds."""

    __slots__ = ("_budget", "_count_at", "_displaced", "_is_crowded", "_poll")

    def __init__(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._budget = 50_000 if len(os.sched_getaffinity(0)) > 1 else 0
        self._is_crowded = False
        self._displaced = 0
        self._count_at = 0

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
        now = _clock()
        if now >= self._count_at:
            self._count(now)
        if self._is_crowded:
            return bool(poll(_NAP))
        end = now + budget
        while _clock() < end:
            if poll(0):
                self._budget = min(_LONGEST, budget + (budget >> 3))
                return True
        self._budget = max(_SHORTEST, budget - (budget >> 3))
        return bool(poll(_NAP))

    def _count(self, now: int) -> None:
        """Find out if others want the core, for the next while (getrusage(2), ru_nivcsw)."""
        displaced = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        windows = max(1.0, (now - self._count_at) / _WINDOW + 1)
        self._is_crowded = displaced - self._displaced >= _CROWDED * windows
        self._displaced = displaced
        self._count_at = now + _WINDOW
