"""How long is it worth to look for the next request before going to sleep?  Adaptive polling of the device.

Waking a sleeping thread costs more than serving most requests, so that after a request the session looks for the next
one for a short while; not where looking would only hold up the clients: on a single core, and while others want this
thread's core.  Then it naps: it waits in the kernel, which costs a fraction of waiting in the event loop, but not for long,
since signals and timers are seen to by the event loop.  At rest it sleeps there.

The client sleeps, too, while it waits for its answer, and its core with it.  Where that is slow to wake (see
`linux.cpuidle`), the cores are kept awake as long as one request follows the other and is found by looking for it.
"""

from __future__ import annotations

import os
import resource
import select
import time
from typing import Final, Protocol

from unionfs.linux import cpuidle
from unionfs.linux.cpuidle import CpuLatency
from unionfs.serve.config import CpuIdle
from unionfs.serve.errors import MountError

_SHORTEST: Final = 20_000
_LONGEST: Final = 100_000
#: Milliseconds of a nap, and of one with all cores awake.
_NAP: Final = 20
_SHORT_NAP: Final = 1
#: Others want the core when this thread is kept off it for so long while it looks, or has to leave it so often in so many
#: nanoseconds.  With one client and a core for each, that hardly ever happens.
_LOST: Final = 1_000_000
_DISPLACED: Final = 4
_WINDOW: Final = 20_000_000
#: For so long nothing is looked for then, and for twice as long each time that it was too early to begin again.
_SHORTEST_PAUSE: Final = 20_000_000
_LONGEST_PAUSE: Final = 1_280_000_000
#: After so many requests that were found by looking the cores are kept awake.
_STREAK: Final = 4
_clock: Final = time.perf_counter_ns


#: More of them are not kept awake for one mount's sake.
_FEW_CPUS: Final = 4


class IdleCpus(Protocol):
    """What can keep cores without work awake."""

    def keep_awake(self) -> None:
        """They wait awake from now on."""

    def let_sleep(self) -> None:
        """They may sleep."""


def idle_cpus(wanted: CpuIdle) -> CpuLatency | None:
    """What keeps idle CPUs awake, if that is wanted here.  Raises MountError where it is insisted on and can't be had."""
    if wanted is CpuIdle.SLEEP:
        return None
    insisted = wanted is CpuIdle.POLL
    if not insisted and not (cpuidle.sleeps_in_host() and (os.cpu_count() or 1) <= _FEW_CPUS):
        return None
    try:
        return CpuLatency()
    except OSError as error:
        if insisted:
            raise MountError(f"cpu_idle=poll: {cpuidle.DEVICE}: {error.strerror}; use cpu_idle=auto") from None
        return None


class Poller:
    """Polls one descriptor; times in nanoseconds.  cpus: the cores to be kept awake meanwhile, if that is wanted."""

    __slots__ = ("_budget", "_count_at", "_cpus", "_crowded_till", "_displaced", "_pause", "_poll", "_streak")

    def __init__(self, fd: int, cpus: IdleCpus | None = None) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        self._poll = poll.poll
        self._budget = 50_000 if len(os.sched_getaffinity(0)) > 1 else 0
        self._crowded_till = 0
        self._pause = _SHORTEST_PAUSE
        self._displaced = 0
        self._count_at = 0
        self._cpus = cpus
        self._streak = 0

    def look(self) -> bool:
        """Is there a request right now?"""
        return bool(self._poll(0))

    def ready(self) -> bool:
        """Look for a request, there being none right now, for the present budget and then napping; False: go to sleep."""
        poll = self._poll
        budget = self._budget
        if not budget:
            return bool(poll(_NAP))
        seen = _clock()
        if seen >= self._count_at:
            self._count(seen)
        if seen < self._crowded_till:
            self.rest()
            return bool(poll(_NAP))
        end = seen + budget
        while seen < end:
            if poll(0):
                if _clock() - seen > _LOST:
                    self._make_room(seen)
                    return True
                self._budget = min(_LONGEST, budget + (budget >> 3))
                self._streak += 1
                if self._streak == _STREAK and self._cpus is not None:
                    self._cpus.keep_awake()
                return True
            seen = _clock()
        if seen - end > _LOST:
            self._make_room(seen)
            return bool(poll(_NAP))
        self._budget = max(_SHORTEST, budget - (budget >> 3))
        if self._streak >= _STREAK and self._cpus is not None:
            # Who works a while between two requests is soon back.
            if poll(_SHORT_NAP):
                return True
            self.rest()
        self._streak = 0
        return bool(poll(_NAP))

    def rest(self) -> None:
        """No request is looked for until one comes: the cores may sleep."""
        if self._streak >= _STREAK and self._cpus is not None:
            self._cpus.let_sleep()
        self._streak = 0

    def _count(self, now: int) -> None:
        """Look, once in a window, how often this thread had to leave its core meanwhile (getrusage(2), ru_nivcsw)."""
        displaced = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        windows = max(1.0, (now - self._count_at) / _WINDOW + 1)
        if displaced - self._displaced >= _DISPLACED * windows:
            self._make_room(now)
        self._displaced = displaced
        self._count_at = now + _WINDOW

    def _make_room(self, now: int) -> None:
        """Others want the core: nothing is looked for during a pause."""
        self.rest()
        soon = now - self._crowded_till < self._pause + 2 * _WINDOW
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause) if soon else _SHORTEST_PAUSE
        self._crowded_till = now + self._pause
