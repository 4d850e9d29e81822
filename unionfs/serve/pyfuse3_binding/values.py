"""How do pyfuse3's objects and the handlers' plain values become each other?"""

from __future__ import annotations

from typing import Final

import pyfuse3

from unionfs.serve.attributes import AttrReply
from unionfs.serve.opens import OpenReply
from unionfs.wire import abi
from unionfs.wire.kinds import Setattr
from unionfs.wire.reply import Attr, Entry, Statfs

_SECOND: Final = 1_000_000_000
#: The handlers' own file handles are below: a few bits that say what an open is counted as.
_HANDLES: Final = 1 << 16


def entry(found: Entry, number: int) -> pyfuse3.EntryAttributes:
    """The reply that names a node by `number`.

    Attributes that would show another inode number than the node's are not to be kept: stat(2) asks again then.
    """
    made = _attributes(found.attr, number)
    made.generation = found.generation
    made.entry_timeout = found.entry_valid + found.entry_valid_nsec / _SECOND
    made.attr_timeout = found.attr_valid + found.attr_valid_nsec / _SECOND if number == found.attr.ino else 0
    return made


def attributes(answer: AttrReply) -> pyfuse3.EntryAttributes:
    """The reply to GETATTR and SETATTR, which names no node."""
    made = _attributes(answer.attr, answer.attr.ino)
    made.attr_timeout = answer.valid[0] + answer.valid[1] / _SECOND
    return made


def _attributes(attr: Attr, number: int) -> pyfuse3.EntryAttributes:
    made = pyfuse3.EntryAttributes()
    made.st_ino = number
    made.st_mode = attr.mode
    made.st_nlink = attr.nlink
    made.st_uid = attr.uid
    made.st_gid = attr.gid
    made.st_rdev = attr.rdev
    made.st_size = attr.size
    made.st_blksize = attr.blksize
    made.st_blocks = attr.blocks
    made.st_atime_ns = attr.atime * _SECOND + attr.atimensec
    made.st_mtime_ns = attr.mtime * _SECOND + attr.mtimensec
    made.st_ctime_ns = attr.ctime * _SECOND + attr.ctimensec
    return made


def missing(valid: tuple[int, int]) -> pyfuse3.EntryAttributes:
    """There is no such name, which may be remembered for `valid`, in seconds and nanoseconds."""
    made = pyfuse3.EntryAttributes()
    made.st_ino = 0
    made.entry_timeout = valid[0] + valid[1] / _SECOND
    return made


def name_only(ino: int, dtype: int) -> pyfuse3.EntryAttributes:
    """A listed name with an inode number, for which the kernel is to take no node.  dtype: DT_ type of readdir(3).

    It lists the name, finds that no file can be of this size, and drops the reference it would have taken to the node with this
    number (fs/fuse/readdir.c, parse_dirplusfile).
    """
    made = pyfuse3.EntryAttributes()
    made.st_ino = ino
    made.st_mode = dtype << 12
    made.st_size = -1
    made.entry_timeout = 0
    made.attr_timeout = 0
    return made


def file_info(nodeid: int, opened: OpenReply) -> pyfuse3.FileInfo:
    """The reply to an open.  The kernel's file handle says the node, too, which pyfuse3 does not at reads and writes."""
    direct, keep = bool(opened.flags & abi.FOPEN_DIRECT_IO), bool(opened.flags & abi.FOPEN_KEEP_CACHE)
    return pyfuse3.FileInfo(fh=nodeid * _HANDLES + opened.fh, direct_io=direct, keep_cache=keep)


def of_file(fh: int) -> tuple[int, int]:
    """The nodeid and the handlers' own file handle in a file handle of the kernel's."""
    return divmod(fh, _HANDLES)


def setattr_request(wanted: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None) -> Setattr:
    """SETATTR's arguments.  That a time was to be the present one is not said: pyfuse3 has read the clock."""
    bits = (
        (fields.update_mode, abi.FATTR_MODE), (fields.update_uid, abi.FATTR_UID), (fields.update_gid, abi.FATTR_GID),
        (fields.update_size, abi.FATTR_SIZE), (fields.update_atime, abi.FATTR_ATIME), (fields.update_mtime, abi.FATTR_MTIME),
        (fh is not None, abi.FATTR_FH),
    )  # fmt: skip
    atime, atimensec = divmod(wanted.st_atime_ns, _SECOND)
    mtime, mtimensec = divmod(wanted.st_mtime_ns, _SECOND)
    return Setattr(
        valid=sum(bit for is_set, bit in bits if is_set), fh=fh or 0, size=wanted.st_size, lock_owner=0,
        atime=atime, mtime=mtime, ctime=0, atimensec=atimensec, mtimensec=mtimensec, ctimensec=0,
        mode=wanted.st_mode, uid=wanted.st_uid, gid=wanted.st_gid,
    )  # fmt: skip


def statfs(found: Statfs) -> pyfuse3.StatvfsData:
    """The reply to STATFS."""
    made = pyfuse3.StatvfsData()
    made.f_bsize = found.bsize
    made.f_frsize = found.frsize
    made.f_blocks = found.blocks
    made.f_bfree = found.bfree
    made.f_bavail = found.bavail
    made.f_files = found.files
    made.f_ffree = found.ffree
    made.f_favail = found.ffree
    made.f_namemax = found.namelen
    return made
