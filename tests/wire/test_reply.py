"""Are replies laid out as the kernel reads them? Golden bytes for each, written by a C program with <linux/fuse.h>."""

import errno

import pytest

from tests.wire import answers
from unionfs.wire import init, reply

UNIQUE = 0x0102030405060708
ATTR = reply.Attr(101, 102, 103, -104, 105, 106, 107, 108, 109, 0o100644, 2, 110, 111, 112, 4096, 1)
ENTRY = reply.Entry(113, 114, 115, 116, 117, 118, ATTR)
STATFS = reply.Statfs(124, 125, 126, 127, 128, 129, 255, 130)
STATX = reply.Statx(
    mask=0xFFF,
    blksize=4096,
    attributes=132,
    nlink=1,
    uid=133,
    gid=134,
    mode=0o100644,
    ino=135,
    size=136,
    blocks=137,
    attributes_mask=138,
    atime=-139,
    atimensec=140,
    btime=141,
    btimensec=142,
    ctime=143,
    ctimensec=144,
    mtime=145,
    mtimensec=146,
    rdev_major=147,
    rdev_minor=148,
    dev_major=149,
    dev_minor=150,
)
ENTRY2 = reply.Entry2(113, 114, 115, 116, 117, 118, 119, 0, STATX)
CAPABILITIES = init.Capabilities(
    minor=45,
    flags=0x2040400001,
    max_write=1 << 20,
    max_pages=256,
    max_readahead=131072,
    max_background=64,
    congestion_threshold=48,
    time_gran=1,
    max_stack_depth=1,
    request_timeout=0,
)


def _listing() -> bytes:
    entries = reply.DirBuffer(4096)
    assert entries.add(b".", 161, 1, 4)
    assert entries.add(b"8letters", 162, 2, 8)
    return entries.reply(UNIQUE)


def _listing_plus() -> bytes:
    entries = reply.DirBuffer(4096)
    assert entries.add_plus(None, b".", 161, 1, 4)
    assert entries.add_plus(ENTRY, b"9-letters", 101, 2, 8)
    return entries.reply(UNIQUE)


