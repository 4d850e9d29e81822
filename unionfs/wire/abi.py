"""Which numbers does the FUSE ABI use? Operations, flags and limits of protocol 7.46, named as in <linux/fuse.h>.

The names lose the prefix FUSE_; FATTR_ and FOPEN_ stay. Flags are plain integers, since they are tested once per
request. INIT flags are 64-bit values: `flags | flags2 << 32` of the INIT messages.
"""

from enum import IntEnum
from typing import Final, NamedTuple

MAJOR: Final = 7
"""Major protocol version spoken here."""
MINOR: Final = 46
"""Newest minor version spoken here."""
MIN_MINOR: Final = 31
"""Oldest minor version of a kernel that is served (Linux 5.4)."""

ROOT_ID: Final = 1
"""Node id of the mount's root directory; the kernel never looks it up."""
MIN_READ_BUFFER: Final = 8192
"""Bytes: a read of the device with a smaller buffer fails with EINVAL."""
INVALID_UIDGID: Final = 0xFFFFFFFF
"""uid and gid of a request whose caller has no mapping (idmapped mounts, all but the creating operations)."""
UNIQUE_RESEND: Final = 1 << 63
"""Set in the id of a request that is sent again after NOTIFY_RESEND; the reply repeats the id with it."""
UNIQUE_INTERRUPT: Final = 1
"""Set in the id of an INTERRUPT; ordinary requests have even ids."""
DEV_IOC_MAGIC: Final = 229
"""Type byte of the ioctls of the device: 0 CLONE, 1 BACKING_OPEN, 2 BACKING_CLOSE, 3 SYNC_INIT."""

MAX_BACKGROUND: Final = 64
"""Background requests (readahead, writeback, asynchronous direct I/O) the kernel may have in flight; by default 12."""
CONGESTION_THRESHOLD: Final = 48
"""Background requests at which the device counts as congested: three quarters, the kernel's own proportion."""
DEFAULT_MAX_PAGES: Final = 32
"""Pages per request of a kernel without the flag MAX_PAGES."""
MAX_STACK_DEPTH: Final = 2
"""Deepest stack of file systems the kernel allows (FILESYSTEM_MAX_STACK_DEPTH)."""
MIN_MAX_WRITE: Final = 4096
"""Bytes: the kernel raises a smaller max_write to this."""


class Opcode(IntEnum):
    """Operation numbers of `fuse_in_header.opcode`."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53
    CUSE_INIT = 4096


NO_REPLY: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.NOTIFY_REPLY})
"""Operations that are never answered. (INTERRUPT may be answered, with EAGAIN or ENOSYS only.)"""


class NotifyCode(IntEnum):
    """What a message with unique 0 tells the kernel; stands in the error field of its header."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8
    PRUNE = 9


# INIT flags. What each does and whether unionfs wants it is decided in serve/.
ASYNC_READ: Final = 1 << 0
POSIX_LOCKS: Final = 1 << 1
FILE_OPS: Final = 1 << 2
ATOMIC_O_TRUNC: Final = 1 << 3
EXPORT_SUPPORT: Final = 1 << 4
BIG_WRITES: Final = 1 << 5
DONT_MASK: Final = 1 << 6
SPLICE_WRITE: Final = 1 << 7
SPLICE_MOVE: Final = 1 << 8
SPLICE_READ: Final = 1 << 9
FLOCK_LOCKS: Final = 1 << 10
HAS_IOCTL_DIR: Final = 1 << 11
AUTO_INVAL_DATA: Final = 1 << 12
DO_READDIRPLUS: Final = 1 << 13
READDIRPLUS_AUTO: Final = 1 << 14
ASYNC_DIO: Final = 1 << 15
WRITEBACK_CACHE: Final = 1 << 16
NO_OPEN_SUPPORT: Final = 1 << 17
PARALLEL_DIROPS: Final = 1 << 18
HANDLE_KILLPRIV: Final = 1 << 19
POSIX_ACL: Final = 1 << 20
ABORT_ERROR: Final = 1 << 21
MAX_PAGES: Final = 1 << 22
CACHE_SYMLINKS: Final = 1 << 23
NO_OPENDIR_SUPPORT: Final = 1 << 24
EXPLICIT_INVAL_DATA: Final = 1 << 25
MAP_ALIGNMENT: Final = 1 << 26
SUBMOUNTS: Final = 1 << 27
HANDLE_KILLPRIV_V2: Final = 1 << 28
SETXATTR_EXT: Final = 1 << 29
INIT_EXT: Final = 1 << 30
INIT_RESERVED: Final = 1 << 31
SECURITY_CTX: Final = 1 << 32
HAS_INODE_DAX: Final = 1 << 33
CREATE_SUPP_GROUP: Final = 1 << 34
HAS_EXPIRE_ONLY: Final = 1 << 35
DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
PASSTHROUGH: Final = 1 << 37
NO_EXPORT_SUPPORT: Final = 1 << 38
HAS_RESEND: Final = 1 << 39
ALLOW_IDMAP: Final = 1 << 40
OVER_IO_URING: Final = 1 << 41
REQUEST_TIMEOUT: Final = 1 << 42
HAS_IO_URING_BUFPOOL: Final = 1 << 43


