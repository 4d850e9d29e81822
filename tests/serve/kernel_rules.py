"""What does the kernel make of backing files, opens and entries?  Its rules, written down without looking at the server.

Those of released kernels are in fs/fuse/backing.c, passthrough.c and iomode.c of Linux 6.18: one inode is in one I/O mode, all
its opens by passthrough name one backing file, and whatever does not fit ends as EIO at the user.  Those of the draft
"fuse: extend passthrough to inode operations" come on top once its flag is agreed on.

Every rule that is broken raises OSError with the errno that the ioctl, the lookup or the open would end with.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from dataclasses import dataclass, field

from unionfs.linux import fs

DIRECT_IO, NOFLUSH, PARALLEL, PASSTHROUGH = 1 << 0, 1 << 5, 1 << 6, 1 << 7
MAY_ACCOMPANY = PASSTHROUGH | DIRECT_IO | PARALLEL | NOFLUSH
INIT_WRITEBACK, INIT_EXT, INIT_PASSTHROUGH, INIT_INODES = 1 << 16, 1 << 30, 1 << 37, 1 << 43
GETATTR, SETATTR, READ, WRITE, READDIR = 1 << 2, 1 << 3, 1 << 14, 1 << 15, 1 << 27
OPERATIONS = GETATTR | SETATTR | READ | WRITE | READDIR
MOST_STACKED = 2

#: How deep a superblock of that type is stacked already; procfs lets nothing be stacked on it.
_DEPTHS = {0x794C7630: 1, 0x9FA0: 2}


@dataclass(eq=False)
class Backing:
    """A registered file.  fd: the kernel's own reference, an O_PATH descriptor here."""

    fd: int
    operations: int
    users: int = 1

    @property
    def ino(self) -> int:
        return os.fstat(self.fd).st_ino

    @property
    def kind(self) -> int:
        return modes.S_IFMT(os.fstat(self.fd).st_mode)

    def drop(self) -> None:
        self.users -= 1
        if not self.users:
            os.close(self.fd)


@dataclass(eq=False)
class Opened:
    """One open file: what the server said of it, and its mode (fuse_file.iomode)."""

    nodeid: int
    fh: int
    flags: int
    cached: bool
    backing: Backing | None


@dataclass(eq=False)
class Inode:
    """A FUSE inode.  attached: its backing file for life.  opens: those that live."""

    nodeid: int
    ino: int
    kind: int
    lookups: int = 0
    attached: Backing | None = None
    opens: list[Opened] = field(default_factory=list)

    @property
    def cached(self) -> int:
        return sum(opened.cached for opened in self.opens)

    @property
    def backing(self) -> Backing | None:
        """The attached one, or that of the live opens."""
        return self.attached or next((opened.backing for opened in self.opens if opened.backing is not None), None)


