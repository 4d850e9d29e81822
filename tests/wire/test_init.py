"""Is what INIT agrees on exactly what both sides can do, without pairs of features that exclude each other?"""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.wire import abi
from unionfs.wire.init import Capabilities, Wanted, encode_init, encode_major, negotiate
from unionfs.wire.kinds import Init

# What Linux 6.18 offers.
OFFER = Init(7, 45, 131072, 0x73FFFFFB | 0x5FD << 32)
ALL = (1 << 64) - 1
DRAFT = abi.INODE_PASSTHROUGH_DRAFT


def agreed(init: Init, wanted: Wanted) -> Capabilities:
    return negotiate(init, wanted)[0]


def test_body_says_what_the_capabilities_say() -> None:
    wanted = Wanted(abi.PASSTHROUGH | abi.INIT_EXT | abi.MAX_PAGES | abi.REQUEST_TIMEOUT, max_stack_depth=1)
    caps, body = negotiate(OFFER, wanted)
    fields = struct.unpack("=IIIIHHIIHHIIH22x", body)
    assert fields == (7, 45, 131072, 0x40400000, 64, 48, 1 << 20, 1, 256, 0, 0x20, 1, 0)
    assert caps == Capabilities(45, 0x2040400000, 1 << 20, 256, 131072, 64, 48, 1, 1, 0)
    assert encode_init(9, caps) == struct.pack("=IiQ", 80, 0, 9) + body


@pytest.mark.parametrize(("major", "minor"), [(6, 45), (5, 0), (7, 30), (7, 0), (8, 0)])
def test_other_versions_are_refused(major: int, minor: int) -> None:
    with pytest.raises(OSError, match=rf"FUSE {major}\.{minor};") as caught:
        negotiate(Init(major, minor, 0, 0), Wanted(0))
    assert caught.value.errno == errno.EPROTO


@pytest.mark.parametrize(("theirs", "both"), [(31, 31), (38, 38), (45, 45), (46, 46), (47, 46), (1000, 46)])
def test_minor_is_the_smaller(theirs: int, both: int) -> None:
    assert agreed(Init(7, theirs, 0, 0), Wanted(ALL)).minor == both


def test_newer_major_is_told_ours_alone() -> None:
    assert encode_major(9) == struct.pack("=IiQI60x", 80, 0, 9, 7)


def test_nothing_is_accepted_that_was_not_offered() -> None:
    assert agreed(Init(7, 45, 0, abi.ASYNC_READ), Wanted(ALL, max_stack_depth=1, request_timeout=60)).flags == 1
    assert agreed(OFFER, Wanted(abi.ASYNC_READ)).flags == abi.ASYNC_READ


def test_high_flags_need_init_ext_on_both_sides() -> None:
    high = abi.HAS_RESEND | abi.ASYNC_READ
    assert agreed(OFFER, Wanted(high)).flags == abi.ASYNC_READ
    assert agreed(Init(7, 45, 0, high), Wanted(high | abi.INIT_EXT)).flags == abi.ASYNC_READ
    assert agreed(OFFER, Wanted(high | abi.INIT_EXT)).flags == high | abi.INIT_EXT


@pytest.mark.parametrize("depth", [1, 2])
def test_passthrough_wins_over_writeback(depth: int) -> None:
    wanted = Wanted(abi.PASSTHROUGH | abi.WRITEBACK_CACHE | abi.INIT_EXT, max_stack_depth=depth)
    caps = agreed(OFFER, wanted)
    assert caps.flags == abi.PASSTHROUGH | abi.INIT_EXT
    assert caps.max_stack_depth == depth


@pytest.mark.parametrize("depth", [0, 3, -1])
def test_depth_the_kernel_ignores_turns_passthrough_off(depth: int) -> None:
    wanted = Wanted(abi.PASSTHROUGH | abi.WRITEBACK_CACHE | abi.INIT_EXT, max_stack_depth=depth)
    caps = agreed(OFFER, wanted)
    assert caps.flags == abi.WRITEBACK_CACHE | abi.INIT_EXT
    assert caps.max_stack_depth == 0


def test_no_stack_depth_without_passthrough() -> None:
    old = Init(7, 39, 0, OFFER.flags & ~abi.PASSTHROUGH)
    wanted = Wanted(abi.PASSTHROUGH | abi.WRITEBACK_CACHE | abi.INIT_EXT, max_stack_depth=2)
    caps = agreed(old, wanted)
    assert caps.flags == abi.WRITEBACK_CACHE | abi.INIT_EXT
    assert caps.max_stack_depth == 0


@pytest.mark.parametrize(
    ("minor", "offered", "depth", "taken"),
    [
        (45, abi.PASSTHROUGH | DRAFT.init_flag, 1, True),
        (31, abi.PASSTHROUGH | DRAFT.init_flag, 2, True),
        (45, abi.PASSTHROUGH, 1, False),
        (45, DRAFT.init_flag, 1, False),
        (45, abi.PASSTHROUGH | DRAFT.init_flag, 0, False),
        (46, abi.PASSTHROUGH | abi.HAS_IO_URING_BUFPOOL, 1, False),
        (99, abi.PASSTHROUGH | abi.HAS_IO_URING_BUFPOOL, 1, False),
    ],
)
def test_inode_passthrough_comes_from_a_kernel_that_means_it(minor: int, offered: int, depth: int, taken: bool) -> None:
    """With passthrough of files, and not from where its bit has another meaning, even if that is wanted too."""
    asked = abi.PASSTHROUGH | abi.INIT_EXT | abi.HAS_IO_URING_BUFPOOL
    caps = agreed(Init(7, minor, 0, offered | abi.INIT_EXT), Wanted(asked, max_stack_depth=depth, inode_passthrough=DRAFT))
    assert caps.inode_passthrough is (DRAFT if taken else None)
    assert bool(caps.flags & DRAFT.init_flag) is taken


