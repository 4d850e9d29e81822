"""Are notifications laid out as the kernel reads them? Golden bytes for each, written with <linux/fuse.h>."""

import pytest

from tests.wire import answers
from unionfs.wire import abi, notify

GOLDEN = [
    (
        "poll",
        notify.poll(171),
        "18000000 01000000 0000000000000000 ab00000000000000",
    ),
    (
        "inval_inode",
        notify.inval_inode(172, -1, 173),
        "28000000 02000000 0000000000000000 ac00000000000000ffffffffffffffffad00000000000000",
    ),
    (
        "inval_entry",
        notify.inval_entry(174, b"name", abi.EXPIRE_ONLY),
        "25000000 03000000 0000000000000000 ae0000000000000004000000010000006e616d6500",
    ),
    (
        "store",
        notify.store_header(175, 176, 5) + b"bytes",
        "2d000000 04000000 0000000000000000 af00000000000000b00000000000000005000000000000006279746573",
    ),
    (
        "retrieve",
        notify.retrieve(177, 178, 179, 180),
        "30000000 05000000 0000000000000000 b100000000000000b200000000000000b300000000000000b400000000000000",
    ),
    (
        "delete",
        notify.delete(181, 182, b"name"),
        "2d000000 06000000 0000000000000000 b500000000000000b60000000000000004000000000000006e616d6500",
    ),
    (
        "resend",
        notify.resend(),
        "10000000 07000000 0000000000000000",
    ),
    (
        "inc_epoch",
        notify.inc_epoch(),
        "10000000 08000000 0000000000000000",
    ),
    (
        "prune",
        notify.prune([183, 184]),
        "30000000 09000000 0000000000000000 02000000000000000000000000000000b700000000000000b800000000000000",
    ),
]


@pytest.mark.parametrize(("encoded", "golden"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_notification_has_the_bytes_the_kernel_reads(encoded: bytes, golden: str) -> None:
    assert encoded == bytes.fromhex(golden)


def test_there_is_one_for_every_code() -> None:
    assert {answers.answer(encoded).error for _, encoded, _ in GOLDEN} == {int(code) for code in abi.NotifyCode}


def test_entry_is_dropped_by_default_not_expired() -> None:
    assert notify.inval_entry(1, b"x")[28:32] == bytes(4)


def test_store_counts_the_data_that_follows() -> None:
    assert int.from_bytes(notify.store_header(1, 0, 1 << 20)[:4], "little") == 40 + (1 << 20)


def test_prune_of_nothing_is_whole() -> None:
    assert answers.answer(notify.prune([])).body == bytes(16)
