"""How does the server answer? Values encoded into complete replies, each ready for one write to the device.

A reply is `fuse_out_header` (length, negative errno, the request's id; 16 bytes) and the structure of its operation,
in one preassembled layout each. `unique` is the id of the request as it came, with UNIQUE_RESEND if that was set. A
value that does not fit its field raises struct.error, which is a mistake of the caller.
"""

import errno as errnos
import struct
from typing import Final, NamedTuple

Payload = bytes | bytearray | memoryview


class Attr(NamedTuple):
    """fuse_attr, 88 bytes. `blocks` are of 512 bytes, times signed seconds and nanoseconds, `rdev` a 32-bit dev_t."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Entry(NamedTuple):
    """fuse_entry_out, 128 bytes: a node by name. Each one sent adds one to the lookup count of `nodeid`.

    `entry_valid` and `attr_valid` say for how many seconds the kernel may keep the name and the attributes without
    asking.
    """

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    attr: Attr


class Statfs(NamedTuple):
    """fuse_kstatfs: counts of blocks of `frsize` bytes, `bsize` being the preferred size of transfers."""

    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int


class Statx(NamedTuple):
    """fuse_statx, 256 bytes, bit for bit struct statx of statx(2). `mask`: which fields are there (STATX_ bits)."""

    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: int
    atimensec: int
    btime: int
    btimensec: int
    ctime: int
    ctimensec: int
    mtime: int
    mtimensec: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int


class Entry2(NamedTuple):
    """fuse_entry2_out, 312 bytes, in place of `Entry` once passthrough of inode operations is agreed on (a draft).

    As `Entry`, with the attributes as of statx(2). `backing_id`: the registered file that becomes the inode's backing file for
    its whole life, 0 for none; `flags`: none are known.
    """

    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int
    backing_id: int
    flags: int
    statx: Statx


# One reply is one structure: header, then what follows it. "i" in the header is the error, 0 wherever data follows.
_OUT = "IiQ"
_ATTR_FIELDS = "QQQqqqIIIIIIIIII"
_ENTRY_FIELDS = "QQQQII" + _ATTR_FIELDS
_STATX_FIELDS = "IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII112x"
_ENTRY2_FIELDS = "QQQQIIiI8x" + _STATX_FIELDS
_OPEN_FIELDS = "QIi"

_HEADER: Final = struct.Struct("=" + _OUT)
_ENTRY: Final = struct.Struct("=" + _OUT + _ENTRY_FIELDS)
_NEGATIVE: Final = struct.Struct("=" + _OUT + "16xQ8xI4x88x")
_ENTRY2: Final = struct.Struct("=" + _OUT + _ENTRY2_FIELDS)
_NEGATIVE2: Final = struct.Struct("=" + _OUT + "16xQ8xI4x272x")
_ATTR: Final = struct.Struct("=" + _OUT + "QI4x" + _ATTR_FIELDS)
_OPEN: Final = struct.Struct("=" + _OUT + _OPEN_FIELDS)
_CREATE: Final = struct.Struct("=" + _OUT + _ENTRY_FIELDS + _OPEN_FIELDS)
_CREATE2: Final = struct.Struct("=" + _OUT + _ENTRY2_FIELDS + _OPEN_FIELDS)
_SIZE: Final = struct.Struct("=" + _OUT + "I4x")
_LONG: Final = struct.Struct("=" + _OUT + "Q")
_STATFS: Final = struct.Struct("=" + _OUT + "QQQQQIII4x24x")
_STATX: Final = struct.Struct("=" + _OUT + "QII16x" + _STATX_FIELDS)
_IOCTL: Final = struct.Struct("=" + _OUT + "iIII")
_LK: Final = struct.Struct("=" + _OUT + "QQII")

_MAX_ERRNO: Final = 511


def error(unique: int, errno: int) -> bytes:
    """The request failed with the (positive) `errno`. The kernel takes 1 to 511; anything else is sent as EIO."""
    if not 1 <= errno <= _MAX_ERRNO:
        errno = errnos.EIO
    return _HEADER.pack(16, -errno, unique)


def empty(unique: int) -> bytes:
    """Success, for the operations that return nothing."""
    return _HEADER.pack(16, 0, unique)


def entry(unique: int, e: Entry) -> bytes:
    """A node: LOOKUP, MKNOD, MKDIR, SYMLINK, LINK."""
    nodeid, generation, entry_valid, attr_valid, entry_nsec, attr_nsec, attr = e
    return _ENTRY.pack(144, 0, unique, nodeid, generation, entry_valid, attr_valid, entry_nsec, attr_nsec, *attr)


def negative(unique: int, entry_valid: int, entry_valid_nsec: int = 0) -> bytes:
    """LOOKUP: there is no such name, and the kernel need not ask again for `entry_valid` seconds (and nanoseconds)."""
    return _NEGATIVE.pack(144, 0, unique, entry_valid, entry_valid_nsec)


def entry2(unique: int, e: Entry2) -> bytes:
    """What `entry` is, with passthrough of inode operations."""
    return _ENTRY2.pack(328, 0, unique, *e[:8], *e.statx)


def negative2(unique: int, entry_valid: int, entry_valid_nsec: int = 0) -> bytes:
    """What `negative` is, with passthrough of inode operations."""
    return _NEGATIVE2.pack(328, 0, unique, entry_valid, entry_valid_nsec)


def attr(unique: int, attr_valid: int, attr: Attr, attr_valid_nsec: int = 0) -> bytes:
    """The attributes, good for `attr_valid` seconds (and nanoseconds): GETATTR, SETATTR."""
    return _ATTR.pack(120, 0, unique, attr_valid, attr_valid_nsec, *attr)


def open_(unique: int, fh: int, flags: int, backing_id: int = 0) -> bytes:
    """OPEN, OPENDIR: the server's handle, FOPEN_ bits, and with FOPEN_PASSTHROUGH the id of the backing file.

    An id of 0 means the backing file that an `Entry2` gave the inode.
    """
    return _OPEN.pack(32, 0, unique, fh, flags, backing_id)


def create(unique: int, e: Entry, fh: int, flags: int, backing_id: int = 0) -> bytes:
    """CREATE, TMPFILE: the new node and its open file."""
    nodeid, generation, entry_valid, attr_valid, entry_nsec, attr_nsec, attr = e
    return _CREATE.pack(
        160, 0, unique, nodeid, generation, entry_valid, attr_valid, entry_nsec, attr_nsec, *attr, fh, flags, backing_id
    )


def create2(unique: int, e: Entry2, fh: int, flags: int, backing_id: int = 0) -> bytes:
    """What `create` is, with passthrough of inode operations; a `backing_id` of 0 means the inode's own backing file."""
    return _CREATE2.pack(344, 0, unique, *e[:8], *e.statx, fh, flags, backing_id)


