"""What can't unionfs do with `binding=pyfuse3`?  The one list of expected differences (unionfs(8), "A SECOND BINDING").

`UNIONFS_TEST_BINDING=pyfuse3 pytest` runs every test that mounts unionfs over pyfuse3, but for those named here.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

ALLOCATE = "there is no fallocate(2)"
SEEK = "SEEK_DATA and SEEK_HOLE take a file for data up to its end"
NAMELESS = "there is no O_TMPFILE"
BIRTH = "statx(2) tells no time of birth"
TWICE = "of two nodes with one inode number one is listed with another"
KNOWN_FIRST = "listings make all names of a file known, and with index=on the one known first is copied up"
FLAGS = "there are no ioctls"
PASSED = "there is no passthrough"
HANDLES = "handles are handed out also without nfs_export, and become stale"
SLOW = "it takes longer than a test may"

CASES: dict[str, str] = {
    "*-fallocate-*": ALLOCATE,
    "*-allocate-*": ALLOCATE,
    "unlinked*-read-write-*": ALLOCATE,
    "*-seek-*": SEEK,
    "*-holes-are-kept": SEEK,
    "*-sparse-file-over-4-gib": SEEK,
    "*-temporary-file*": NAMELESS,
    "*-birth-time-exists": BIRTH,
    "redirect*-marks-of-lower-layers": TWICE,
    "index-over-two-layers": KNOWN_FIRST,
}
"""Cases of the oracle, as SUITE-CASE, that come out otherwise, and why."""

TESTS: dict[str, str] = {
    "tests/serve/*": "these drive the session, or handlers without a mount",
    "tests/clients/test_io_path.py*": PASSED,
    "tests/clients/test_layer_filesystems.py*": PASSED,
    "tests/clients/test_no_requests.py*": PASSED,
    "tests/clients/test_page_cache_sharing.py*": PASSED,
    "tests/clients/test_stacking.py*": PASSED,
    "tests/clients/test_status.py*": PASSED,
    "tests/oracle/test_io_modes.py*": PASSED,
    "tests/oracle/test_moves.py*": PASSED,
    "tests/oracle/test_protection.py*": FLAGS,
    "tests/clients/test_handles.py::test_off": HANDLES,
    "tests/clients/test_directories.py::test_a_directory_of_a_hundred_thousand_names": SLOW,
    "*passthrough=on*": PASSED,
}
"""Tests, by their ids, that ask for what is not there, and why."""


def lacking(suite: str, case: str) -> str | None:
    """Why a case of the oracle comes out otherwise; None if it does not."""
    return next((why for pattern, why in CASES.items() if fnmatchcase(f"{suite}-{case}", pattern)), None)


def is_expected_to_differ(nodeid: str) -> bool:
    """Is a test left out when all tests run over pyfuse3?"""
    name = nodeid.partition("[")[2].rpartition("]")[0]
    patterns = [pattern for pattern in TESTS if fnmatchcase(nodeid, pattern)]
    return bool(patterns) or any(fnmatchcase(name, pattern) for pattern in CASES)
