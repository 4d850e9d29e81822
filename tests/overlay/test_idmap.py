"""Which ids are shown and stored for which, and which ranges can't be?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.syscalls import acl
from unionfs.overlay.acl import with_ids
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.creator import Creator
from unionfs.overlay.idmap import IdMap, IdRange, find_overlap, overflow_id
from unionfs.overlay.owners import KEEP, Owners, settle

NOBODY = 65534
CONTAINER = (IdRange(0, 1000, 1), IdRange(1, 110000, 65536))


@pytest.mark.parametrize(
    ("stored", "shown"),
    [(0, 1000), (1, 110000), (2, 110001), (65536, 175535), (65537, NOBODY), (1000, 110999), (4294967294, NOBODY)],
)
def test_what_is_shown(stored: int, shown: int) -> None:
    assert IdMap(CONTAINER, NOBODY).shown(stored) == shown


@pytest.mark.parametrize(
    ("shown", "stored"), [(1000, 0), (110000, 1), (175535, 65536), (175536, NOBODY), (0, NOBODY), (999, NOBODY), (1001, NOBODY)]
)
def test_what_is_stored(shown: int, stored: int) -> None:
    assert IdMap(CONTAINER, NOBODY).stored(shown) == stored


@given(st.integers(0, 65536))
def test_there_and_back(stored: int) -> None:
    both = IdMap(CONTAINER, NOBODY)
    assert both.stored(both.shown(stored)) == stored


@pytest.mark.parametrize(
    ("ranges", "overlap"),
    [
        ([(0, 0, 10), (10, 10, 10)], False),
        ([(10, 10, 10), (0, 0, 10)], False),
        ([(0, 100, 10), (9, 200, 1)], True),
        ([(0, 100, 10), (20, 109, 1)], True),
        ([(5, 5, 1), (5, 6, 1)], True),
        ([(0, 0, 1), (5, 20, 10), (2, 29, 1)], True),
    ],
)
def test_ranges_that_overlap(ranges: Sequence[tuple[int, int, int]], overlap: bool) -> None:
    assert (find_overlap([IdRange(*ids) for ids in ranges]) is not None) == overlap


def test_the_kernels_overflow_ids() -> None:
    for kind in ("uid", "gid"):
        with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as setting:
            assert overflow_id(kind) == int(setting.read())


def test_ids_in_an_acl() -> None:
    """Those of named users and groups, and nothing else."""
    before = acl("u::rw-", "user:0:r--", "user:5:rwx", "g::r--", "group:5:--x", "mask::rwx", "o::---")
    mapped = with_ids(before, lambda uid: uid + 1000, lambda gid: gid + 2000)
    assert mapped == acl("u::rw-", "user:1000:r--", "user:1005:rwx", "g::r--", "group:2005:--x", "mask::rwx", "o::---")
    assert with_ids(before, None, None) == before


@pytest.mark.parametrize("value", [b"", b"\x02\0\0", b"\x01\0\0\0", b"\x02\0\0\0abc", b"any"])
def test_what_is_no_acl_stays(value: bytes) -> None:
    assert with_ids(value, lambda uid: 1, lambda gid: 1) == value


def owners(**options: object) -> Owners:
    made = settle(UnionConfig((b"/lower",), **options))  # type: ignore[arg-type]
    assert made is not None
    return made


def test_without_options_nothing_stands_between() -> None:
    assert settle(UnionConfig((b"/lower",))) is None


def test_of_users_alone() -> None:
    """Groups are as they are, then."""
    mapped = owners(uid_ranges=CONTAINER)
    assert mapped.creator(Creator(1000, 1000, 0o22)) == Creator(0, 1000, 0o22)
    assert (mapped.uid(KEEP), mapped.gid(KEEP), mapped.gid(7)) == (KEEP, KEEP, 7)
    assert not mapped.lenient


def test_squashing_changes_what_is_shown_alone() -> None:
    squashed = owners(squash_uid=5, gid_ranges=CONTAINER)
    assert squashed.creator(Creator(7, 1000, 0)) == Creator(7, 0, 0)
    assert squashed.uid(7) == 7
    assert squashed.lenient
