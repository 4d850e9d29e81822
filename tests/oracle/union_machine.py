"""Union machine: which calls are tried, over which layers, with which options, and when is what was done mounted anew?

A hypothesis state machine. An example is a run of LANES directories on one pair of mounts, with options and layers of its
own; every rule is one kind of call, and does one in each lane, over what is there. What comes out otherwise ends the example,
and leaves the lane's script.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.oracle import union_options
from tests.oracle.compare import Finding
from tests.oracle.union_draw import BEFORE, KINDS, Lane, layers, next_call
from tests.oracle.union_options import OURS, SHARED, Chosen
from tests.oracle.union_run import WHOLE, Lost, UnionRun
from tests.oracle.union_script import Call, Script
from tests.support.mounts import Driver, LeftBehind, MountFailed

LANES = 12
RULES = 90
"""Calls in each lane in one example."""

LOOK_EVERY = 17
REMOUNT_EVERY = 30
FOREIGN = 0.3
"""How many examples have layers on several filesystems."""

STEPS_BEFORE = 8
OPENED_AT_FIRST = ("open_to_read", "open", "open_to_read")
"""So that those rules that need something open find it also in examples without a rule that opens."""

NUMBER = st.integers(0, (1 << 32) - 1)


@dataclass
class Search:
    """What all examples have in common, and what was found."""

    base: Path
    subject: Driver
    steps: int = 0
    examples: int = 0
    remounts: int = 0
    failed: tuple[Script, list[Finding]] | None = None
    options: Chosen | None = None
    """Given to every example, if anything."""

    places: itertools.count[int] = field(default_factory=itertools.count)


    def has_failed(self) -> bool:
        """Whether something came out otherwise."""
        return self.failed is not None


class Different(AssertionError):
    """Something came out otherwise; the Search says what."""


class UnionMachine(RuleBasedStateMachine):
    """The rules of KINDS; a subclass has the search."""

    search: Search

    def __init__(self) -> None:
        super().__init__()
        if self.search.failed is not None:  # hypothesis wants to see it again
            raise Different
        self._run: UnionRun | None = None
        self._lanes = [Lane() for _ in range(LANES)]
        self._scripts: list[Script] = []
        self._before: list[list[Call]] = [[] for _ in range(LANES)]
        self._steps: list[list[Call]] = [[] for _ in range(LANES)]
        self._rng = random.Random(0)
        self._done = 0

    @initialize(number=NUMBER)
    def begin(self, number: int) -> None:
        """Draws options and layers, and mounts; not for 0, the example that hypothesis always begins with."""
        if not number:
            return
        self._rng = rng = random.Random(number)
        lowers = rng.choice((1, 2, 2, 3))
        options = self.search.options if self.search.options is not None else union_options.draw(rng, SHARED)
        made_before = lowers > 1 and rng.random() < 0.5
        ours = union_options.draw(rng, OURS)
        foreign = lowers > 1 and rng.random() < FOREIGN
        self._scripts = [
            Script(f"lane {lane}", lowers, options, ours, foreign, layers(rng, lowers, made_before)) for lane in range(LANES)
        ]
        self._run = UnionRun(
            self.search.base / f"run{next(self.search.places)}", self.search.subject, self._scripts[0],
            [script.layers for script in self._scripts],
        )  # fmt: skip
        with self._guarded():
            if made_before:
                self._make_before()
            self._run.start()
            self._see()
        for name in OPENED_AT_FIRST:
            self.call(name, rng.getrandbits(32))

    def _make_before(self) -> None:
        assert self._run is not None
        self._run.begin_before()
        for _ in range(STEPS_BEFORE):
            self._see()
            name, number = self._rng.choice(BEFORE), self._rng.getrandbits(32)
            calls = {lane: next_call(name, number, lane, self._lanes[lane])._replace(uid=0) for lane in range(LANES)}
            for lane, call in calls.items():
                self._before[lane].append(call)
            self._run.act_before(calls)
        self._run.end_before()

    def _see(self) -> None:
        assert self._run is not None
        for lane, state in self._run.states(range(LANES)).items():
            self._lanes[lane].state = state

    def call(self, name: str, number: int) -> None:
        """One call of a kind in each lane; then, at times, a look at everything, and a remount."""
        if self._run is None:
            return
        with self._guarded():
            calls = {lane: next_call(name, number, lane, self._lanes[lane]) for lane in range(LANES)}
            for lane, call in calls.items():
                self._steps[lane].append(call)
            self._run.act(calls)
            for lane, state in self._run.states(range(LANES)).items():
                self._lanes[lane].update(state, calls[lane])
            self._done += 1
            if self._done % LOOK_EVERY == 0:
                self._log(Call("look"))
                self._run.look(range(LANES))
            if self._done % REMOUNT_EVERY == 0:
                self._remount()

    def _remount(self) -> None:
        assert self._run is not None
        options = self._scripts[0].options
        if self.search.options is None and self._rng.random() < 0.5:
            options = union_options.draw(self._rng, SHARED, options)
        call = Call(self._rng.choice(("remount", "cross")), (dict(options),))
        self._log(call)
        self._run.remount(call.name, options)
        self.search.remounts += 1
        self._lanes = [Lane() for _ in range(LANES)]
        self._see()

    def _log(self, call: Call) -> None:
        for steps in self._steps:
            steps.append(call)

    def teardown(self) -> None:
        """The end of an example: everything is compared, and mounted crosswise."""
        if self._run is None:
            return
        run = self._run
        try:
            if self.search.failed is None and self._done:
                with self._guarded():
                    run.finish()
        finally:
            self.search.steps += run.steps
            self.search.examples += 1
            self._run = None
            run.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Judges what was done in a `with` block, also where it was cut short."""
        run = self._run
        assert run is not None
        try:
            yield
        except Lost as loss:
            run.findings[loss.lane].append(Finding("run", "an answer", str(loss), ""))
        except LeftBehind as left:
            run.findings[WHOLE].append(Finding("run", "unmount", str(left), ""))
        except MountFailed:
            pass
        self._judge()

    def _judge(self) -> None:
        """Raises Different for the first lane that came out otherwise."""
        assert self._run is not None
        for lane, findings in sorted(self._run.findings.items(), reverse=True):
            if findings:
                kept = self._scripts[max(lane, 0)]
                script = Script(  # to be kept: what was done until now
                    "all lanes" if lane == WHOLE else f"lane {lane}", kept.lowers, kept.options, kept.ours, kept.foreign,
                    kept.layers, tuple(self._before[max(lane, 0)]), tuple(self._steps[max(lane, 0)]),
                )  # fmt: skip
                self.search.failed = script, findings
                raise Different("\n".join(map(str, findings)))


def _rule_of(name: str) -> None:
    def act(self: UnionMachine, number: int) -> None:
        self.call(name, number)

    act.__name__ = name
    setattr(UnionMachine, f"do_{name}", rule(number=NUMBER)(act))


for _name in KINDS:
    _rule_of(_name)
