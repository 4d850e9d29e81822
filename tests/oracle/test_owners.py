"""Do operations come out as on the kernel's overlayfs where owners are mapped, or kept in xattrs?"""

from __future__ import annotations

import pytest

from tests.oracle.case import Suite
from tests.oracle.cases_access import ACCESS
from tests.oracle.cases_change import CREATE
from tests.oracle.cases_copyup import COPYUP
from tests.oracle.cases_files import UNLINKED
from tests.oracle.cases_rename import RENAME
from tests.oracle.compare import WHOLE
from tests.oracle.conftest import RunCase
from tests.oracle.test_differential import judge
from tests.support.mounts import Driver, Options

SAME: Options = {"uidmapping": "0:0:4294967295", "gidmapping": "0:0:4294967295"}
KEPT: Options = {"xattr_permissions": "2"}
SEEN = ("step", "mount", "remount", "run", "lower")
"""All that can be compared where the upper layers are not in the same form."""


def names(suite: Suite) -> list[str]:
    return [WHOLE, *suite.cases]


@pytest.mark.parametrize("suite", [COPYUP], ids=lambda suite: suite.name)
def test_mapped_to_themselves(suite: Suite, run_case: RunCase, subject: Driver) -> None:
    """The ids go the whole way there and back, and the upper layers are the same."""
    unexpected = [str(finding) for name in names(suite) for finding in judge(suite.name, name, run_case(suite, name, SAME))[0]]
    assert unexpected == []


@pytest.mark.parametrize("suite", [CREATE, RENAME, UNLINKED, ACCESS], ids=lambda suite: suite.name)
def test_kept_in_xattrs(suite: Suite, run_case: RunCase, subject: Driver) -> None:
    """All but access control lists, which such an upper layer does not have."""
    found = [
        (name, finding)
        for name in names(suite)
        if "acl" not in name
        for finding in judge(suite.name, name, run_case(suite, name, KEPT))[0]
    ]
    assert [f"{name}: {finding}" for name, finding in found if finding.where in SEEN] == []
    assert any("override_stat" in finding.ours for _, finding in found if finding.where == "upper")