class Rules:
    """The kernel's side of one connection."""

    def __init__(self) -> None:
        self.flags = 0
        self.max_stack_depth = 0
        self.inodes: dict[int, Inode] = {}
        self.backings: dict[int, Backing] = {}
        self.told: dict[int, int] = {}
        self._last_id = 0

    @property
    def passthrough(self) -> bool:
        """What process_init_reply makes of flags and depth."""
        depth = 0 < self.max_stack_depth <= MOST_STACKED
        return bool(self.flags & INIT_EXT and self.flags & INIT_PASSTHROUGH) and depth and not self.flags & INIT_WRITEBACK

    @property
    def inode_operations(self) -> bool:
        return self.passthrough and bool(self.flags & INIT_INODES)

    def close(self) -> None:
        """The end of the connection."""
        for inode in self.inodes.values():
            self._evict(inode)
        self.inodes.clear()
        for backing in self.backings.values():
            backing.drop()
        self.backings.clear()

    def backing_open(self, fd: int, operations: int = 0, privileged: bool = True) -> int:
        """FUSE_DEV_IOC_BACKING_OPEN."""
        if not self.passthrough or not privileged:
            raise OSError(errno.EPERM, "no passthrough")
        if operations and not self.inode_operations:
            raise OSError(errno.EINVAL, "padding is not zero")
        if operations & ~OPERATIONS:
            raise OSError(errno.EINVAL, "unknown operations")
        kind = modes.S_IFMT(os.fstat(fd).st_mode)
        if kind != modes.S_IFREG and not operations & ~(READ | WRITE):
            raise OSError(errno.EISDIR if kind == modes.S_IFDIR else errno.EINVAL, "not a regular file")
        if _DEPTHS.get(fs.statfs(fd).type, 0) >= self.max_stack_depth:
            raise OSError(errno.ELOOP, "stacked too deep")
        self._last_id += 1
        self.backings[self._last_id] = Backing(os.dup(fd), operations)
        return self._last_id

    def backing_close(self, backing_id: int) -> None:
        """FUSE_DEV_IOC_BACKING_CLOSE; who uses it keeps it."""
        if not self.passthrough:
            raise OSError(errno.EPERM, "no passthrough")
        if backing_id not in self.backings:
            raise OSError(errno.ENOENT, "no such backing file")
        self.backings.pop(backing_id).drop()

    def entry(self, nodeid: int, ino: int, mode: int, backing_id: int = 0) -> Inode:
        """An entry reply: the inode it names, made if need be, with the backing file it gives it."""
        kind = modes.S_IFMT(mode)
        inode = self.inodes.get(nodeid)
        if inode is None:
            inode = self.inodes[nodeid] = Inode(nodeid, ino, kind)
        elif inode.kind != kind or (self.inode_operations and inode.ino != ino):
            raise OSError(errno.EIO, "another inode under the same nodeid")
        inode.lookups += 1
        if backing_id:
            self._attach(inode, backing_id)
        return inode

    def _attach(self, inode: Inode, backing_id: int) -> None:
        if not self.inode_operations:
            raise OSError(errno.EINVAL, "no inode operations")
        backing = self.backings.get(backing_id)
        if backing is None:
            raise OSError(errno.EIO, "unknown backing file")
        if not backing.operations & GETATTR:
            raise OSError(errno.EOPNOTSUPP, "GETATTR is the minimum")
        if backing.kind != inode.kind or (backing.operations & READDIR and inode.kind != modes.S_IFDIR):
            raise OSError(errno.EIO, "types differ")
        if backing.ino != inode.ino:
            raise OSError(errno.EIO, "numbers differ")
        if inode.attached is not None:
            return
        if inode.cached or inode.backing not in (None, backing):
            raise OSError(errno.EBUSY, "another backing file, or cached I/O")
        inode.attached = backing
        backing.users += 1

    def open(self, nodeid: int, fh: int, flags: int, backing_id: int) -> Opened:
        """A reply to OPEN, or that half of a reply to CREATE.  Everything that does not fit is EIO (fuse_file_io_open)."""
        inode = self.inodes[nodeid]
        if inode.kind == modes.S_IFDIR:
            return Opened(nodeid, fh, flags, False, None)
        if not flags & PASSTHROUGH:
            if inode.backing is not None:
                raise OSError(errno.EIO, "an open past the backing file, which the inode has")
            opened = Opened(nodeid, fh, flags, not flags & DIRECT_IO, None)
        else:
            opened = Opened(nodeid, fh, flags, False, self._for_open(inode, flags, backing_id))
        inode.opens.append(opened)
        return opened

    def _for_open(self, inode: Inode, flags: int, backing_id: int) -> Backing:
        """fuse_file_passthrough_open and fuse_inode_uncached_io_start."""
        if not self.passthrough or flags & ~MAY_ACCOMPANY:
            raise OSError(errno.EIO, "flags that do not go with passthrough")
        if backing_id == 0 and inode.attached is not None:
            backing = inode.attached
        else:
            found = self.backings.get(backing_id)
            if found is None:
                raise OSError(errno.EIO, "unknown backing file")
            backing = found
        if inode.backing not in (None, backing):
            raise OSError(errno.EIO, "another backing file is in use")
        if inode.cached:
            raise OSError(errno.EIO, "cached I/O is in the way")
        if backing.kind != inode.kind:
            raise OSError(errno.EIO, "types differ")
        if self.inode_operations and backing.ino != inode.ino:
            raise OSError(errno.EIO, "numbers differ")
        backing.users += 1
        return backing

    def map_shared(self, opened: Opened) -> None:
        """mmap(2) of an open file (fuse_file_mmap): past an inode's backing file there is none, and it counts as cached."""
        if opened.backing is not None:
            return
        if self.inodes[opened.nodeid].backing is not None:
            raise OSError(errno.ENODEV, "mapped past the backing file")
        opened.cached = True

    def release(self, nodeid: int, fh: int) -> None:
        """The last close of an open file that has this handle."""
        inode = self.inodes[nodeid]
        opened = next(one for one in inode.opens if one.fh == fh)
        inode.opens.remove(opened)
        if opened.backing is not None:
            opened.backing.drop()

    def forget(self, nodeid: int, lookups: int) -> None:
        """The kernel drops references; with the last the inode goes."""
        inode = self.inodes.get(nodeid)
        if inode is None:
            return
        inode.lookups -= lookups
        assert inode.lookups >= 0, "forgotten more often than looked up"
        if not inode.lookups:
            assert not inode.opens, "an inode that is open is not forgotten"
            self.evict(nodeid)

    def evict(self, nodeid: int) -> int:
        """Drop the inode; how often it was looked up is what a FORGET has to say yet."""
        inode = self.inodes.pop(nodeid)
        self._evict(inode)
        return inode.lookups

    def _evict(self, inode: Inode) -> None:
        for opened in inode.opens:
            if opened.backing is not None:
                opened.backing.drop()
        if inode.attached is not None:
            inode.attached.drop()
