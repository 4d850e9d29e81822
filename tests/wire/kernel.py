"""What would the kernel send? Requests built as bytes, and the server's answers read, without using unionfs.wire.

Plays the other end of the device in tests, so its layouts are written down a second time, from <linux/fuse.h>.
Each builder is named after its operation and returns one whole message; `nodeid` comes first where it says anything.
"""

import struct
from typing import NamedTuple, TypedDict, Unpack

NUL = b"\0"


class Ids(TypedDict, total=False):
    """Fields of the header that a test may want to choose."""

    unique: int
    uid: int
    gid: int
    pid: int


def request(
    opcode: int,
    nodeid: int,
    body: bytes = b"",
    extensions: bytes = b"",
    *,
    unique: int = 2,
    uid: int = 0,
    gid: int = 0,
    pid: int = 1,
) -> bytes:
    """A message: fuse_in_header, body, extensions (a multiple of 8 bytes)."""
    length = 40 + len(body) + len(extensions)
    header = struct.pack("=IIQQIIIHH", length, opcode, unique, nodeid, uid, gid, pid, len(extensions) // 8, 0)
    return header + body + extensions


def lookup(nodeid: int, name: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(1, nodeid, name + NUL, **ids)


def forget(nodeid: int, nlookup: int, **ids: Unpack[Ids]) -> bytes:
    return request(2, nodeid, struct.pack("=Q", nlookup), **ids)


def getattr_(nodeid: int, fh: int | None = None, **ids: Unpack[Ids]) -> bytes:
    return request(3, nodeid, struct.pack("=IIQ", fh is not None, 0, fh or 0), **ids)


def setattr_(
    nodeid: int,
    valid: int,
    *,
    fh: int = 0,
    size: int = 0,
    lock_owner: int = 0,
    times: tuple[int, int, int] = (0, 0, 0),
    nanoseconds: tuple[int, int, int] = (0, 0, 0),
    mode: int = 0,
    owner: tuple[int, int] = (0, 0),
    **ids: Unpack[Ids],
) -> bytes:
    """`times` and `nanoseconds`: of access, modification, status change; `owner`: uid and gid to set."""
    head = struct.pack("=IIQQQqqq", valid, 0, fh, size, lock_owner, *times)
    return request(4, nodeid, head + struct.pack("=IIIIIIII", *nanoseconds, mode, 0, *owner, 0), **ids)


def readlink(nodeid: int, **ids: Unpack[Ids]) -> bytes:
    return request(5, nodeid, **ids)


def symlink(nodeid: int, name: bytes, target: bytes, extensions: bytes = b"", **ids: Unpack[Ids]) -> bytes:
    return request(6, nodeid, name + NUL + target + NUL, extensions, **ids)


def mknod(
    nodeid: int, name: bytes, mode: int, rdev: int = 0, umask: int = 0, extensions: bytes = b"", **ids: Unpack[Ids]
) -> bytes:
    return request(8, nodeid, struct.pack("=IIII", mode, rdev, umask, 0) + name + NUL, extensions, **ids)


def mkdir(nodeid: int, name: bytes, mode: int, umask: int = 0, extensions: bytes = b"", **ids: Unpack[Ids]) -> bytes:
    return request(9, nodeid, struct.pack("=II", mode, umask) + name + NUL, extensions, **ids)


def unlink(nodeid: int, name: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(10, nodeid, name + NUL, **ids)


def rmdir(nodeid: int, name: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(11, nodeid, name + NUL, **ids)


def rename(nodeid: int, oldname: bytes, newdir: int, newname: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(12, nodeid, struct.pack("=Q", newdir) + oldname + NUL + newname + NUL, **ids)


def link(nodeid: int, newname: bytes, oldnodeid: int, **ids: Unpack[Ids]) -> bytes:
    return request(13, nodeid, struct.pack("=Q", oldnodeid) + newname + NUL, **ids)


def open_(nodeid: int, flags: int, open_flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(14, nodeid, struct.pack("=II", flags, open_flags), **ids)


def _read(fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int) -> bytes:
    return struct.pack("=QQIIQII", fh, offset, size, read_flags, lock_owner, flags, 0)


def read(
    nodeid: int,
    fh: int,
    offset: int,
    size: int,
    read_flags: int = 0,
    lock_owner: int = 0,
    flags: int = 0,
    **ids: Unpack[Ids],
) -> bytes:
    return request(15, nodeid, _read(fh, offset, size, read_flags, lock_owner, flags), **ids)


def write(
    nodeid: int,
    fh: int,
    offset: int,
    data: bytes,
    write_flags: int = 0,
    lock_owner: int = 0,
    flags: int = 0,
    **ids: Unpack[Ids],
) -> bytes:
    return request(16, nodeid, _read(fh, offset, len(data), write_flags, lock_owner, flags) + data, **ids)


def statfs(nodeid: int, **ids: Unpack[Ids]) -> bytes:
    return request(17, nodeid, **ids)


def _release(fh: int, flags: int, release_flags: int, lock_owner: int) -> bytes:
    return struct.pack("=QIIQ", fh, flags, release_flags, lock_owner)


def release(nodeid: int, fh: int, flags: int = 0, release_flags: int = 0, lock_owner: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(18, nodeid, _release(fh, flags, release_flags, lock_owner), **ids)


def fsync(nodeid: int, fh: int, fsync_flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(20, nodeid, struct.pack("=QII", fh, fsync_flags, 0), **ids)


def setxattr(nodeid: int, name: bytes, value: bytes, flags: int = 0, setxattr_flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    fixed = struct.pack("=IIII", len(value), flags, setxattr_flags, 0)
    return request(21, nodeid, fixed + name + NUL + value, **ids)


def setxattr_compat(nodeid: int, name: bytes, value: bytes, flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    """SETXATTR as it is without SETXATTR_EXT."""
    return request(21, nodeid, struct.pack("=II", len(value), flags) + name + NUL + value, **ids)


def getxattr(nodeid: int, name: bytes, size: int, **ids: Unpack[Ids]) -> bytes:
    return request(22, nodeid, struct.pack("=II", size, 0) + name + NUL, **ids)


def listxattr(nodeid: int, size: int, **ids: Unpack[Ids]) -> bytes:
    return request(23, nodeid, struct.pack("=II", size, 0), **ids)


def removexattr(nodeid: int, name: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(24, nodeid, name + NUL, **ids)


def flush(nodeid: int, fh: int, lock_owner: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(25, nodeid, struct.pack("=QIIQ", fh, 0, 0, lock_owner), **ids)


def init(major: int, minor: int, flags: int, max_readahead: int = 131072, **ids: Unpack[Ids]) -> bytes:
    """INIT as a kernel from 7.36 on sends it; `flags` has 64 bits."""
    body = struct.pack("=IIIII44x", major, minor, max_readahead, flags & 0xFFFFFFFF, flags >> 32)
    return request(26, 0, body, **ids)


def init_old(major: int, minor: int, flags: int, max_readahead: int = 131072, **ids: Unpack[Ids]) -> bytes:
    """INIT as a kernel before 7.36 sends it."""
    return request(26, 0, struct.pack("=IIII", major, minor, max_readahead, flags), **ids)


def opendir(nodeid: int, flags: int = 0, open_flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(27, nodeid, struct.pack("=II", flags, open_flags), **ids)


def readdir(nodeid: int, fh: int, offset: int, size: int, **ids: Unpack[Ids]) -> bytes:
    return request(28, nodeid, _read(fh, offset, size, 0, 0, 0), **ids)


def releasedir(nodeid: int, fh: int, flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(29, nodeid, _release(fh, flags, 0, 0), **ids)


def fsyncdir(nodeid: int, fh: int, fsync_flags: int = 0, **ids: Unpack[Ids]) -> bytes:
    return request(30, nodeid, struct.pack("=QII", fh, fsync_flags, 0), **ids)


class Lock(NamedTuple):
    """What GETLK, SETLK and SETLKW carry."""

    fh: int
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lk_flags: int = 0


def lk(opcode: int, nodeid: int, lock: Lock, **ids: Unpack[Ids]) -> bytes:
    """GETLK (31), SETLK (32) or SETLKW (33)."""
    return request(opcode, nodeid, struct.pack("=QQQQIIII", *lock, 0), **ids)


def access(nodeid: int, mask: int, **ids: Unpack[Ids]) -> bytes:
    return request(34, nodeid, struct.pack("=II", mask, 0), **ids)


def create(
    nodeid: int,
    name: bytes,
    flags: int,
    mode: int,
    umask: int = 0,
    open_flags: int = 0,
    extensions: bytes = b"",
    **ids: Unpack[Ids],
) -> bytes:
    return request(35, nodeid, struct.pack("=IIII", flags, mode, umask, open_flags) + name + NUL, extensions, **ids)


def interrupt(interrupted: int, **ids: Unpack[Ids]) -> bytes:
    return request(36, 0, struct.pack("=Q", interrupted), **ids)


def bmap(nodeid: int, block: int, blocksize: int, **ids: Unpack[Ids]) -> bytes:
    return request(37, nodeid, struct.pack("=QII", block, blocksize, 0), **ids)


def destroy(**ids: Unpack[Ids]) -> bytes:
    return request(38, 0, **ids)


def ioctl(
    nodeid: int,
    fh: int,
    cmd: int,
    arg: int = 0,
    data: bytes = b"",
    out_size: int = 0,
    flags: int = 0,
    **ids: Unpack[Ids],
) -> bytes:
    return request(39, nodeid, struct.pack("=QIIQII", fh, flags, cmd, arg, len(data), out_size) + data, **ids)


def poll(nodeid: int, fh: int, kh: int, flags: int, events: int, **ids: Unpack[Ids]) -> bytes:
    return request(40, nodeid, struct.pack("=QQII", fh, kh, flags, events), **ids)


def notify_reply(nodeid: int, offset: int, data: bytes, **ids: Unpack[Ids]) -> bytes:
    return request(41, nodeid, struct.pack("=QQIIQQ", 0, offset, len(data), 0, 0, 0) + data, **ids)


def batch_forget(items: list[tuple[int, int]], **ids: Unpack[Ids]) -> bytes:
    """`items`: pairs (nodeid, nlookup)."""
    return request(42, 0, struct.pack("=II", len(items), 0) + b"".join(struct.pack("=QQ", *i) for i in items), **ids)


def fallocate(nodeid: int, fh: int, offset: int, length: int, mode: int, **ids: Unpack[Ids]) -> bytes:
    return request(43, nodeid, struct.pack("=QQQII", fh, offset, length, mode, 0), **ids)


def readdirplus(nodeid: int, fh: int, offset: int, size: int, **ids: Unpack[Ids]) -> bytes:
    return request(44, nodeid, _read(fh, offset, size, 0, 0, 0), **ids)


def rename2(nodeid: int, oldname: bytes, newdir: int, newname: bytes, flags: int, **ids: Unpack[Ids]) -> bytes:
    return request(45, nodeid, struct.pack("=QII", newdir, flags, 0) + oldname + NUL + newname + NUL, **ids)


def lseek(nodeid: int, fh: int, offset: int, whence: int, **ids: Unpack[Ids]) -> bytes:
    return request(46, nodeid, struct.pack("=QqII", fh, offset, whence, 0), **ids)


class Range(NamedTuple):
    """What the operations COPY_FILE_RANGE carry."""

    fh_in: int
    off_in: int
    nodeid_out: int
    fh_out: int
    off_out: int
    length: int
    flags: int = 0


def copy_file_range(opcode: int, nodeid: int, copied: Range, **ids: Unpack[Ids]) -> bytes:
    """COPY_FILE_RANGE (47) or COPY_FILE_RANGE_64 (53)."""
    return request(opcode, nodeid, struct.pack("=QQQQQQQ", *copied), **ids)


def setupmapping(nodeid: int, fh: int, foffset: int, length: int, flags: int, moffset: int, **ids: Unpack[Ids]) -> bytes:
    return request(48, nodeid, struct.pack("=QQQQQ", fh, foffset, length, flags, moffset), **ids)


def removemapping(nodeid: int, items: list[tuple[int, int]], **ids: Unpack[Ids]) -> bytes:
    """`items`: pairs (moffset, length)."""
    return request(49, nodeid, struct.pack("=I", len(items)) + b"".join(struct.pack("=QQ", *i) for i in items), **ids)


def syncfs(nodeid: int, **ids: Unpack[Ids]) -> bytes:
    return request(50, nodeid, bytes(8), **ids)


def tmpfile(
    nodeid: int,
    flags: int,
    mode: int,
    umask: int = 0,
    open_flags: int = 0,
    extensions: bytes = b"",
    **ids: Unpack[Ids],
) -> bytes:
    """TMPFILE, with the name that the VFS gives a file without one."""
    return request(51, nodeid, struct.pack("=IIII", flags, mode, umask, open_flags) + b"/" + NUL, extensions, **ids)


def statx(nodeid: int, sx_flags: int, sx_mask: int, fh: int | None = None, **ids: Unpack[Ids]) -> bytes:
    return request(52, nodeid, struct.pack("=IIQII", fh is not None, 0, fh or 0, sx_flags, sx_mask), **ids)


def cuse_init(major: int, minor: int, flags: int, **ids: Unpack[Ids]) -> bytes:
    return request(4096, 0, struct.pack("=IIII", major, minor, 0, flags), **ids)


def padded(record: bytes) -> bytes:
    """Zeros up to the next multiple of 8."""
    return record + bytes(-len(record) % 8)


def security_contexts(*contexts: tuple[bytes, bytes]) -> bytes:
    """The extension that carries labels: pairs (attribute name, value)."""
    records = b"".join(padded(struct.pack("=II", len(value), 0) + name + NUL + value) for name, value in contexts)
    return struct.pack("=II", 8 + len(records), len(contexts)) + records


def supplementary_groups(*groups: int) -> bytes:
    """The extension that carries groups; the kernel sends one."""
    payload = padded(struct.pack(f"=I{len(groups)}I", len(groups), *groups))
    return struct.pack("=II", 8 + len(payload), 32) + payload
