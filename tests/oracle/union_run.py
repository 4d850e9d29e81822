"""Runs: how are many scripts done in step on unionfs and on the kernel's overlayfs, remounted and mounted crosswise on the way?

Each script has a directory of its own (a lane) on the same two mounts.
"""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import assert_nothing_left
from tests.oracle.compare import BOOKKEEPING, Finding, normal
from tests.oracle.io_worker import Answer, Worker, WorkerLost
from tests.oracle.ops import Listing
from tests.oracle.union_script import Call, Entry, Fill, Script, give_times
from tests.oracle.union_worker import LaneHands, State, View
from tests.support import lowers
from tests.support.mounts import Driver, Kernel, Layers, LeftBehind, MountFailed, kill_servers, unmount
from tests.support.trees import Tree, differing_fields, snapshot

ANSWER_SECONDS = 30.0

GONE = ("ENOTCONN", "ECONNABORTED")
"""What a union answers whose server has died."""

WHOLE = -1
"""Stands for the lane of what belongs to no lane."""

RENAMED_NS = 2
"""The modification time that both parents get after a rename that failed."""


@dataclass
class Side:
    """One of the two unions: its layers, who serves it, and the process that acts there."""

    label: str
    driver: Driver
    layers: Layers
    worker: Worker | None = None
    progress: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, mmap.PAGESIZE))

    def ask(self, command: str, *arguments: object) -> object:
        """What a command of LaneHands answers."""
        self.send(command, *arguments)
        return self.receive()

    def send(self, command: str, *arguments: object) -> None:
        """Has a command begin."""
        assert self.worker is not None
        self.worker.send(command, *arguments)

    def receive(self) -> object:
        """What a command that was sent answers; Lost when nothing comes."""
        assert self.worker is not None
        try:
            answer = self.worker.receive(ANSWER_SECONDS)
        except WorkerLost as loss:
            kill_servers(self.layers.mnt)
            raise Lost(self, int.from_bytes(self.progress[:4], "little")) from loss
        assert answer.outcome == "ok", answer
        return answer.value


class Lost(Exception):
    """A union does not answer any more; `lane` was at work there."""

    def __init__(self, side: Side, lane: int) -> None:
        super().__init__(f"{side.driver.name} gives no answer")
        self.side, self.lane = side, lane


