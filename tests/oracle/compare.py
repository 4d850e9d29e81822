"""Comparison: where do two implementations differ after the same operations on copies of the same layers?"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.oracle.actor import Step, perform
from tests.oracle.case import Steps, Suite
from tests.oracle.child import ChildFailed, in_child
from tests.oracle.ops import Listing
from tests.support.lowers import LowerChanged
from tests.support.mounts import Driver, Layers, LeftBehind, MountFailed, Options, kill_servers, read_only
from tests.support.trees import ABSENT, Record, Tree, diff, differing_fields, snapshot

TREE_SECONDS = 120.0

BOOKKEEPING = ("trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid", "trusted.overlay.nlink")
"""Marks of an upper whose values belong to the filesystem or the mount: they hold file handles, identities and caches, not
content.
"""

WHOLE = ""
"""The name under which a finding that belongs to no case is kept."""


@dataclass(frozen=True)
class Finding:
    """One difference. `where` is step, mount, upper, remount, cross or run; `key` the step's label or path and field; `ours`
    the subject's value.
    """

    where: str
    key: str
    ours: str
    oracle: str

    def __str__(self) -> str:
        return f"[{self.where}] {self.key}: ours {self.ours}, oracle {self.oracle}"


Findings = dict[str, list[Finding]]
"""Case name (or WHOLE) -> its findings."""


@dataclass
class Side:
    """One implementation's run over one copy of the layers."""

    driver: Driver
    layers: Layers
    options: Options
    steps: dict[str, list[Step]] = field(default_factory=dict)
    mounted: Tree = field(default_factory=dict)
    upper: Tree = field(default_factory=dict)
    troubles: list[tuple[str, str, str]] = field(default_factory=list)
    """(case or WHOLE, where, what happened)"""


def compare(
    suite: Suite, names: list[str], base: Path, subject: Driver, oracle: Driver, ours: Options | None = None, *,
    fixed_lowers: bool = False,
) -> tuple[Findings, dict[str, list[Step]]]:  # fmt: skip
    """Builds the layers of the named cases in `base`, runs them on both implementations, and returns every difference, and
    the oracle's steps of each case.

    Compared are each step, the trees seen through the mounts, the uppers on disk; then each upper is mounted again by both
    implementations and must show the tree that was left. Lowers must be untouched. The two drivers may be the same.
    `ours` are the subject's options besides the suite's; with `fixed_lowers` the lowers lie on mounts that are read-only.
    """
    started_ns = time.time_ns() - 1_000_000_000
    master = Layers.create(base / "master", suite.lowers)
    steps = suite.build(master, names)
    sides = []
    for label, driver, options in (("ours", subject, ours), ("oracle", oracle, None)):
        # One cp for all layers, so that hard links, holes, devices, xattrs and times come out the same on both sides.
        subprocess.run(["cp", "-a", "--sparse=auto", os.fspath(base / "master"), os.fspath(base / label)], check=True)
        sides.append(Side(driver, Layers.at(base / label, suite.lowers), {**suite.options, **(options or {})}))
    with read_only([lower for side in sides for lower in side.layers.lowers] if fixed_lowers else []):
        for side in sides:
            _run_side(side, steps, "." if suite.alone else None)
        _mount_again(sides)
    return _findings(suite, names, sides, started_ns), sides[1].steps


def _run_side(side: Side, steps: dict[str, Steps], directory: str | None) -> None:
    try:
        with side.driver.mount(side.layers, side.options) as mnt:
            for name, actions in steps.items():
                _run_case(side, name, actions, mnt / (directory or name))
            side.mounted = _tree(side.layers, "mount", side)
    except (MountFailed, LeftBehind) as failure:
        side.troubles.append((WHOLE, "mount", str(failure)))
    except LowerChanged as failure:
        side.troubles += _changes_of_lowers(failure)
    side.upper = snapshot(side.layers.top)


def _changes_of_lowers(failure: LowerChanged) -> list[tuple[str, str, str]]:
    return [
        (change.split("/")[0], "lower", f"{lower.name}: {change}")
        for lower, changes in failure.changes.items()
        for change in changes
    ]


def holds_back(options: Options) -> bool:
    """With these options of unionfs, are writes held back, and times those of the kernel's FUSE client?"""
    return options.get("passthrough") == "off" and options.get("writeback") != "0"


def _run_case(side: Side, name: str, actions: Steps, directory: Path) -> None:
    try:
        side.steps[name] = perform(actions, directory, side.layers.mnt, ticking=holds_back(side.options))
    except ChildFailed as failure:
        side.troubles.append((name, "run", str(failure)))


