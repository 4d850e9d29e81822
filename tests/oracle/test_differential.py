"""Does every sequence of operations come out on unionfs as on the kernel's overlayfs: results, trees, uppers, and mounted
crosswise?
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.oracle.case import Suite
from tests.oracle.compare import WHOLE, Finding
from tests.oracle.conftest import RunCase
from tests.oracle.intended import HELD_BACK, INTENDED, TRACES_OF_A_FAILED_RENAME, Intended
from tests.oracle.suites import AT_ONCE, HELD_BACK_SUITES, OF_OPEN_FILES, SUITES
from tests.support.mounts import Driver


def every_case(suites: list[Suite], variant: str = "") -> Iterator[ParameterSet]:
    """One parameter set per case, and one per shared mount for what belongs to no case; each group stays on one worker."""
    for suite in suites:
        for name in suite.cases if suite.alone else [WHOLE, *suite.cases]:
            group = f"{suite.name}-{name}{variant}" if suite.alone else f"{suite.name}{variant}"
            yield pytest.param(suite, name, id=f"{suite.name}-{name or 'whole'}", marks=pytest.mark.xdist_group(group))


@pytest.mark.parametrize(("suite", "name"), list(every_case(SUITES)))
def test_as_the_kernel(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    check(suite, name, run_case(suite, name), subject)


@pytest.mark.parametrize(("suite", "name"), list(every_case(OF_OPEN_FILES, "-cached-lowers")))
def test_with_lower_files_never_passed_through(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    check(suite, name, run_case(suite, name, {"lower_io": "cached"}), subject)


@pytest.mark.parametrize(("suite", "name"), list(every_case(HELD_BACK_SUITES, "-no-passthrough")))
def test_without_passthrough(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    check(suite, name, run_case(suite, name, {"passthrough": "off"}), subject, [*INTENDED, *HELD_BACK])


@pytest.mark.parametrize(("suite", "name"), list(every_case(AT_ONCE, "-at-once")))
def test_with_writes_sent_at_once(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    check(suite, name, run_case(suite, name, {"passthrough": "off", "writeback": "0"}), subject)


@pytest.mark.parametrize(("suite", "name"), list(every_case(OF_OPEN_FILES, "-fixed-lowers")))
def test_over_lowers_mounted_read_only(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    """Whatever could write to a lower layer, and be forgiven where that can be written to, fails here."""
    check(suite, name, run_case(suite, name, fixed_lowers=True), subject)


def check(
    suite: Suite, name: str, findings: list[Finding], subject: Driver, intended: list[Intended] = INTENDED
) -> None:
    """Fails with what differs without being intended, or is intended and does not differ."""
    unexpected, missing = judge(suite.name, name, findings, intended) if subject.name == "unionfs" else (findings, [])
    assert not unexpected, f"{len(unexpected)} differences\n" + "\n".join(map(str, unexpected[:20]))
    assert not missing, "intended differences that are gone:\n" + "\n".join(missing)


def judge(
    suite: str, case: str, findings: list[Finding], meant: list[Intended] = INTENDED
) -> tuple[list[Finding], list[str]]:
    """Takes the intended differences out: what is left, and which intended ones did not show."""
    intended = {(entry.where, entry.key, entry.ours): entry for entry in meant if (entry.suite, entry.case) == (suite, case)}
    trace = TRACES_OF_A_FAILED_RENAME.get((suite, case))
    if trace is not None:
        left = [finding for finding in findings if finding.where == "step" and "lstat(" not in finding.key]
        return left, [] if len(left) < len(findings) else [trace]
    unexpected = [finding for finding in findings if intended.pop((finding.where, finding.key, finding.ours), None) is None]
    return unexpected, [f"{entry.where} {entry.key}: {entry.reason}" for entry in intended.values()]


def test_intended_differences_name_cases() -> None:
    known = {(suite.name, case) for suite in SUITES for case in suite.cases}
    assert {(entry.suite, entry.case) for entry in [*INTENDED, *HELD_BACK]} <= known