def test_inode_passthrough_is_never_agreed_on_unasked() -> None:
    caps = agreed(Init(7, 45, 0, ALL), Wanted(ALL & ~DRAFT.init_flag, max_stack_depth=1))
    assert caps.inode_passthrough is None
    assert not caps.flags & DRAFT.init_flag


def test_inode_passthrough_by_another_table() -> None:
    """A later kernel's numbers go where the draft's were."""
    later = DRAFT._replace(init_flag=1 << 50, until_minor=99)
    caps = agreed(Init(7, 60, 0, ALL), Wanted(abi.PASSTHROUGH | abi.INIT_EXT, max_stack_depth=1, inode_passthrough=later))
    assert caps.inode_passthrough is later
    assert caps.flags == abi.PASSTHROUGH | abi.INIT_EXT | 1 << 50


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        (abi.HANDLE_KILLPRIV_V2, abi.HANDLE_KILLPRIV),
        (abi.AUTO_INVAL_DATA, abi.EXPLICIT_INVAL_DATA),
        (abi.EXPORT_SUPPORT, abi.NO_EXPORT_SUPPORT),
    ],
)
def test_of_two_that_exclude_each_other_one_is_left(winner: int, loser: int) -> None:
    everything = Init(7, 46, 0, ALL)
    assert agreed(everything, Wanted(winner | loser | abi.INIT_EXT)).flags == winner | abi.INIT_EXT
    assert agreed(everything, Wanted(loser | abi.INIT_EXT)).flags == loser | abi.INIT_EXT


def test_adaptive_readdirplus_needs_readdirplus() -> None:
    assert agreed(OFFER, Wanted(abi.READDIRPLUS_AUTO)).flags == 0


@pytest.mark.parametrize(("minor", "taken"), [(36, False), (37, False), (38, True)])
def test_labels_only_from_kernels_that_say_where_they_are(minor: int, taken: bool) -> None:
    caps = agreed(Init(7, minor, 0, ALL), Wanted(abi.SECURITY_CTX | abi.INIT_EXT))
    assert bool(caps.flags & abi.SECURITY_CTX) is taken


def test_timeout_needs_its_flag_and_the_flag_a_timeout() -> None:
    offer = Init(7, 45, 0, ALL)
    assert agreed(offer, Wanted(abi.REQUEST_TIMEOUT | abi.INIT_EXT)).flags == abi.INIT_EXT
    caps = agreed(offer, Wanted(abi.REQUEST_TIMEOUT | abi.INIT_EXT, request_timeout=600))
    assert caps.request_timeout == 600
    assert agreed(offer, Wanted(abi.INIT_EXT, request_timeout=600)).request_timeout == 0


@pytest.mark.parametrize(
    ("flags", "max_pages", "max_write", "expected"),
    [
        (abi.MAX_PAGES, 256, 1 << 20, (256, 1 << 20)),
        (abi.MAX_PAGES, 256, 1 << 30, (256, 1 << 20)),
        (abi.MAX_PAGES, 0, 1 << 20, (1, 4096)),
        (abi.MAX_PAGES, 1 << 20, 1 << 20, (65535, 1 << 20)),
        (0, 256, 1 << 20, (32, 1 << 17)),
        (0, 256, 1, (32, 4096)),
    ],
)
def test_sizes_of_requests(flags: int, max_pages: int, max_write: int, expected: tuple[int, int]) -> None:
    wanted = Wanted(flags, max_write=max_write, max_pages=max_pages, page_size=4096)
    caps = agreed(OFFER, wanted)
    assert (caps.max_pages, caps.max_write) == expected


def test_readahead_is_the_smaller() -> None:
    assert agreed(OFFER, Wanted(0, max_readahead=4096)).max_readahead == 4096
    assert agreed(OFFER, Wanted(0, max_readahead=1 << 30)).max_readahead == 131072


@pytest.mark.parametrize(
    ("background", "threshold", "expected"), [(100, 0, (100, 75)), (10, 50, (10, 10)), (1 << 20, 1, (65535, 1))]
)
def test_congestion_comes_no_later_than_the_limit(background: int, threshold: int, expected: tuple[int, int]) -> None:
    caps = agreed(OFFER, Wanted(0, max_background=background, congestion_threshold=threshold))
    assert (caps.max_background, caps.congestion_threshold) == expected


@given(
    offered=st.integers(0, ALL),
    asked=st.integers(0, ALL),
    minor=st.integers(31, 60),
    depth=st.integers(0, 3),
    timeout=st.integers(0, 1 << 20),
)
def test_any_agreement_is_within_offer_and_wish(offered: int, asked: int, minor: int, depth: int, timeout: int) -> None:
    wanted = Wanted(asked, max_stack_depth=depth, request_timeout=timeout)
    caps, body = negotiate(Init(7, minor, 131072, offered), wanted)
    assert caps.flags & ~(offered & asked) == 0
    assert not (caps.flags & abi.PASSTHROUGH and caps.flags & abi.WRITEBACK_CACHE)
    assert bool(caps.flags & abi.PASSTHROUGH) == (caps.max_stack_depth > 0)
    assert bool(caps.flags >> 32) <= bool(caps.flags & abi.INIT_EXT)
    assert len(body) == 64