def _tree(layers: Layers, where: str, side: Side) -> Tree:
    """The tree seen through a mount, read in a child because a broken mount may never answer."""
    try:
        tree = in_child(lambda: snapshot(layers.mnt), TREE_SECONDS, lambda: kill_servers(layers.mnt))
        return {path: record for path, record in tree.items() if record.type != ABSENT}
    except ChildFailed as failure:
        side.troubles.append((WHOLE, where, str(failure)))
        return {}


def _mount_again(sides: list[Side]) -> None:
    """Mounts each side's upper with its own implementation and with the other; both must show what the first mount left."""
    for side, other in ((sides[0], sides[1]), (sides[1], sides[0])):
        for where, by in (("remount", side), ("cross", other)):
            driver = by.driver
            if where == "cross" and driver.name == side.driver.name:
                continue
            try:
                with driver.mount(side.layers, by.options):
                    again = _tree(side.layers, where, side)
            except (MountFailed, LeftBehind) as failure:
                side.troubles.append((WHOLE, where, str(failure)))
                continue
            except LowerChanged as failure:
                side.troubles += _changes_of_lowers(failure)
            for change in diff(side.mounted, again, ("left", "found")):
                side.troubles.append((change.split("/")[0].split(":")[0], where, f"mounted by {driver.name}: {change}"))


def _findings(suite: Suite, names: list[str], sides: list[Side], started_ns: int) -> Findings:
    found: Findings = {WHOLE: [], **{name: [] for name in names}}

    def put(path: str, finding: Finding) -> None:
        case = names[0] if suite.alone else path.split("/")[0]
        found[case if case in found else WHOLE].append(finding)

    ours, oracle = sides
    for name in names:
        for finding in _step_findings(ours.steps.get(name, []), oracle.steps.get(name, [])):
            found[name].append(finding)
    for side in sides:
        for case, where, text in side.troubles:
            empty = "as it should be"
            put(case, Finding(where, text, *(("so", empty) if side is ours else (empty, "so"))))
    for where, left, right in (("mount", ours.mounted, oracle.mounted), ("upper", ours.upper, oracle.upper)):
        mine, theirs = (normal(tree, started_ns, on_disk=where == "upper") for tree in (left, right))
        for path, key, our_value, their_value in _tree_findings(mine, theirs):
            put(path, Finding(where, key, our_value, their_value))
    return found


def _step_findings(ours: list[Step], oracle: list[Step]) -> Iterator[Finding]:
    for number in range(max(len(ours), len(oracle))):
        mine = ours[number] if number < len(ours) else None
        theirs = oracle[number] if number < len(oracle) else None
        if not same_step(mine, theirs):
            label = (mine or theirs or Step("", "")).label
            yield Finding("step", f"{number} {label}", _result(mine), _result(theirs))


def same_step(ours: Step | None, oracle: Step | None) -> bool:
    """Whether two steps come to the same.

    Of listings, ours may be right where the oracle's are not; that they are right everywhere is test_own's to prove.
    """
    if ours and oracle and isinstance(ours.value, Listing) and isinstance(oracle.value, Listing):
        worse = set(ours.value.unequal) - set(oracle.value.unequal) or set(ours.value.absent) - set(oracle.value.absent)
        return ours.label == oracle.label and ours.value.entries == oracle.value.entries and not worse
    return ours == oracle


def _result(step: Step | None) -> str:
    if step is None:
        return "not reached"
    return step.outcome if step.value is None else f"{step.outcome} {step.value!r}"


def _tree_findings(ours: Tree, oracle: Tree) -> Iterator[tuple[str, str, str, str]]:
    for path in sorted(ours.keys() | oracle.keys()):
        if path not in ours or path not in oracle:
            present = [tree[path].type if path in tree else "absent" for tree in (ours, oracle)]
            yield path, path, present[0], present[1]
            continue
        for name, mine, theirs in differing_fields(ours[path], oracle[path]):
            yield path, f"{path} {name}", mine, theirs


def normal(tree: Tree, started_ns: int, on_disk: bool) -> Tree:
    """A tree with what may differ between two runs taken out.

    Times of the run itself become -1 ("now"); on disk, a whiteout is a whiteout whatever its mode, owner, time and links, and
    BOOKKEEPING marks are left out.
    """
    return {path: _normal_record(record, started_ns, on_disk) for path, record in tree.items()}


def _normal_record(record: Record, started_ns: int, on_disk: bool) -> Record:
    if on_disk and record.type == "char" and record.rdev == (0, 0):
        return Record(type="whiteout")
    changes: dict[str, object] = {}
    if record.mtime_ns is not None and record.mtime_ns >= started_ns and record.mtime_ns < started_ns + (1 << 42):
        changes["mtime_ns"] = -1
    if on_disk and record.xattrs:
        changes["xattrs"] = tuple(pair for pair in record.xattrs if pair[0] not in BOOKKEEPING)
    return Record(**{**record.__dict__, **changes})
