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
from tests.oracle.intended import INTENDED
from tests.oracle.suites import SUITES
from tests.support.mounts import Driver


def every_case() -> Iterator[ParameterSet]:
    """One parameter set per case, and one per shared mount for what belongs to no case; each group stays on one worker."""
    for suite in SUITES:
        for name in suite.cases if suite.alone else [WHOLE, *suite.cases]:
            group = f"{suite.name}-{name}" if suite.alone else suite.name
            yield pytest.param(suite, name, id=f"{suite.name}-{name or 'whole'}", marks=pytest.mark.xdist_group(group))


@pytest.mark.parametrize(("suite", "name"), list(every_case()))
def test_as_the_kernel(suite: Suite, name: str, run_case: RunCase, subject: Driver) -> None:
    findings = run_case(suite, name)
    unexpected, missing = judge(suite.name, name, findings) if subject.name == "unionfs" else (findings, [])
    assert not unexpected, f"{len(unexpected)} differences\n" + "\n".join(map(str, unexpected[:20]))
    assert not missing, "intended differences that are gone:\n" + "\n".join(missing)


def judge(suite: str, case: str, findings: list[Finding]) -> tuple[list[Finding], list[str]]:
    """Takes the intended differences out: what is left, and which intended ones did not show."""
    intended = {(entry.where, entry.key, entry.ours): entry for entry in INTENDED if (entry.suite, entry.case) == (suite, case)}
    unexpected = [finding for finding in findings if intended.pop((finding.where, finding.key, finding.ours), None) is None]
    return unexpected, [f"{entry.where} {entry.key}: {entry.reason}" for entry in intended.values()]


def test_intended_differences_name_cases() -> None:
    known = {(suite.name, case) for suite in SUITES for case in suite.cases}
    assert {(entry.suite, entry.case) for entry in INTENDED} <= known
