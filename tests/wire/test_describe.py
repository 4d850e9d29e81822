"""Does the log say in one line what was asked?"""

import pytest

from tests.wire import kernel
from unionfs.wire import request
from unionfs.wire.abi import Opcode
from unionfs.wire.describe import describe, opcode_name


def line(message: bytes) -> str:
    header = request.decode_header(message)
    return describe(header, request.DECODERS[header.opcode](memoryview(message)[40:], header))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            kernel.lookup(3, b"a\nb", unique=18, uid=7, gid=8, pid=9),
            "#12 LOOKUP node 3 uid 7 gid 8 pid 9 name=b'a\\nb'",
        ),
        (kernel.statfs(1), "#2 STATFS node 1 uid 0 gid 0 pid 1"),
        (
            kernel.mkdir(1, b"d", 0o755, 0o22),
            "#2 MKDIR node 1 uid 0 gid 0 pid 1 mode=0o755 umask=0o22 name=b'd' extensions=()",
        ),
        (
            kernel.write(1, 5, 6, bytes(4096), flags=0x8001),
            (
                "#2 WRITE node 1 uid 0 gid 0 pid 1"
                " fh=5 offset=6 size=4096 write_flags=0 lock_owner=0x0 flags=0x8001 data=<4096 bytes>"
            ),
        ),
    ],
)
def test_line(message: bytes, expected: str) -> None:
    assert line(message) == expected


def test_names_are_given_whole_however_long() -> None:
    assert line(kernel.unlink(1, b"n" * 255)).endswith(f"name=b'{'n' * 255}'")


def test_undecoded_request_is_named_all_the_same() -> None:
    header = request.decode_header(kernel.request(99, 5))
    assert describe(header) == "#2 opcode 99 node 5 uid 0 gid 0 pid 1"


def test_operation_names() -> None:
    assert opcode_name(Opcode.COPY_FILE_RANGE_64) == "COPY_FILE_RANGE_64"
    assert opcode_name(7) == "opcode 7"
