"""What kinds of requests are there, and what does each carry? One named tuple per kind, and the header of all.

Field names follow <linux/fuse.h>. Names are bytes without their NUL; they are never empty and hold no slash, but may be
longer than a file system allows, and `.` or `..` (LOOKUP with EXPORT_SUPPORT).
"""

from typing import NamedTuple

from unionfs.wire.extension import Extensions


class Header(NamedTuple):
    """fuse_in_header: who asks what of which node.

    `length` counts the whole message in bytes, `total_extlen` the extensions at its end in units of 8 bytes. `uid`,
    `gid` are the caller's fsuid and fsgid and `pid` its thread id, as seen from the mount's namespaces (0: not
    visible there).
    """

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    total_extlen: int


class Lookup(NamedTuple):
    """LOOKUP: which node has this name in the directory `header.nodeid`?"""

    name: bytes


class Forget(NamedTuple):
    """FORGET: the kernel drops `nlookup` of its references to the node. No reply."""

    nlookup: int


class BatchForget(NamedTuple):
    """BATCH_FORGET: several FORGETs, as pairs (nodeid, nlookup). No reply."""

    items: tuple[tuple[int, int], ...]


class Getattr(NamedTuple):
    """GETATTR; `fh` counts when `flags` has GETATTR_FH."""

    flags: int
    fh: int


class Setattr(NamedTuple):
    """SETATTR: the attributes that the FATTR_ bits of `valid` name. Times in (signed) seconds and nanoseconds."""

    valid: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    uid: int
    gid: int


class Readlink(NamedTuple):
    """READLINK: no arguments."""


class Symlink(NamedTuple):
    """SYMLINK: `name` in the directory is to lead to `target`."""

    name: bytes
    target: bytes
    extensions: Extensions


class Mknod(NamedTuple):
    """MKNOD; `rdev` is a dev_t as os.mknod() takes it (the kernel's 32-bit encoding is the low half of glibc's)."""

    mode: int
    rdev: int
    umask: int
    name: bytes
    extensions: Extensions


class Mkdir(NamedTuple):
    """MKDIR; `mode` may lack the type bits."""

    mode: int
    umask: int
    name: bytes
    extensions: Extensions


class Unlink(NamedTuple):
    """UNLINK: the name of a non-directory."""

    name: bytes


class Rmdir(NamedTuple):
    """RMDIR: the name of a directory."""

    name: bytes


class Rename(NamedTuple):
    """RENAME (`flags` 0) and RENAME2 (RENAME_ bits): from the directory `header.nodeid` to `newdir`."""

    newdir: int
    flags: int
    oldname: bytes
    newname: bytes


class Link(NamedTuple):
    """LINK: a further name, in the directory `header.nodeid`, for the node `oldnodeid`."""

    oldnodeid: int
    newname: bytes


class Open(NamedTuple):
    """OPEN: `flags` as of open(2), without O_CREAT, O_EXCL and O_NOCTTY; `open_flags` may have OPEN_KILL_SUIDGID."""

    flags: int
    open_flags: int


class Read(NamedTuple):
    """READ: up to `size` bytes from `offset`. `flags` as of open(2); `lock_owner` counts with READ_LOCKOWNER."""

    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


class Write(NamedTuple):
    """WRITE: `data`, `size` bytes long and not copied, goes to `offset`. `write_flags`: WRITE_ bits."""

    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    data: memoryview


class Statfs(NamedTuple):
    """STATFS: no arguments."""


class Release(NamedTuple):
    """RELEASE and RELEASEDIR: the last descriptor of the open is gone. `release_flags`: RELEASE_ bits."""

    fh: int
    flags: int
    release_flags: int
    lock_owner: int


class Fsync(NamedTuple):
    """FSYNC and FSYNCDIR; FSYNC_FDATASYNC in `fsync_flags`: data only."""

    fh: int
    fsync_flags: int


class Setxattr(NamedTuple):
    """SETXATTR; `flags`: XATTR_CREATE, XATTR_REPLACE; `setxattr_flags`: SETXATTR_ACL_KILL_SGID, 0 if not negotiated."""

    name: bytes
    value: bytes
    flags: int
    setxattr_flags: int


class Getxattr(NamedTuple):
    """GETXATTR: into a buffer of `size` bytes; 0 asks for the length."""

    name: bytes
    size: int


