"""Suites: which sequences of operations are compared?"""

from __future__ import annotations

from dataclasses import replace

from tests.oracle.case import Suite
from tests.oracle.cases_access import ACCESS, CLEAR
from tests.oracle.cases_change import CREATE, REMOVE, ROOT
from tests.oracle.cases_copyup import COPYUP
from tests.oracle.cases_files import FILES, UNLINKED
from tests.oracle.cases_index import EXPORT, INDEX
from tests.oracle.cases_lookup import LOOKUP
from tests.oracle.cases_marks import MARKS
from tests.oracle.cases_metacopy import METACOPY, METACOPY_SUITES
from tests.oracle.cases_mistakes import MISTAKES, MISTAKES_AT_ROOT
from tests.oracle.cases_passthrough import LOWER_OPERATIONS, OPERATIONS
from tests.oracle.cases_redirect import REDIRECT
from tests.oracle.cases_rename import MATRIX, RENAME

SUITES: list[Suite] = [
    MISTAKES, MISTAKES_AT_ROOT, LOOKUP, CREATE, REMOVE, ROOT, COPYUP, FILES, UNLINKED, OPERATIONS, LOWER_OPERATIONS, ACCESS,
    CLEAR, RENAME, REDIRECT, MARKS, *METACOPY_SUITES, INDEX, EXPORT, *MATRIX,
]  # fmt: skip

OF_OPEN_FILES: list[Suite] = [MISTAKES, COPYUP, FILES, UNLINKED, OPERATIONS, LOWER_OPERATIONS, METACOPY]
"""Those whose answers could depend on how open files are served, or on whether a lower layer could be written to."""

HELD_BACK_SUITES: list[Suite] = [
    replace(suite, cases={name: case for name, case in suite.cases.items() if not name.startswith("beyond-the-filesystem")})
    for suite in OF_OPEN_FILES
]
"""The same where the kernel holds writes back: what the upper filesystem can't hold is found out later (test_writeback)."""

AT_ONCE: list[Suite] = [FILES, OPERATIONS]
"""Those whose answers could depend on whether writes are held back."""