GOLDEN = [
    (
        "error",
        reply.error(UNIQUE, 2),
        "10000000 feffffff 0807060504030201",
    ),
    (
        "empty",
        reply.empty(UNIQUE),
        "10000000 00000000 0807060504030201",
    ),
    (
        "entry",
        reply.entry(UNIQUE, ENTRY),
        (
            "90000000 00000000 0807060504030201 "
            "710000000000000072000000000000007300000000000000740000000000000075000000760000006500000000000000 "
            "6600000000000000670000000000000098ffffffffffffff69000000000000006a000000000000006b0000006c000000 "
            "6d000000a4810000020000006e0000006f000000700000000010000001000000"
        ),
    ),
    (
        "negative",
        reply.negative(UNIQUE, 115),
        (
            "90000000 00000000 0807060504030201 "
            "000000000000000000000000000000007300000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "0000000000000000000000000000000000000000000000000000000000000000"
        ),
    ),
    (
        "attr",
        reply.attr(UNIQUE, 116, ATTR),
        (
            "78000000 00000000 0807060504030201 "
            "7400000000000000000000000000000065000000000000006600000000000000670000000000000098ffffffffffffff "
            "69000000000000006a000000000000006b0000006c0000006d000000a4810000020000006e0000006f00000070000000 "
            "0010000001000000"
        ),
    ),
    (
        "open",
        reply.open_(UNIQUE, 121, 0x80, 7),
        "20000000 00000000 0807060504030201 79000000000000008000000007000000",
    ),
    (
        "create",
        reply.create(UNIQUE, ENTRY, 121, 0x80, 7),
        (
            "a0000000 00000000 0807060504030201 "
            "710000000000000072000000000000007300000000000000740000000000000075000000760000006500000000000000 "
            "6600000000000000670000000000000098ffffffffffffff69000000000000006a000000000000006b0000006c000000 "
            "6d000000a4810000020000006e0000006f00000070000000001000000100000079000000000000008000000007000000"
        ),
    ),
    (
        "entry2",
        reply.entry2(UNIQUE, ENTRY2),
        (
            "48010000 00000000 0807060504030201 "
            "710000000000000072000000000000007300000000000000740000000000000075000000760000007700000000000000 "
            "0000000000000000ff0f0000001000008400000000000000010000008500000086000000a48100008700000000000000 "
            "880000000000000089000000000000008a0000000000000075ffffffffffffff8c000000000000008d00000000000000 "
            "8e000000000000008f000000000000009000000000000000910000000000000092000000000000009300000094000000 "
            "950000009600000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000"
        ),
    ),
    (
        "negative2",
        reply.negative2(UNIQUE, 115, 117),
        "48010000 00000000 0807060504030201 " + "00" * 16 + "7300000000000000" + "00" * 8 + "75000000" + "00" * 276,
    ),
    (
        "create2",
        reply.create2(UNIQUE, ENTRY2, 121, 0x80),
        (
            "58010000 00000000 0807060504030201 "
            "710000000000000072000000000000007300000000000000740000000000000075000000760000007700000000000000 "
            "0000000000000000ff0f0000001000008400000000000000010000008500000086000000a48100008700000000000000 "
            "880000000000000089000000000000008a0000000000000075ffffffffffffff8c000000000000008d00000000000000 "
            "8e000000000000008f000000000000009000000000000000910000000000000092000000000000009300000094000000 "
            "950000009600000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "00000000000000000000000000000000000000000000000079000000000000008000000000000000"
        ),
    ),
    (
        "write",
        reply.write(UNIQUE, 122),
        "18000000 00000000 0807060504030201 7a00000000000000",
    ),
    (
        "copy_file_range_64",
        reply.copy_file_range_64(UNIQUE, 1 << 32),
        "18000000 00000000 0807060504030201 0000000001000000",
    ),
    (
        "xattr_size",
        reply.xattr_size(UNIQUE, 123),
        "18000000 00000000 0807060504030201 7b00000000000000",
    ),
    (
        "data",
        reply.data(UNIQUE, b"data"),
        "14000000 00000000 0807060504030201 64617461",
    ),
    (
        "statfs",
        reply.statfs(UNIQUE, STATFS),
        (
            "60000000 00000000 0807060504030201 "
            "7c000000000000007d000000000000007e000000000000007f00000000000000800000000000000081000000ff000000 "
            "8200000000000000000000000000000000000000000000000000000000000000"
        ),
    ),
    (
        "lseek",
        reply.lseek(UNIQUE, 131),
        "18000000 00000000 0807060504030201 8300000000000000",
    ),
    (
        "statx",
        reply.statx(UNIQUE, 116, STATX),
        (
            "30010000 00000000 0807060504030201 "
            "7400000000000000000000000000000000000000000000000000000000000000ff0f0000001000008400000000000000 "
            "010000008500000086000000a48100008700000000000000880000000000000089000000000000008a00000000000000 "
            "75ffffffffffffff8c000000000000008d000000000000008e000000000000008f000000000000009000000000000000 "
            "910000000000000092000000000000009300000094000000950000009600000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
        ),
    ),
    (
        "ioctl",
        reply.ioctl(UNIQUE, -1, b"out"),
        "23000000 00000000 0807060504030201 ffffffff0000000000000000000000006f7574",
    ),
    (
        "poll",
        reply.poll(UNIQUE, 5),
        "18000000 00000000 0807060504030201 0500000000000000",
    ),
    (
        "lk",
        reply.lk(UNIQUE, 151, 152, 1, 153),
        "28000000 00000000 0807060504030201 970000000000000098000000000000000100000099000000",
    ),
    (
        "bmap",
        reply.bmap(UNIQUE, 154),
        "18000000 00000000 0807060504030201 9a00000000000000",
    ),
    (
        "readdir",
        _listing(),
        (
            "50000000 00000000 0807060504030201 "
            "a100000000000000010000000000000001000000040000002e00000000000000a2000000000000000200000000000000 "
            "0800000008000000386c657474657273"
        ),
    ),
    (
        "readdirplus",
        _listing_plus(),
        (
            "58010000 00000000 0807060504030201 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "0000000000000000000000000000000000000000000000000000000000000000a1000000000000000100000000000000 "
            "01000000040000002e000000000000007100000000000000720000000000000073000000000000007400000000000000 "
            "750000007600000065000000000000006600000000000000670000000000000098ffffffffffffff6900000000000000 "
            "6a000000000000006b0000006c0000006d000000a4810000020000006e0000006f000000700000000010000001000000 "
            "650000000000000002000000000000000900000008000000392d6c65747465727300000000000000"
        ),
    ),
    (
        "init",
        init.encode_init(UNIQUE, CAPABILITIES),
        (
            "50000000 00000000 0807060504030201 "
            "070000002d00000000000200010040404000300000001000010000000001000020000000010000000000000000000000 "
            "00000000000000000000000000000000"
        ),
    ),
    (
        "major",
        init.encode_major(UNIQUE),
        (
            "50000000 00000000 0807060504030201 "
            "070000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 "
            "00000000000000000000000000000000"
        ),
    ),
]