class UnionRun:
    """Two unions, and lanes on them."""

    def __init__(self, base: Path, subject: Driver, kind: Script, lanes: Sequence[Sequence[Entry]]) -> None:
        """Makes the layers, one directory for each lane; `kind` says how many and with what options they'll be mounted."""
        self._base, self._subject, self._options = base, subject, dict(kind.options)
        self._ours = dict(kind.ours) if subject.name == "unionfs" else {}
        self.findings: dict[int, list[Finding]] = {WHOLE: [], **{number: [] for number in range(len(lanes))}}
        self.steps = 0
        self._numbers: dict[int, tuple[View, View]] = {}
        self._linked = {number for number, entries in enumerate(lanes) if any(entry.kind == "link" for entry in entries)}
        self._started_ns = time.time_ns() - 1_000_000_000
        base.mkdir()
        master = Layers.create(base / "master", kind.lowers)
        prefix = "user.overlay." if "userxattr" in kind.options else "trusted.overlay."
        for layer in (*master.lowers, master.top):
            for number, entries in enumerate(lanes):
                fill = Fill(layer / str(number), prefix)
                for entry in entries:
                    if entry.layer == layer.name:
                        fill.build(entry)
            give_times(layer, list(snapshot(layer, leave_out=("digest", "xattrs", "holes"))))
        self.sides: list[Side] = []
        self._foreign: list[Path] = []
        for label, driver in (("ours", subject), ("oracle", Kernel())):
            layers = Layers.at(base / label, kind.lowers)
            layers.lowers[-1].mkdir(parents=True)
            if kind.foreign:
                subprocess.run(["mount", "-t", "tmpfs", "tmpfs", os.fspath(layers.lowers[-1])], check=True)
                self._foreign.append(layers.lowers[-1])
            subprocess.run(["cp", "-a", "--sparse=auto", f"{base}/master/.", os.fspath(base / label)], check=True)
            self.sides.append(Side(label, driver, layers))

    @property
    def ours(self) -> Side:
        """The union that the implementation under test serves now."""
        return next(side for side in self.sides if side.driver is self._subject)

    @property
    def oracle(self) -> Side:
        """The union that the oracle serves now."""
        return next(side for side in self.sides if side.driver is not self._subject)

    # ------------------------------------------------------------------------------------------------------------ mounting

    def begin_before(self) -> None:
        """Mounts the kernel's overlayfs on both sides with lower0 as the upper."""
        options = {name: value for name, value in self._options.items() if name not in ("volatile", "fsync")}
        if "userxattr" not in options:
            options["redirect_dir"] = "on"
        for side in self.sides:
            Kernel().start(_before(side.layers), options)
        self._enter()

    def end_before(self) -> None:
        """Unmounts again: lower0 is a layer as the kernel makes it."""
        self._leave()
        for side in self.sides:
            lowers.changes_meant(side.layers.lowers[0])
            shutil.rmtree(side.layers.mnt.parent / "before")

    def start(self) -> None:
        """Mounts both. A mount that fails is a finding for all lanes; raises MountFailed."""
        for side in self.sides:
            shutil.rmtree(side.layers.mnt.parent / "work/work/incompat", ignore_errors=True)
            options = {**self._options, **(self._ours if side.driver is self._subject else {})}
            try:
                side.driver.start(side.layers, options)
            except MountFailed as failure:
                self._put(WHOLE, "mount", f"{side.label}'s layers, {options}", side, str(failure), "mounted")
                raise
        self._enter()

    def _enter(self) -> None:
        for side in self.sides:
            side.worker = Worker(lambda progress=side.progress: LaneHands(progress))  # type: ignore[misc]
            directories = {number: os.fspath(side.layers.mnt / str(number)) for number in self.findings if number != WHOLE}
            side.ask("enter", directories)

    def _leave(self) -> None:
        for side in self.sides:
            if side.worker is not None:
                side.worker.end()
                side.worker = None
            unmount(side.layers.mnt)

    def remount(self, name: str, options: Mapping[str, str | None]) -> None:
        """Unmounts both, and mounts them with these options; crosswise if `name` is `cross`."""
        self._leave()
        self._check_disk()
        self._options = dict(options)
        if name == "cross":
            self.sides[0].driver, self.sides[1].driver = self.sides[1].driver, self.sides[0].driver
            self._numbers = {}
        self.start()

    # -------------------------------------------------------------------------------------------------------------- acting

    def act(self, calls: Mapping[int, Call]) -> dict[int, Answer]:
        """One call in each of some lanes, on both; the oracle's answers of those that were tried. What differs is a finding."""
        wanted = list(calls.items())
        reasons = self.oracle.ask("reasons_against", wanted)
        assert isinstance(reasons, list)
        chosen = [pair for pair, reason in zip(wanted, reasons, strict=True) if not reason]
        if not chosen:
            return {}
        ours, oracle = self._both("act", chosen)
        assert isinstance(ours, list)
        assert isinstance(oracle, list)
        self.steps += len(chosen)
        answers: dict[int, Answer] = {}
        failed_renames: list[tuple[int, Call]] = []
        for (number, call), mine, theirs in zip(chosen, ours, oracle, strict=True):
            answers[number] = theirs
            if mine.outcome in GONE:
                raise Lost(self.ours, number)
            if not _same(mine, theirs):
                self.findings[number].append(Finding("step", str(call), _text(mine), _text(theirs)))
            if theirs.outcome == "ok":
                self._follow(number, call)
            elif call.name == "rename":
                failed_renames += [(number, Call("utime", (os.path.dirname(str(path)) or ".", 1, RENAMED_NS)))
                                   for path in call.args[:2]]  # fmt: skip
        if failed_renames:
            self._both("act", failed_renames)
        return answers

    def act_before(self, calls: Mapping[int, Call]) -> None:
        """One call in each of some lanes, while lower0 is being made."""
        calls = {number: call for number, call in calls.items() if not self._links_what_takes_no_mark(number, call)}
        self._linked |= {number for number, call in calls.items() if call.name == "link"}
        ours, oracle = self._both("act", list(calls.items()))
        assert ours == oracle, (calls, ours, oracle)

    def _links_what_takes_no_mark(self, number: int, call: Call) -> bool:
        """NO_ORIGIN: with index=on the kernel fails to copy up what has several names then (EPERM), and never mounts again."""
        if call.name != "link" or "userxattr" not in self._options:
            return False
        source = self.ours.layers.mnt / str(number) / str(call.args[0])
        return os.path.lexists(source) and not stat.S_ISREG(os.lstat(source).st_mode)

    def _both(self, command: str, *arguments: object) -> tuple[object, object]:
        """What ours and what the oracle answers."""
        for side in self.sides:
            side.send(command, *arguments)
        answers = {side.label: side.receive() for side in self.sides}
        return answers[self.ours.label], answers[self.oracle.label]

    def states(self, numbers: Sequence[int]) -> dict[int, State]:
        """What there is in some lanes, as the oracle says."""
        found = self.oracle.ask("states", numbers)
        assert isinstance(found, dict)
        return found

    def look(self, numbers: Sequence[int]) -> None:
        """Compares everything that shows in some lanes, and inode numbers with those of the last look."""
        ours, oracle = self._both("views", numbers)
        assert isinstance(ours, dict)
        assert isinstance(oracle, dict)
        for number in numbers:
            mine, theirs = (self._settled(view.tree, on_disk=False) for view in (ours[number], oracle[number]))
            if self._may_differ_on_disk(number):
                mine, theirs = _without_counts(mine), _without_counts(theirs)
            self._compare(number, "look", mine, theirs)
            if number in self._numbers:
                self._compare_numbers(number, self._numbers[number], (ours[number], oracle[number]))
            self._numbers[number] = ours[number], oracle[number]

    def _follow(self, number: int, call: Call) -> None:
        """Keeps the numbers of the last look with the names, after a call that worked."""
        if call.name not in ("unlink", "rmdir", "rename") or number not in self._numbers:
            return
        for view in self._numbers[number]:
            moved = _taken(view.numbers, str(call.args[0]))
            if call.name == "rename":
                exchanged = _taken(view.numbers, str(call.args[1]))
                view.numbers.update({f"{call.args[1]}{rest}": ino for rest, ino in moved.items()})
                if call.args[2] == "EXCHANGE":
                    view.numbers.update({f"{call.args[0]}{rest}": ino for rest, ino in exchanged.items()})

    def _compare_numbers(self, number: int, before: tuple[View, View], now: tuple[View, View]) -> None:
        """Where the oracle's number of a name is still the same, so is ours."""
        for path, ino in now[1].numbers.items():
            if "userxattr" in self._options and now[1].tree[path].type not in ("file", "dir"):  # NO_ORIGIN
                continue
            if before[1].numbers.get(path) == ino and path in before[0].numbers:
                was, is_now = before[0].numbers[path], now[0].numbers.get(path)
                if was != is_now:
                    self.findings[number].append(Finding("st_ino", path, f"{was} -> {is_now}", f"stays {ino}"))

    # ------------------------------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Compares all that shows and the uppers, then has each upper mounted by the other implementation: nothing may change."""
        numbers = [number for number in self.findings if number != WHOLE and not self.findings[number]]
        self.look(numbers)
        left = {side.label: side.ask("views", numbers) for side in self.sides}
        self._leave()
        self._check_disk()
        trees = [self._settled(snapshot(side.layers.top), on_disk=True) for side in (self.ours, self.oracle)]
        for number in numbers:
            mine, theirs = (
                {path: record for path, record in tree.items() if path.split("/")[0] == str(number)} for tree in trees
            )
            if not self._may_differ_on_disk(number):
                self._compare(number, "upper", mine, theirs)
        for side in self.sides:
            side.driver = Kernel() if side.driver is self._subject else self._subject
        self.start()
        for side in self.sides:
            before, now = left[side.label], side.ask("views", numbers)
            assert isinstance(before, dict)
            assert isinstance(now, dict)
            for number in numbers:
                for path, key, found, was in _differences(now[number].tree, before[number].tree):
                    if key == "same" and "userxattr" in self._options and now[number].tree[path].type != "file":  # NO_ORIGIN
                        continue
                    key = f"{side.label}'s layers: {path} {key}"
                    self._put(number, "cross", key, side, f"shows {found}", f"left {was}")
        self._leave()
        self._check_disk()

    def close(self) -> None:
        """Ends and unmounts whatever there still is, and removes it."""
        for side in self.sides:
            if side.worker is not None:
                kill_servers(side.layers.mnt)
        with suppress(LeftBehind):
            self._leave()
        for side in self.sides:
            with suppress(LeftBehind):
                unmount(side.layers.mnt)
        for lower in self._foreign:
            subprocess.run(["umount", os.fspath(lower)], check=True)
        assert_nothing_left(self._base)
        lowers.forget(self._base)
        shutil.rmtree(self._base)

    def _may_differ_on_disk(self, number: int) -> bool:
        """Whether it is open which names of a file are on the upper (WHICH_NAME)."""
        return self._options.get("index") == "on" and number in self._linked

    def _check_disk(self) -> None:
        """The lowers are as they were, and nothing unfinished is left in the work directory, but a whiteout to be linked."""
        for side in self.sides:
            try:
                lowers.check(side.layers.lowers)
            except lowers.LowerChanged as failure:
                for changes in failure.changes.values():
                    for change in changes:
                        lane = change.split("/")[0].split(":")[0]
                        self._put(int(lane) if lane.isdigit() else WHOLE, "lower", change, side, "changed", "untouched")
            assert side.layers.work is not None
            work = side.layers.work / "work"
            left = [path.name for path in work.glob("*") if path.name != "incompat" and not path.is_char_device()]
            if left and side.driver is self._subject:
                self._put(WHOLE, "work", "work directory", side, f"{left} left", "empty")

    def _put(self, number: int, where: str, key: str, side: Side, found: str, wanted: str) -> None:
        values = (found, wanted) if side.driver is self._subject else (wanted, found)
        self.findings[number].append(Finding(where, key, *values))

    def _compare(self, number: int, where: str, ours: Tree, oracle: Tree) -> None:
        for path, key, mine, theirs in _differences(ours, oracle):
            if key == "mtime_ns" and self._options.get("metacopy") == "on" and "-1" in (mine, theirs):  # DATA_FOLLOW
                continue
            self.findings[number].append(Finding(where, f"{path} {key}", mine, theirs))

    def _settled(self, tree: Tree, on_disk: bool) -> Tree:
        """A tree without what may differ between two runs."""
        tree = normal(tree, self._started_ns, on_disk)
        if "userxattr" in self._options:  # NO_ORIGIN
            tree = {path: record if record.type == "file" else record.without(["same"]) for path, record in tree.items()}
        if not on_disk:
            return tree
        marks = {mark.replace("trusted.", "user.") for mark in BOOKKEEPING}
        for path, record in tree.items():
            kept = tuple(pair for pair in record.xattrs or () if pair[0] not in marks)
            if "userxattr" in self._options and kept != record.xattrs and record.xattrs is not None:
                tree[path] = type(record)(**{**record.__dict__, "xattrs": kept})
        return tree


