"""Do random operations come out on unionfs as on the kernel's overlayfs, whatever the options, and whoever goes on with a layer?

For a long run:
`UNIONFS_ORACLE_MACHINE_SECONDS=3600 UNIONFS_TEST_SEED=random python -m pytest -s tests/oracle/test_union_machine.py -k machine`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.oracle.cases_regressions import REGRESSIONS
from tests.oracle.compare import Finding
from tests.oracle.union_machine import RULES, Different, Search, UnionMachine
from tests.oracle.union_options import RULES as OPTION_RULES
from tests.oracle.union_options import Chosen
from tests.oracle.union_replay import Replay, Shrinker
from tests.oracle.union_script import Script
from tests.support import seeds
from tests.support.mounts import Driver

SECONDS = float(os.environ.get("UNIONFS_ORACLE_MACHINE_SECONDS", "120"))
"""How long examples are drawn."""

SHRINK_SECONDS = float(os.environ.get("UNIONFS_ORACLE_SHRINK_SECONDS", "120"))

ONE_EXAMPLE = settings(
    max_examples=2,  # the first is always the same, and none (UnionMachine.begin)
    stateful_step_count=RULES,
    print_blob=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""What differs is made shorter by Shrinker, many attempts to a mount; hypothesis would mount for each."""


def given_options() -> Chosen | None:
    """UNIONFS_ORACLE_OPTIONS, such as `redirect_dir=on,index=on`: the options of every example."""
    given = os.environ.get("UNIONFS_ORACLE_OPTIONS")
    if given is None:
        return None
    options: Chosen = {}
    for one in filter(None, given.split(",")):
        name, equals, value = one.partition("=")
        options[name] = value if equals else None
    assert all(rule(options) for rule in OPTION_RULES), f"these don't go together: {given}"
    return options


@pytest.mark.timeout(SECONDS + SHRINK_SECONDS + 300)
def test_machine(scratch: Path, subject: Driver, capfd: pytest.CaptureFixture[str]) -> None:
    number = seeds.FIRST
    with capfd.disabled():
        print(f"\nrandom scripts from UNIONFS_TEST_SEED={number} on", file=sys.stderr)
    search = Search(scratch, subject, options=given_options())
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or not search.examples:
        machine = type("SeededMachine", (UnionMachine,), {"search": search})
        try:
            run_state_machine_as_test(seed(number)(machine), settings=ONE_EXAMPLE)
        except Different:
            break
        except Exception:
            print(f"UNIONFS_TEST_SEED={number} repeats this")
            if not search.has_failed():
                raise
            break
        number += 1
    with capfd.disabled():
        print(f"\n{search.steps} steps on both in {search.examples} examples with {search.remounts} remounts", file=sys.stderr)
    if search.failed is not None:
        pytest.fail(f"UNIONFS_TEST_SEED={number} repeats this\n{report(*search.failed, Replay(scratch, subject))}")


def report(script: Script, first: list[Finding], replay: Replay) -> str:
    """What was found, as a script to be kept in cases_regressions."""
    shorter, found = Shrinker(replay, SHRINK_SECONDS).shrink(script)
    seen = [] if found else ["(not seen again when the script alone is run)"]
    return "\n".join([str(shorter), "findings:", *map(str, (found or first)[:20]), *seen])


def groups() -> dict[str, list[Script]]:
    """The regressions that can share a mount, by the names of the first and the number of the others."""
    by_mount: dict[tuple[object, ...], list[Script]] = {}
    for script in REGRESSIONS:
        by_mount.setdefault(script.mount, []).append(script)
    return {f"{found[0].name}+{len(found) - 1}": found for found in by_mount.values()}


@pytest.mark.parametrize("scripts", [pytest.param(found, id=name) for name, found in groups().items()])
def test_regressions(scripts: list[Script], scratch: Path, subject: Driver) -> None:
    found = Replay(scratch, subject).findings(scripts)
    different = {script.name: findings for script, findings in zip(scripts, found, strict=True) if findings}
    assert not different, "\n".join(f"{name}: {finding}" for name, all_ in different.items() for finding in all_)
