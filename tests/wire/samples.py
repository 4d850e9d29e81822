"""Which requests does the kernel send? One message per operation, byte for byte, and what it has to be decoded to.

The bytes are those of a little-endian machine, written by a C program with the structures of <linux/fuse.h>.
"""

from typing import Any, NamedTuple

from tests.wire import kernel
from unionfs.wire import request
from unionfs.wire.abi import Opcode

UNIQUE = 0x0102030405060708
NODEID = 0x1112131415161718
UID, GID, PID = 1000, 1001, 4242


class Sample(NamedTuple):
    """`message` as golden bytes; `built` the same message by tests.wire.kernel; `decoded` its meaning."""

    label: str
    opcode: int
    message: bytes
    built: bytes
    decoded: Any
    setxattr_ext: bool = True


def _ids(built: bytes) -> bytes:
    """The message with the ids that all samples have in their headers."""
    numbers = (UNIQUE, NODEID, UID, GID, PID)
    return built[:8] + b"".join(
        n.to_bytes(size, "little") for n, size in zip(numbers, (8, 8, 4, 4, 4), strict=True)
    ) + built[36:]  # fmt: skip


def _sample(label: str, golden: str, built: bytes, decoded: Any, setxattr_ext: bool = True) -> Sample:
    opcode = Opcode[label.split()[0]]
    return Sample(label, int(opcode), bytes.fromhex(golden), _ids(built), decoded, setxattr_ext)


_LOCK = kernel.Lock(57, 58, 59, 60, 1, 61, 1)
_SECOND_LOCK = kernel.Lock(57, 58, 59, 0x7FFFFFFFFFFFFFFF, 2, 61)
_RANGE = kernel.Range(73, 74, 75, 76, 77, 78)
_LONG_RANGE = kernel.Range(73, 74, 75, 76, 77, 0x100000000)
_EXTENSIONS = kernel.security_contexts((b"security.selinux", b"label\0")) + kernel.supplementary_groups(1234)
_DECODED_EXTENSIONS = (
    (1, kernel.padded(bytes.fromhex("0600000000000000") + b"security.selinux\0label\0")),
    (32, bytes.fromhex("01000000d2040000")),
)