def write(unique: int, size: int) -> bytes:
    """WRITE, COPY_FILE_RANGE: number of bytes written."""
    return _SIZE.pack(24, 0, unique, size)


def copy_file_range_64(unique: int, n: int) -> bytes:
    """COPY_FILE_RANGE_64: number of bytes copied."""
    return _LONG.pack(24, 0, unique, n)


def xattr_size(unique: int, size: int) -> bytes:
    """GETXATTR and LISTXATTR that asked for a length (their size was 0)."""
    return _SIZE.pack(24, 0, unique, size)


def data_header(unique: int, n: int) -> bytes:
    """The header of a reply whose `n` bytes of data follow in the same writev(2)."""
    return _HEADER.pack(16 + n, 0, unique)


def data(unique: int, payload: Payload) -> bytes:
    """Bytes as they are: READ, READLINK (without NUL), GETXATTR, LISTXATTR."""
    return _HEADER.pack(16 + len(payload), 0, unique) + payload


def statfs(unique: int, st: Statfs) -> bytes:
    """STATFS."""
    return _STATFS.pack(96, 0, unique, *st)


def lseek(unique: int, offset: int) -> bytes:
    """LSEEK: the offset found."""
    return _LONG.pack(24, 0, unique, offset)


def statx(unique: int, attr_valid: int, stat: Statx, attr_valid_nsec: int = 0) -> bytes:
    """STATX: as `attr`."""
    return _STATX.pack(304, 0, unique, attr_valid, attr_valid_nsec, 0, *stat)