class InodePassthrough(NamedTuple):
    """One version of the kernel interface by which operations on an inode pass through to a backing file.

    init_flag: FUSE_PASSTHROUGH_INO, the INIT flag.  until_minor: the protocol version from which on that bit means something
    else.  read, write, readdir, getattr, setattr: the bits of the operations in `ops_mask` of struct fuse_backing_map.
    """

    init_flag: int
    until_minor: int
    read: int
    write: int
    readdir: int
    getattr: int
    setattr: int

    @property
    def operations(self) -> int:
        """All bits that `ops_mask` may have."""
        return self.read | self.write | self.readdir | self.getattr | self.setattr


INODE_PASSTHROUGH_DRAFT: Final = InodePassthrough(
    init_flag=1 << 43,
    until_minor=46,
    read=1 << Opcode.READ - 1,
    write=1 << Opcode.WRITE - 1,
    readdir=1 << Opcode.READDIR - 1,
    getattr=1 << Opcode.GETATTR - 1,
    setattr=1 << Opcode.SETATTR - 1,
)
"""The proposal "fuse: extend passthrough to inode operations", second version; no released kernel has it.

A kernel that gets it with other numbers needs another such table, and nothing else: what the numbers stand for is in the
entry replies (`reply.Entry2`), the ioctl (`linux.fuse`) and serve/.
"""

# SETATTR valid: which fields of the request count.
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

# How the kernel is to treat an open file: flags of the OPEN, OPENDIR and CREATE replies.
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7
FOPEN_IO_URING_ZERO_COPY: Final = 1 << 8

# Flags inside single requests.
GETATTR_FH: Final = 1 << 0
OPEN_KILL_SUIDGID: Final = 1 << 0
READ_LOCKOWNER: Final = 1 << 1
WRITE_CACHE: Final = 1 << 0
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2
RELEASE_FLUSH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
FSYNC_FDATASYNC: Final = 1 << 0
SETXATTR_ACL_KILL_SGID: Final = 1 << 0
LK_FLOCK: Final = 1 << 0
POLL_SCHEDULE_NOTIFY: Final = 1 << 0
CUSE_UNRESTRICTED_IOCTL: Final = 1 << 0

IOCTL_COMPAT: Final = 1 << 0
IOCTL_UNRESTRICTED: Final = 1 << 1
IOCTL_RETRY: Final = 1 << 2
IOCTL_32BIT: Final = 1 << 3
IOCTL_DIR: Final = 1 << 4
IOCTL_COMPAT_X32: Final = 1 << 5

# RENAME2 flags: renameat2(2).
RENAME_NOREPLACE: Final = 1 << 0
RENAME_EXCHANGE: Final = 1 << 1
RENAME_WHITEOUT: Final = 1 << 2

# fuse_attr.flags
ATTR_SUBMOUNT: Final = 1 << 0
ATTR_DAX: Final = 1 << 1

# NOTIFY_INVAL_ENTRY flags
EXPIRE_ONLY: Final = 1 << 0

# Extension types: up to MAX_NR_SECCTX the type is the number of security contexts in the record.
MAX_NR_SECCTX: Final = 31
EXT_GROUPS: Final = 32
