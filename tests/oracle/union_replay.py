"""Replays: do scripts that are written down come out the same, and how short can one be made that does not?"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.oracle.compare import Finding
from tests.oracle.union_run import WHOLE, Lost, UnionRun
from tests.oracle.union_script import REMOUNTS, Call, Script
from tests.support.mounts import Driver, LeftBehind, MountFailed

AT_ONCE = 24
"""Scripts that share a mount."""

ON_THE_WAY = ("step", "look", "st_ino")
"""Where findings lie that are made while steps are done."""

OF_THE_MOUNT = ("mount", "work", "run")
"""Where findings lie of which can't be said, when several scripts share a mount, whose they are."""


@dataclass
class Replay:
    """Runs scripts of one kind of mount, in step."""

    base: Path
    subject: Driver
    to_the_end: bool = True
    """Whether the uppers are compared, and mounted crosswise, when all steps are done."""

    places: Iterator[int] = field(default_factory=itertools.count)

    def findings(self, scripts: Sequence[Script]) -> list[list[Finding]]:
        """Of each script what comes out otherwise. All have the same `mount`.

        After a union has hung or could not be mounted, only the script that was to blame has findings, and for the others
        nothing is known.
        """
        run = UnionRun(self.base / f"replay{next(self.places)}", self.subject, scripts[0], [one.layers for one in scripts])
        try:
            self._all(run, scripts)
        except Lost as loss:
            run.findings[loss.lane].append(Finding("run", "an answer", str(loss), ""))
        except MountFailed:
            pass
        except LeftBehind as left:
            run.findings[WHOLE].append(Finding("run", "unmount", str(left), ""))
        finally:
            run.close()
        whole = run.findings[WHOLE] if len(scripts) == 1 else []
        return [[*run.findings[number], *whole] for number in range(len(scripts))]

    def _all(self, run: UnionRun, scripts: Sequence[Script]) -> None:
        if any(script.before for script in scripts):
            run.begin_before()
            for calls in itertools.zip_longest(*(script.before for script in scripts)):
                run.act_before({number: call for number, call in enumerate(calls) if call is not None})
            run.end_before()
        run.start()
        left = {number: list(script.steps) for number, script in enumerate(scripts)}
        while left := {number: steps for number, steps in left.items() if steps and not run.findings[number]}:
            now = {number: steps[0] for number, steps in left.items() if steps[0].name not in REMOUNTS}
            if not now:
                now = self._remount(run, {number: steps[0] for number, steps in left.items()})
            else:
                if looks := [number for number, call in now.items() if call.name == "look"]:
                    run.look(looks)
                run.act({number: call for number, call in now.items() if call.name != "look"})
            for number in now:
                del left[number][0]
        if self.to_the_end:
            run.finish()

    def _remount(self, run: UnionRun, waiting: dict[int, Call]) -> dict[int, Call]:
        """Does the first remount that is waited for; who waited for it."""
        call = next(iter(waiting.values()))
        options = call.args[0]
        assert isinstance(options, dict)
        run.remount(call.name, options)
        return {number: other for number, other in waiting.items() if other == call}


class Shrinker:
    """Makes a script that differs shorter while it still does: many attempts share one mount."""

    def __init__(self, replay: Replay, seconds: float) -> None:
        self._replay, self._deadline, self._at_once = replay, time.monotonic() + seconds, AT_ONCE

    def shrink(self, script: Script) -> tuple[Script, list[Finding]]:
        """The shortest script found, and what it finds; no findings if it does not differ when it is run again."""
        best, found = script, self._replay.findings([script])[0]
        if not found:
            return best, found
        if all(finding.where in OF_THE_MOUNT for finding in found):
            self._at_once = 1
        if found[0].where in ON_THE_WAY:
            self._replay.to_the_end = False
        size = 0
        while found and size != _size(best) and self._in_time():
            size = _size(best)
            for part in ("steps", "layers", "before"):
                best, found = self._shrink_part(best, found, part)
            best, found = self._settle_mounts(best, found)
        return best, found

    def _settle_mounts(self, best: Script, found: list[Finding]) -> tuple[Script, list[Finding]]:
        """Leaves out options, one by one, and lower layers' preparation."""
        for name in [*best.ours, *best.options]:
            trial = replace(
                best,
                ours={key: value for key, value in best.ours.items() if key != name},
                options={key: value for key, value in best.options.items() if key != name},
            )
            if self._in_time() and name not in ("userxattr", "redirect_dir") and (again := self._replay.findings([trial])[0]):
                best, found = trial, again
        return best, found

    def _shrink_part(self, best: Script, found: list[Finding], part: str) -> tuple[Script, list[Finding]]:
        """Leaves out ever smaller pieces of one of the script's parts."""
        step = max(1, len(getattr(best, part)) // 2)
        while self._in_time():
            items = getattr(best, part)
            trials = [
                _with(best, part, items[:start] + items[start + step :]) for start in range(0, len(items), step)
            ]
            good = self._differing(trials)
            if good:
                best, found = self._best(best, part, step, good)
            if step == 1 and (not good or not getattr(best, part)):
                break
            if not good or step > 1:
                step = max(1, step // 2)
        return best, found

    def _differing(self, trials: list[Script]) -> list[tuple[int, Script, list[Finding]]]:
        good: list[tuple[int, Script, list[Finding]]] = []
        for start in range(0, len(trials), self._at_once):
            some = trials[start : start + self._at_once]
            if not self._in_time():
                break
            good += [
                (start + number, some[number], found)
                for number, found in enumerate(self._replay.findings(some))
                if found
            ]
        return good

    def _best(
        self, best: Script, part: str, step: int, good: list[tuple[int, Script, list[Finding]]]
    ) -> tuple[Script, list[Finding]]:
        """All pieces out that can each be left out, if they can be together; else half of them, and so on."""
        items = getattr(best, part)
        while len(good) > 1:
            out = {number for number, _, _ in good}
            kept = tuple(item for position, item in enumerate(items) if position // step not in out)
            trial = _with(best, part, kept)
            if self._in_time() and (found := self._replay.findings([trial])[0]):
                return trial, found
            good = good[: len(good) // 2]
        return good[0][1], good[0][2]

    def _in_time(self) -> bool:
        return time.monotonic() < self._deadline


def _with(script: Script, part: str, items: tuple[Any, ...]) -> Script:
    changes: dict[str, Any] = {part: items}
    return replace(script, **changes)


def _size(script: Script) -> int:
    return len(script.steps) + len(script.layers) + len(script.before) + len(script.options) + len(script.ours)