def _before(layers: Layers) -> Layers:
    work = layers.mnt.parent / "before"
    work.mkdir()
    return Layers(layers.lowers[1:], layers.lowers[0], work, layers.mnt)


def _same(ours: Answer, oracle: Answer) -> bool:
    """Whether two answers come to the same; of listings, ours may be right where the oracle's are not."""
    mine, theirs = ours.value, oracle.value
    if isinstance(mine, Listing) and isinstance(theirs, Listing):
        worse = set(mine.unequal) - set(theirs.unequal) or set(mine.absent) - set(theirs.absent)
        return mine.entries == theirs.entries and not worse
    return ours == oracle


def _without_counts(tree: Tree) -> Tree:
    """Without the link counts of directories, which tell whether they are on the upper, too."""
    return {path: record.without(["nlink"]) if record.type == "dir" else record for path, record in tree.items()}


def _taken(numbers: dict[str, int], path: str) -> dict[str, int]:
    """Takes a name and all below it out; the rest of each path -> its number."""
    found = [known for known in numbers if known == path or known.startswith(f"{path}/")]
    return {known[len(path) :]: numbers.pop(known) for known in found}


def _text(answer: Answer) -> str:
    return answer.outcome if answer.value is None else f"{answer.outcome} {answer.value!r}"


def _differences(ours: Tree, oracle: Tree) -> list[tuple[str, str, str, str]]:
    """(path, field, ours, oracle's) of all that differs."""
    found: list[tuple[str, str, str, str]] = []
    for path in sorted(ours.keys() | oracle.keys()):
        if path in ours and path in oracle:
            found += [(path, *difference) for difference in differing_fields(ours[path], oracle[path])]
        else:
            kinds = [tree[path].type if path in tree else "absent" for tree in (ours, oracle)]
            found.append((path, "is", kinds[0], kinds[1]))
    return found