class Listxattr(NamedTuple):
    """LISTXATTR: into a buffer of `size` bytes; 0 asks for the length."""

    size: int


class Removexattr(NamedTuple):
    """REMOVEXATTR."""

    name: bytes


class Flush(NamedTuple):
    """FLUSH: one descriptor of the open was closed by the owner `lock_owner`."""

    fh: int
    lock_owner: int


class Init(NamedTuple):
    """INIT: the kernel's version and what it offers; `flags` is the 64-bit union of both flag words."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class Opendir(NamedTuple):
    """OPENDIR: as `Open`."""

    flags: int
    open_flags: int


class Readdir(NamedTuple):
    """READDIR and READDIRPLUS: entries after the cookie `offset` (0: from the start), at most `size` bytes of them."""

    fh: int
    offset: int
    size: int


class Access(NamedTuple):
    """ACCESS: `mask` as of access(2)."""

    mask: int


class Create(NamedTuple):
    """CREATE: make and open a regular file; `flags` as of open(2)."""

    flags: int
    mode: int
    umask: int
    open_flags: int
    name: bytes
    extensions: Extensions


class Tmpfile(NamedTuple):
    """TMPFILE: as `Create` for a file without a name; the kernel sends the name `/`, which says nothing."""

    flags: int
    mode: int
    umask: int
    open_flags: int
    name: bytes
    extensions: Extensions


class Interrupt(NamedTuple):
    """INTERRUPT: the caller of the request `unique` wants no answer any more."""

    unique: int


class Ioctl(NamedTuple):
    """IOCTL: `data` (`in_size` bytes) goes in, up to `out_size` bytes go out; `arg` is the caller's third argument."""

    fh: int
    flags: int
    cmd: int
    arg: int
    in_size: int
    out_size: int
    data: bytes


class Poll(NamedTuple):
    """POLL: which of `events` are there; with POLL_SCHEDULE_NOTIFY a later NOTIFY_POLL names `kh`."""

    fh: int
    kh: int
    flags: int
    events: int


class NotifyReply(NamedTuple):
    """NOTIFY_REPLY: what NOTIFY_RETRIEVE asked for, `data` not copied; `header.unique` its notify_unique. No reply."""

    offset: int
    size: int
    data: memoryview


class Fallocate(NamedTuple):
    """FALLOCATE: `mode` as of fallocate(2)."""

    fh: int
    offset: int
    length: int
    mode: int


class Lseek(NamedTuple):
    """LSEEK: only SEEK_DATA and SEEK_HOLE arrive; `offset` may be negative, as the caller gave it."""

    fh: int
    offset: int
    whence: int


class CopyFileRange(NamedTuple):
    """COPY_FILE_RANGE and COPY_FILE_RANGE_64: from the node `header.nodeid` to `nodeid_out`."""

    fh_in: int
    off_in: int
    nodeid_out: int
    fh_out: int
    off_out: int
    length: int
    flags: int


class Syncfs(NamedTuple):
    """SYNCFS: no arguments."""


class Statx(NamedTuple):
    """STATX: `sx_flags` and `sx_mask` as of statx(2); `fh` counts when `getattr_flags` has GETATTR_FH."""

    getattr_flags: int
    fh: int
    sx_flags: int
    sx_mask: int


class Lk(NamedTuple):
    """GETLK, SETLK and SETLKW: bytes `start` to `end` inclusive; `type` is F_RDLCK, F_WRLCK or F_UNLCK."""

    fh: int
    owner: int
    start: int
    end: int
    type: int
    pid: int
    lk_flags: int


class Bmap(NamedTuple):
    """BMAP: where on the device is this block of the file?"""

    block: int
    blocksize: int


class Destroy(NamedTuple):
    """DESTROY: the mount ends; no arguments."""


class Setupmapping(NamedTuple):
    """SETUPMAPPING: map part of a file into the DAX window (virtiofs only)."""

    fh: int
    foffset: int
    length: int
    flags: int
    moffset: int


class Removemapping(NamedTuple):
    """REMOVEMAPPING: unmap parts of the DAX window, pairs (moffset, length) (virtiofs only)."""

    items: tuple[tuple[int, int], ...]


class CuseInit(NamedTuple):
    """CUSE_INIT: a character device in user space; never sent to a file system."""

    major: int
    minor: int
    flags: int