@pytest.mark.parametrize(("encoded", "golden"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_reply_has_the_bytes_the_kernel_reads(encoded: bytes, golden: str) -> None:
    assert encoded == bytes.fromhex(golden)


def test_defaults_are_zero() -> None:
    assert answers.opened(answers.answer(reply.open_(1, 9, 2)).body) == (9, 2, 0)
    assert answers.opened(answers.answer(reply.create(1, ENTRY, 9, 2)).body, 128) == (9, 2, 0)
    assert answers.answer(reply.ioctl(1, 0)).body == bytes(16)


@pytest.mark.parametrize(
    ("number", "sent"),
    [(1, 1), (errno.ENOTSUP, errno.ENOTSUP), (511, 511), (512, errno.EIO), (0, errno.EIO), (-2, errno.EIO)],
)
def test_error_is_always_one_the_kernel_accepts(number: int, sent: int) -> None:
    assert answers.answer(reply.error(7, number)) == (-sent, 7, b"")


@pytest.mark.parametrize("payload", [b"", b"x", bytes(4096), bytearray(b"array"), memoryview(b"view")])
def test_data_header_and_payload_make_the_data_reply(payload: reply.Payload) -> None:
    whole = reply.data(7, payload)
    assert whole == reply.data_header(7, len(payload)) + bytes(payload)
    assert answers.answer(whole) == (0, 7, bytes(payload))


def test_entry_reads_back() -> None:
    assert tuple(answers.node(answers.answer(reply.entry(7, ENTRY)).body)) == tuple(ENTRY)
    assert answers.attributes(answers.answer(reply.attr(7, 116, ATTR)).body) == (116, tuple(ATTR))


def test_negative_is_an_entry_without_node() -> None:
    node = answers.node(answers.answer(reply.negative(7, 3600)).body)
    assert (node.nodeid, node.entry_valid) == (0, 3600)
    assert not any(node.attr)


def test_entry_with_backing_file_reads_back() -> None:
    node = answers.node2(answers.answer(reply.entry2(7, ENTRY2)).body)
    assert node == answers.Node2(113, 114, 115, 116, 117, 118, 119, 0, 135, 0o100644, 1, 133, 134, 136)
    assert answers.node2(answers.answer(reply.negative2(7, 3600)).body)[:4] == (0, 0, 3600, 0)
    assert answers.opened(answers.answer(reply.create2(1, ENTRY2, 9, 2)).body, 312) == (9, 2, 0)


def test_request_resent_keeps_its_mark() -> None:
    assert answers.answer(reply.empty(5 | 1 << 63)).unique == 5 | 1 << 63
