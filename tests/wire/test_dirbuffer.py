"""Does a listing read back as it was written, and stop exactly where the request says?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire import answers
from unionfs.wire.reply import Attr, DirBuffer, Entry

ATTR = Attr(101, 102, 103, -104, 105, 106, 107, 108, 109, 0o100644, 2, 110, 111, 112, 4096, 0)


def entry(nodeid: int) -> Entry:
    return Entry(nodeid, 1, 3600, 3600, 0, 0, ATTR)


NAMES = st.binary(min_size=1, max_size=300)


@given(names=st.lists(NAMES, max_size=30), plus=st.booleans())
def test_listing_reads_back(names: list[bytes], plus: bool) -> None:
    listed = DirBuffer(1 << 20)
    expected = []
    nodes = []
    for number, name in enumerate(names, 1):
        node = entry(number) if plus and number % 3 else None
        assert listed.add_plus(node, name, number, number + 1, 8) if plus else listed.add(name, number, number + 1, 8)
        expected.append((number, number + 1, 8, name))
        nodes.append(node)
    answer = answers.answer(listed.reply(7))
    assert answer[:2] == (0, 7)
    assert len(answer.body) == len(listed)
    found = answers.listing(answer.body, plus)
    assert [one[:4] for one in found] == [one[:4] for one in expected]
    for one, node in zip(found, nodes, strict=True):
        assert (one.node is not None) is plus
        if one.node is not None:
            assert one.node.nodeid == (node.nodeid if node else 0)
            assert node is None or tuple(one.node) == tuple(node)


@pytest.mark.parametrize("length", [1, 7, 8, 9, 255, 256, 257, 1024])
@pytest.mark.parametrize("plus", [False, True])
def test_entry_fits_to_the_byte(length: int, plus: bool) -> None:
    size = (24 + length + 7) // 8 * 8 + (128 if plus else 0)
    for limit, fits in ((size, True), (size - 1, False), (0, False)):
        listed = DirBuffer(limit)
        name = b"n" * length
        added = listed.add_plus(entry(5), name, 1, 2, 8) if plus else listed.add(name, 1, 2, 8)
        assert added is fits
        assert len(listed) == (size if fits else 0)
        assert len(listed.reply(7)) == 16 + len(listed)


def test_a_short_name_may_still_fit_after_a_long_one_did_not() -> None:
    listed = DirBuffer(64)
    assert listed.add(b"first", 1, 1, 8)
    assert not listed.add(b"far too long a name", 2, 2, 8)
    assert listed.add(b"last", 3, 3, 8)
    assert [one.name for one in answers.listing(answers.answer(listed.reply(7)).body)] == [b"first", b"last"]


def test_nothing_added_ends_the_listing() -> None:
    assert answers.answer(DirBuffer(4096).reply(7)) == (0, 7, b"")


def test_reply_may_be_taken_twice() -> None:
    listed = DirBuffer(4096)
    listed.add(b"name", 1, 2, 8)
    assert listed.reply(7) == listed.reply(7)
