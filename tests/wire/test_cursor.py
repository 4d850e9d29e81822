"""Does the cursor stay inside its buffer, and where it was when it refuses?"""

import struct
from collections.abc import Callable

import pytest

from unionfs.wire.cursor import Cursor, Malformed

PAIR = struct.Struct("=II")


def test_takes_in_order_and_ends_empty() -> None:
    cursor = Cursor(PAIR.pack(1, 2) + b"name\0" + b"xy" + b"rest")
    assert cursor.take(PAIR) == (1, 2)
    assert cursor.name() == b"name"
    assert cursor.bytes(2) == b"xy"
    assert len(cursor) == 4
    assert bytes(cursor.rest()) == b"rest"
    assert len(cursor) == 0
    assert bytes(cursor.rest()) == b""


REFUSED: dict[str, tuple[bytes, Callable[[Cursor], object]]] = {
    "structure too long": (bytes(7), lambda cursor: cursor.take(PAIR)),
    "data too long": (bytes(7), lambda cursor: cursor.bytes(8)),
    "no NUL": (b"name", Cursor.name),
    "nothing left": (b"", Cursor.name),
    "empty name": (b"\0x", Cursor.name),
    "slash": (b"a/b\0", Cursor.name),
    "empty string": (b"\0x", Cursor.string),
    "string without NUL": (b"a/b", Cursor.string),
}


@pytest.mark.parametrize(("data", "use"), REFUSED.values(), ids=REFUSED)
def test_refuses_and_stays(data: bytes, use: Callable[[Cursor], object]) -> None:
    cursor = Cursor(data)
    with pytest.raises(Malformed):
        use(cursor)
    assert bytes(cursor.rest()) == data


def test_string_may_have_slashes() -> None:
    assert Cursor(b"/a/b\0").string() == b"/a/b"


def test_rest_is_a_view() -> None:
    buffer = bytearray(b"12345678data")
    cursor = Cursor(buffer)
    cursor.take(PAIR)
    rest = cursor.rest()
    buffer[8:] = b"DATA"
    assert bytes(rest) == b"DATA"