SAMPLES = [
    _sample(
        "LOOKUP",
        "2e000000 01000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 68656c6c6f00",
        kernel.lookup(NODEID, b"hello"),
        request.Lookup(b"hello"),
    ),
    _sample(
        "FORGET",
        "30000000 02000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0300000000000000",
        kernel.forget(NODEID, 3),
        request.Forget(3),
    ),
    _sample(
        "GETATTR",
        "38000000 03000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "0100000000000000efcdab0000000000",
        kernel.getattr_(NODEID, 0xABCDEF),
        request.Getattr(1, 0xABCDEF),
    ),
    _sample(
        "SETATTR",
        "80000000 04000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "7f00000000000000150000000000000089674523010000001600000000000000fbffffffffffffff1700000000000000 "
        "1800000000000000190000001a0000001b000000a4810000000000001c0000001d00000000000000",
        kernel.setattr_(
            NODEID,
            0x7F,
            fh=21,
            size=0x123456789,
            lock_owner=22,
            times=(-5, 23, 24),
            nanoseconds=(25, 26, 27),
            mode=0o100644,
            owner=(28, 29),
        ),
        request.Setattr(0x7F, 21, 0x123456789, 22, -5, 23, 24, 25, 26, 27, 0o100644, 28, 29),
    ),
    _sample(
        "READLINK",
        "28000000 05000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000",
        kernel.readlink(NODEID),
        request.Readlink(),
    ),
    _sample(
        "SYMLINK",
        "39000000 06000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "6c696e6b002e2e2f746f2f746865726500",
        kernel.symlink(NODEID, b"link", b"../to/there"),
        request.Symlink(b"link", b"../to/there", ()),
    ),
    _sample(
        "MKNOD",
        "3d000000 08000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "a42100000301000012000000000000006e6f646500",
        kernel.mknod(NODEID, b"node", 0o20644, 0x103, 0o22),
        request.Mknod(0o20644, 0x103, 0o22, b"node", ()),
    ),
    _sample(
        "MKDIR",
        "34000000 09000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 ed0100001200000064697200",
        kernel.mkdir(NODEID, b"dir", 0o755, 0o22),
        request.Mkdir(0o755, 0o22, b"dir", ()),
    ),
    _sample(
        "UNLINK",
        "2d000000 0a000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 676f6e6500",
        kernel.unlink(NODEID, b"gone"),
        request.Unlink(b"gone"),
    ),
    _sample(
        "RMDIR",
        "2c000000 0b000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 64697200",
        kernel.rmdir(NODEID, b"dir"),
        request.Rmdir(b"dir"),
    ),
    _sample(
        "RENAME",
        "38000000 0c000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "1f000000000000006f6c64006e657700",
        kernel.rename(NODEID, b"old", 31, b"new"),
        request.Rename(31, 0, b"old", b"new"),
    ),
    _sample(
        "LINK",
        "36000000 0d000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 2000000000000000616761696e00",
        kernel.link(NODEID, b"again", 32),
        request.Link(32, b"again"),
    ),
    _sample(
        "OPEN",
        "30000000 0e000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0280000001000000",
        kernel.open_(NODEID, 0x8002, 1),
        request.Open(0x8002, 1),
    ),
    _sample(
        "READ",
        "50000000 0f000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "2900000000000000000000000100000000100000020000002a000000000000000080000000000000",
        kernel.read(NODEID, 41, 0x100000000, 4096, 2, 42, 0x8000),
        request.Read(41, 0x100000000, 4096, 2, 42, 0x8000),
    ),
    _sample(
        "WRITE",
        "57000000 10000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "2b00000000000000010000000100000007000000040000002c0000000000000001800000000000007061796c6f6164",
        kernel.write(NODEID, 43, 0x100000001, b"payload", 4, 44, 0x8001),
        request.Write(43, 0x100000001, 7, 4, 44, 0x8001, memoryview(b"payload")),
    ),
    _sample(
        "STATFS",
        "28000000 11000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000",
        kernel.statfs(NODEID),
        request.Statfs(),
    ),
    _sample(
        "RELEASE",
        "40000000 12000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "2d0000000000000000800000010000002e00000000000000",
        kernel.release(NODEID, 45, 0x8000, 1, 46),
        request.Release(45, 0x8000, 1, 46),
    ),
    _sample(
        "FSYNC",
        "38000000 14000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "2f000000000000000100000000000000",
        kernel.fsync(NODEID, 47, 1),
        request.Fsync(47, 1),
    ),
    _sample(
        "SETXATTR",
        "44000000 15000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "03000000010000000100000000000000757365722e612f620076616c",
        kernel.setxattr(NODEID, b"user.a/b", b"val", 1, 1),
        request.Setxattr(b"user.a/b", b"val", 1, 1),
    ),
    _sample(
        "SETXATTR without SETXATTR_EXT",
        "3a000000 15000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "0300000002000000757365722e610076616c",
        kernel.setxattr_compat(NODEID, b"user.a", b"val", 2),
        request.Setxattr(b"user.a", b"val", 2, 0),
        setxattr_ext=False,
    ),
    _sample(
        "GETXATTR",
        "39000000 16000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "ff00000000000000757365722e612f6200",
        kernel.getxattr(NODEID, b"user.a/b", 255),
        request.Getxattr(b"user.a/b", 255),
    ),
    _sample(
        "LISTXATTR",
        "30000000 17000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0004000000000000",
        kernel.listxattr(NODEID, 1024),
        request.Listxattr(1024),
    ),
    _sample(
        "REMOVEXATTR",
        "31000000 18000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 757365722e612f6200",
        kernel.removexattr(NODEID, b"user.a/b"),
        request.Removexattr(b"user.a/b"),
    ),
    _sample(
        "FLUSH",
        "40000000 19000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "330000000000000000000000000000003400000000000000",
        kernel.flush(NODEID, 51, 52),
        request.Flush(51, 52),
    ),
    _sample(
        "INIT",
        "68000000 1a000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "070000002d00000000000200fbffff73fd05000000000000000000000000000000000000000000000000000000000000 "
        "00000000000000000000000000000000",
        kernel.init(7, 45, 0x5FD73FFFFFB),
        request.Init(7, 45, 131072, 0x5FD73FFFFFB),
    ),
    _sample(
        "INIT before 7.36",
        "38000000 1a000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "070000001f00000000000200fbffff03",
        kernel.init_old(7, 31, 0x3FFFFFB),
        request.Init(7, 31, 131072, 0x3FFFFFB),
    ),
    _sample(
        "OPENDIR",
        "30000000 1b000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0080010000000000",
        kernel.opendir(NODEID, 0x18000),
        request.Opendir(0x18000, 0),
    ),
    _sample(
        "READDIR",
        "50000000 1c000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "35000000000000003600000000000000001000000000000000000000000000000000000000000000",
        kernel.readdir(NODEID, 53, 54, 4096),
        request.Readdir(53, 54, 4096),
    ),
    _sample(
        "RELEASEDIR",
        "40000000 1d000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "370000000000000000800100000000000000000000000000",
        kernel.releasedir(NODEID, 55, 0x18000),
        request.Release(55, 0x18000, 0, 0),
    ),
    _sample(
        "FSYNCDIR",
        "38000000 1e000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "38000000000000000000000000000000",
        kernel.fsyncdir(NODEID, 56),
        request.Fsync(56, 0),
    ),
    _sample(
        "GETLK",
        "58000000 1f000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "39000000000000003a000000000000003b000000000000003c00000000000000010000003d0000000100000000000000",
        kernel.lk(31, NODEID, _LOCK),
        request.Lk(57, 58, 59, 60, 1, 61, 1),
    ),
    _sample(
        "SETLK",
        "58000000 20000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "39000000000000003a000000000000003b00000000000000ffffffffffffff7f020000003d0000000000000000000000",
        kernel.lk(32, NODEID, _SECOND_LOCK),
        request.Lk(57, 58, 59, 0x7FFFFFFFFFFFFFFF, 2, 61, 0),
    ),
    _sample(
        "SETLKW",
        "58000000 21000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "39000000000000003a000000000000003b000000000000003c00000000000000010000003d0000000100000000000000",
        kernel.lk(33, NODEID, _LOCK),
        request.Lk(57, 58, 59, 60, 1, 61, 1),
    ),
    _sample(
        "ACCESS",
        "30000000 22000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0400000000000000",
        kernel.access(NODEID, 4),
        request.Access(4),
    ),
    _sample(
        "CREATE",
        "3d000000 23000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "c1800000a4810000120000000100000066696c6500",
        kernel.create(NODEID, b"file", 0x80C1, 0o100644, 0o22, 1),
        request.Create(0x80C1, 0o100644, 0o22, 1, b"file", ()),
    ),
    _sample(
        "INTERRUPT",
        "30000000 24000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 2827262524232221",
        kernel.interrupt(0x2122232425262728),
        request.Interrupt(0x2122232425262728),
    ),
    _sample(
        "BMAP",
        "38000000 25000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "3e000000000000000010000000000000",
        kernel.bmap(NODEID, 62, 4096),
        request.Bmap(62, 4096),
    ),
    _sample(
        "DESTROY",
        "28000000 26000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000",
        kernel.destroy(),
        request.Destroy(),
    ),
    _sample(
        "IOCTL",
        "50000000 27000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "3f00000000000000100000000166088078563412ff7f00000800000009000000696e707574732121",
        kernel.ioctl(NODEID, 63, 0x80086601, 0x7FFF12345678, b"inputs!!", 9, 16),
        request.Ioctl(63, 16, 0x80086601, 0x7FFF12345678, 8, 9, b"inputs!!"),
    ),
    _sample(
        "POLL",
        "40000000 28000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "400000000000000041000000000000000100000005000000",
        kernel.poll(NODEID, 64, 65, 1, 5),
        request.Poll(64, 65, 1, 5),
    ),
    _sample(
        "NOTIFY_REPLY",
        "56000000 29000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "00000000000000004200000000000000060000000000000000000000000000000000000000000000636163686564",
        kernel.notify_reply(NODEID, 66, b"cached"),
        request.NotifyReply(66, 6, memoryview(b"cached")),
    ),
    _sample(
        "BATCH_FORGET",
        "50000000 2a000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "02000000000000004300000000000000010000000000000044000000000000000200000000000000",
        kernel.batch_forget([(67, 1), (68, 2)]),
        request.BatchForget(((67, 1), (68, 2))),
    ),
    _sample(
        "FALLOCATE",
        "48000000 2b000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "4500000000000000460000000000000047000000000000000300000000000000",
        kernel.fallocate(NODEID, 69, 70, 71, 3),
        request.Fallocate(69, 70, 71, 3),
    ),
    _sample(
        "READDIRPLUS",
        "50000000 2c000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "35000000000000003600000000000000001000000000000000000000000000000000000000000000",
        kernel.readdirplus(NODEID, 53, 54, 4096),
        request.Readdir(53, 54, 4096),
    ),
    _sample(
        "RENAME2",
        "40000000 2d000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "1f0000000000000002000000000000006f6c64006e657700",
        kernel.rename2(NODEID, b"old", 31, b"new", 2),
        request.Rename(31, 2, b"old", b"new"),
    ),
    _sample(
        "LSEEK",
        "40000000 2e000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "4800000000000000ffffffffffffffff0300000000000000",
        kernel.lseek(NODEID, 72, -1, 3),
        request.Lseek(72, -1, 3),
    ),
    _sample(
        "COPY_FILE_RANGE",
        "60000000 2f000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "49000000000000004a000000000000004b000000000000004c000000000000004d000000000000004e00000000000000 "
        "0000000000000000",
        kernel.copy_file_range(47, NODEID, _RANGE),
        request.CopyFileRange(73, 74, 75, 76, 77, 78, 0),
    ),
    _sample(
        "SETUPMAPPING",
        "50000000 30000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "4f000000000000005000000000000000510000000000000003000000000000005200000000000000",
        kernel.setupmapping(NODEID, 79, 80, 81, 3, 82),
        request.Setupmapping(79, 80, 81, 3, 82),
    ),
    _sample(
        "REMOVEMAPPING",
        "3c000000 31000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "0100000053000000000000005400000000000000",
        kernel.removemapping(NODEID, [(83, 84)]),
        request.Removemapping(((83, 84),)),
    ),
    _sample(
        "SYNCFS",
        "30000000 32000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 0000000000000000",
        kernel.syncfs(NODEID),
        request.Syncfs(),
    ),
    _sample(
        "TMPFILE",
        "3a000000 33000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "020041008081000012000000000000002f00",
        kernel.tmpfile(NODEID, 0x410002, 0o100600, 0o22),
        request.Tmpfile(0x410002, 0o100600, 0o22, 0, b"/", ()),
    ),
    _sample(
        "STATX",
        "40000000 34000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "0100000000000000550000000000000000010000ff0f0000",
        kernel.statx(NODEID, 0x100, 0xFFF, 85),
        request.Statx(1, 85, 0x100, 0xFFF),
    ),
    _sample(
        "COPY_FILE_RANGE_64",
        "60000000 35000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "49000000000000004a000000000000004b000000000000004c000000000000004d000000000000000000000001000000 "
        "0000000000000000",
        kernel.copy_file_range(53, NODEID, _LONG_RANGE),
        request.CopyFileRange(73, 74, 75, 76, 77, 0x100000000, 0),
    ),
    _sample(
        "CUSE_INIT",
        "38000000 00100000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 00000000 "
        "070000002d0000000000000001000000",
        kernel.cuse_init(7, 45, 1),
        request.CuseInit(7, 45, 1),
    ),
    _sample(
        "MKDIR with extensions",
        "6c000000 09000000 0807060504030201 1817161514131211 e8030000 e9030000 92100000 07000000 "
        "ed01000012000000646972002800000001000000060000000000000073656375726974792e73656c696e7578006c6162 "
        "656c0000100000002000000001000000d2040000",
        kernel.mkdir(NODEID, b"dir", 0o755, 0o22, _EXTENSIONS),
        request.Mkdir(0o755, 0o22, b"dir", _DECODED_EXTENSIONS),
    ),
]
"""Covers every operation; SETXATTR and INIT in both of their forms, MKDIR also with extensions."""
