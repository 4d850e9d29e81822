"""Where does the time of one thread go?  An account of exclusive times: by row (an operation) and by what was being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

WAITING, READING, SESSION, DECODING, UNION, SYSTEM, ENCODING, REPLYING = range(8)
#: What is done with a request, in the order in which it happens; SYSTEM are the system calls of UNION.
STAGES: Final = ("waiting", "reading", "session", "decoding", "union", "system calls", "encoding", "replying")

_clock: Final = time.perf_counter_ns


class Row:
    """One kind of request: how many there were, nanoseconds by stage and in worker threads, and system calls by name."""

    __slots__ = ("calls", "requests", "times", "worker")

    def __init__(self) -> None:
        self.requests = 0
        self.times = [0] * len(STAGES)
        self.worker = 0
        self.calls: dict[str, int] = {}

    def add(self, other: Row) -> None:
        """Add what another row holds to this one, and empty that one; its requests stay its own."""
        for stage, spent in enumerate(other.times):
            self.times[stage] += spent
            other.times[stage] = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "ns": dict(zip(STAGES, self.times, strict=True)),
            "worker_ns": self.worker,
            "system_calls": self.calls,
        }


class Account:
    """At every moment the time goes to one stage of one row; a change of either books what has passed.

    All of it belongs to the thread that made the account: other threads are told apart by `is_mine`.
    """

    __slots__ = ("_is_fresh", "_last", "_pending", "_row", "_stage", "_thread", "rows")

    def __init__(self) -> None:
        self._thread = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything: the account begins now, waiting for a request.  What is waited for the first is not counted."""
        self.rows: dict[str, Row] = {}
        self._pending = self._row = Row()
        self._stage = WAITING
        self._last = _clock()
        self._is_fresh = True

    def adopt(self) -> None:
        """From now on the calling thread is the one whose time is kept."""
        self._thread = threading.get_ident()

    def now(self) -> int:
        """Nanoseconds of a clock that every thread may read."""
        return _clock()

    def is_mine(self) -> bool:
        return threading.get_ident() == self._thread

    @property
    def stage(self) -> int:
        return self._stage

    @property
    def row(self) -> Row:
        return self._row

    def named(self, name: str) -> Row:
        """The row of that name."""
        row = self.rows.get(name)
        if row is None:
            row = self.rows[name] = Row()
        return row

    def switch(self, stage: int, row: Row | None = None) -> tuple[int, Row]:
        """From now on the time goes to `stage` (and `row`); what it went to until now, for switching back."""
        now = _clock()
        before = self._stage, self._row
        self._row.times[self._stage] += now - self._last
        self._last = now
        self._stage = stage
        if row is not None:
            self._row = row
        return before

    def await_request(self) -> None:
        """The server looks for a request: until one is there, that is waiting, and it is not known yet for what."""
        self.switch(READING, self._pending)

    def nothing_there(self) -> None:
        """It was in vain: the look was a part of the waiting, which goes on."""
        before = self._pending.times[READING]
        self.switch(WAITING)
        self._pending.times[WAITING] += self._pending.times[READING] - before
        self._pending.times[READING] = before

    def received(self) -> None:
        """There is a request."""
        self.switch(SESSION)

    def identified(self, name: str) -> None:
        """What has been spent on the request so far, and what follows, is for an operation of this name."""
        row = self.named(name)
        self.switch(SESSION, row)
        if self._is_fresh:
            self._pending.times[WAITING] = 0
            self._is_fresh = False
        row.add(self._pending)
        row.requests += 1

    def timed_call(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a system call: counted, and its time kept apart, where the union makes it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._stage != UNION or not self.is_mine():
                return function(*args, **kwargs)
            calls = self._row.calls
            calls[name] = calls.get(name, 0) + 1
            self.switch(SYSTEM)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(UNION)

        return call

    def timed_stage(self, stage: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as the work of one stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before, _ = self.switch(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def timed_row(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as the union's work for a row of its own."""

        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(UNION, self.named(name))
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(*before)

        return call