def ioctl(unique: int, result: int, payload: Payload = b"") -> bytes:
    """IOCTL: what ioctl(2) returns, and the bytes it hands out. A failure is an `error` reply."""
    return _IOCTL.pack(32 + len(payload), 0, unique, result, 0, 0, 0) + payload


def poll(unique: int, revents: int) -> bytes:
    """POLL: the events that are there, as of poll(2)."""
    return _SIZE.pack(24, 0, unique, revents)


def lk(unique: int, start: int, end: int, type_: int, pid: int) -> bytes:
    """GETLK: the lock in the way, or type F_UNLCK."""
    return _LK.pack(40, 0, unique, start, end, type_, pid)


def bmap(unique: int, block: int) -> bytes:
    """BMAP: the block on the device."""
    return _LONG.pack(24, 0, unique, block)


# fuse_dirent is `uint64 ino, uint64 off, uint32 namelen, uint32 type` and the name, padded to a multiple of 8. "s" pads
# with zeros, so one layout per padded length makes a record in one call; the table ends at the names of file systems.
_COMMON_UNITS: Final = 33
_DIRENT: Final = tuple(struct.Struct(f"=QQII{8 * units}s") for units in range(_COMMON_UNITS))
_DIRENT_SIZE: Final = 24
# fuse_direntplus is a fuse_entry_out of 128 bytes before that.
_DIRENTPLUS_FIELDS: Final = "=" + _ENTRY_FIELDS + "QQII"
_DIRENTPLUS: Final = tuple(struct.Struct(_DIRENTPLUS_FIELDS + f"{8 * units}s") for units in range(_COMMON_UNITS))
_DIRENTPLUS_SIZE: Final = 152
_FIELDS_OF_NO_ENTRY: Final = (0,) * 22


class DirBuffer:
    """Collects entries for one reply of at most `limit` bytes (the request's `size`), not counting the header.

    `next_offset` is the cookie with which a later request goes on *after* this entry; `dtype` is the DT_ type of
    readdir(3). All entries of one buffer are added either with `add` or with `add_plus`, as the request says.
    """

    __slots__ = ("_left", "_records", "_size")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._size = 0
        self._records: list[bytes] = [b""]

    def __len__(self) -> int:
        """Bytes collected so far; 0 makes the reply that ends a listing."""
        return self._size

    def add(self, name: bytes, ino: int, next_offset: int, dtype: int) -> bool:
        """Adds a plain entry; False, and nothing added, when it no longer fits."""
        length = len(name)
        units = (length + 7) >> 3
        if _DIRENT_SIZE + 8 * units > self._left:
            return False
        layout = _DIRENT[units] if units < _COMMON_UNITS else struct.Struct(f"=QQII{8 * units}s")
        return self._put(layout.pack(ino, next_offset, length, dtype, name))

    def add_plus(self, entry: Entry | None, name: bytes, ino: int, next_offset: int, dtype: int) -> bool:
        """Adds an entry with its node, which counts as a lookup of it; None for no node (`.`, `..`, or on purpose).

        False, and nothing added or counted, when it no longer fits.
        """
        length = len(name)
        units = (length + 7) >> 3
        if _DIRENTPLUS_SIZE + 8 * units > self._left:
            return False
        layout = _DIRENTPLUS[units] if units < _COMMON_UNITS else struct.Struct(_DIRENTPLUS_FIELDS + f"{8 * units}s")
        if entry is None:
            return self._put(layout.pack(*_FIELDS_OF_NO_ENTRY, ino, next_offset, length, dtype, name))
        return self._put(layout.pack(*entry[:6], *entry[6], ino, next_offset, length, dtype, name))

    def _put(self, record: bytes) -> bool:
        self._records.append(record)
        size = len(record)
        self._size += size
        self._left -= size
        return True

    def reply(self, unique: int) -> bytes:
        """The complete reply. Where nothing was added it means the end of the directory."""
        self._records[0] = data_header(unique, self._size)
        return b"".join(self._records)
