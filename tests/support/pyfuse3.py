"""What can't unionfs do with `binding=pyfuse3`?  The one list of expected differences (unionfs(8), "A SECOND BINDING").

`UNIONFS_TEST_BINDING=pyfuse3 pytest` runs every test that mounts unionfs over pyfuse3, but for those named here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase

from tests.support.mounts import BINDING

ALLOCATE = "there is no fallocate(2)"
SEEK = "SEEK_DATA and SEEK_HOLE take a file for data up to its end"
NAMELESS = "there is no O_TMPFILE"
BIRTH = "statx(2) tells no time of birth"
UMASK = "the umask counts also where there is a default access control list"
DROPPED = "asking for changed attributes writes changed pages back, and with them the times"
KEPT = "a capability stays that the native binding can't keep"
NOW = "the present time is set like any other, which no append-only file takes"
FLAGS = "there are no ioctls"
PASSED = "there is no passthrough"
IDS = "no other ids can be mapped over the mount"
HANDLES = "handles are handed out also without nfs_export, and become stale"

CALLS: dict[str, str] = {
    "fallocate": ALLOCATE,
    "punch": ALLOCATE,
    "extents": SEEK,
    "has_btime": BIRTH,
    "tmpfile": NAMELESS,
}
"""Calls that sequences of the oracle leave out, on both sides; of `seek`, those for data and holes."""

CASES: dict[str, str] = {
    "access*-default-acls-and-umask": UMASK,
    "files-with-metacopy-fallocate-*": ALLOCATE,
    "operations-allocate-while-mapped-*": ALLOCATE,
    "operations-write-directly-*": DROPPED,
    "set-ids-chown-nothing-6777-upper-by-1001": KEPT,
}
"""Cases of the oracle, as SUITE-CASE, that come out otherwise even without those calls, and why."""

TESTS: dict[str, str] = {
    "tests/serve/*": "these drive the session, or handlers without a mount",
    "tests/clients/test_io_path.py::test_an_upper_files_data_never_comes_to_the_server": PASSED,
    "tests/clients/test_io_path.py::test_a_file_is_settled_once_it_is_copied_up": PASSED,
    "tests/clients/test_layer_filesystems.py*": PASSED,
    "tests/clients/test_no_requests.py*": PASSED,
    "tests/clients/test_page_cache_sharing.py*": PASSED,
    "tests/clients/test_stacking.py*": PASSED,
    "tests/clients/test_status.py*": PASSED,
    "tests/oracle/test_access_times.py::test_access_times[[]strictatime-auto*": PASSED,
    "tests/oracle/test_protection.py::test_protected[[]*": NOW,
    "tests/oracle/test_protection.py::test_protected_after_the_open": FLAGS,
    "tests/oracle/test_protection.py::test_flags_are_set_and_shown": FLAGS,
    "tests/oracle/test_protection.py::test_protections_of_what_is_on_the_upper_layer_alone*by ours*": FLAGS,
    "tests/oracle/test_protection.py::test_protections_of_what_is_on_the_upper_layer_alone[[]read by ours*": FLAGS,
    "tests/oracle/test_mistakes.py::test_nothing_is_written_into_a_lower[[]fallocate-*": ALLOCATE,
    "tests/oracle/test_mistakes.py::test_upper_on_another_filesystem*": NAMELESS,
    "tests/clients/test_bad_input.py::test_a_draft_of_the_kernel*": PASSED,
    "tests/clients/test_durability.py::test_a_volatile_mount_that_failed_bars_none": PASSED,
    "tests/clients/test_load.py::test_stress_ng[[]dup-*": ALLOCATE,
    "tests/clients/test_metacopy.py::test_programs_still_share_the_lower_files_memory": PASSED,
    "tests/clients/test_non_standard.py::test_a_mapping_from_before_the_copy_up[[]auto-lib.so-*": PASSED,
    "tests/clients/test_non_standard.py::test_a_mapping_from_before_the_copy_up[[]passthrough-*": PASSED,
    "tests/clients/test_owners.py::test_over_whiteouts_and_without_a_name": NAMELESS,
    "tests/clients/test_fio_verify.py::test_fio_verifies[[]on-*": PASSED,
    "tests/clients/test_idmapped.py*": IDS,
    "tests/clients/test_handles.py::test_off": HANDLES,
    "*passthrough=on*": PASSED,
}
"""Tests, by their ids, that ask for what is not there, and why."""


def is_tried() -> bool:
    """Do tests mount unionfs with pyfuse3 where they name no binding?"""
    return os.environ.get(BINDING) == "pyfuse3"


def lacks_call(name: str, args: Sequence[object]) -> bool:
    """Is a call left out, as unionfs is mounted by pyfuse3 and can't do it?"""
    return is_tried() and (name in CALLS or (name == "seek" and args[-1] in (os.SEEK_DATA, os.SEEK_HOLE)))


def lacks_open(flags: int) -> bool:
    """The same for a way to open a file."""
    return is_tried() and flags & os.O_TMPFILE == os.O_TMPFILE


def usual_umask() -> int:
    """The umask with which random operations are made: none where it would count beside default access control lists."""
    return 0 if is_tried() else 0o022


def lacking(suite: str, case: str) -> str | None:
    """Why a case of the oracle comes out otherwise; None if it does not."""
    return next((why for pattern, why in CASES.items() if fnmatchcase(f"{suite}-{case}", pattern)), None)


def is_expected_to_differ(nodeid: str) -> bool:
    """Is a test left out when all tests run over pyfuse3?"""
    name = nodeid.partition("[")[2].rpartition("]")[0]
    patterns = [pattern for pattern in TESTS if fnmatchcase(nodeid, pattern)]
    return bool(patterns) or any(fnmatchcase(name, pattern) for pattern in CASES)
