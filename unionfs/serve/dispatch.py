"""Which handler serves which operation, and how does its answer become bytes?  One table.

What is not in the table is answered ENOSYS, which for these operations makes the kernel do the right thing for good:
OPENDIR (opened without a message), FLUSH, ACCESS (the kernel checks), POLL (always ready), BMAP, locks (kernel-local).
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any, NamedTuple

from unionfs.serve.attributes import Attributes, AttrReply, StatxReply
from unionfs.serve.context import Context
from unionfs.serve.directories import Directories
from unionfs.serve.fileio import Descriptors
from unionfs.serve.files import CreateReply, Files
from unionfs.serve.inode_passthrough import InodeBackings, InodeOperations
from unionfs.serve.ioctls import Ioctls
from unionfs.serve.listers import Listers
from unionfs.serve.lookahead import LookAhead
from unionfs.serve.names import Names
from unionfs.serve.opens import OpenReply, Opens
from unionfs.serve.passthrough import Backings
from unionfs.serve.splicing import FileRange
from unionfs.serve.statfs import Statfs
from unionfs.serve.xattrs import Xattrs
from unionfs.wire import reply
from unionfs.wire.abi import Opcode
from unionfs.wire.kinds import Header
from unionfs.wire.reply import DirBuffer, Entry


class Spliced(NamedTuple):
    """A reply whose data are a part of a file."""

    header: bytes
    data: FileRange


#: A reply in pieces for one message.
Message = list[bytes | memoryview] | Spliced


class Route(NamedTuple):
    """handle: (header, request) to a plain value or a coroutine of one.  encode: (unique, value) to the reply."""

    handle: Callable[[Header, Any], Any]
    encode: Callable[[int, Any], bytes | Message | None]


class Server:
    """All handlers over one union."""

    __slots__ = ("_backings", "_valid", "ahead", "directories", "files", "opens", "routes")

    def __init__(self, context: Context, backings: Backings) -> None:
        self._backings = backings
        self._valid = context.valid
        self.opens = Opens(context, backings, Descriptors(_descriptor_limit()))
        attributes = Attributes(context, self.opens)
        self.files = Files(context, attributes, self.opens)
        self.ahead = LookAhead(context.union)
        listers = Listers(context.notices)
        self.directories = Directories(context, attributes, self.opens, self.ahead, listers)
        self.routes = self._table(context, attributes, Names(context, attributes, self.files, listers))

    def _table(self, context: Context, attributes: Attributes, names: Names) -> dict[int, Route]:
        files = self.files
        directories, xattrs, ioctls = self.directories, Xattrs(context), Ioctls(context)
        rows: list[tuple[Opcode, Callable[[Header, Any], Any], Callable[[int, Any], bytes | Message | None]]] = [
            (Opcode.LOOKUP, names.lookup, self._lookup),
            (Opcode.FORGET, names.forget, _nothing),
            (Opcode.BATCH_FORGET, names.batch_forget, _nothing),
            (Opcode.GETATTR, attributes.getattr, _attr),
            (Opcode.STATX, attributes.statx, _statx),
            (Opcode.SETATTR, attributes.setattr, _attr),
            (Opcode.READLINK, names.readlink, _data),
            (Opcode.SYMLINK, names.symlink, reply.entry),
            (Opcode.MKNOD, names.mknod, reply.entry),
            (Opcode.MKDIR, names.mkdir, reply.entry),
            (Opcode.UNLINK, names.unlink, _empty),
            (Opcode.RMDIR, names.rmdir, _empty),
            (Opcode.RENAME, names.rename, _empty),
            (Opcode.RENAME2, names.rename, _empty),
            (Opcode.LINK, names.link, reply.entry),
            (Opcode.OPEN, files.open, _open),
            (Opcode.CREATE, files.create, _create),
            (Opcode.TMPFILE, files.tmpfile, _create),
            (Opcode.READ, files.read, _data),
            (Opcode.WRITE, files.write, reply.write),
            (Opcode.RELEASE, files.release, _empty),
            (Opcode.FSYNC, files.fsync, _empty),
            (Opcode.FSYNCDIR, files.fsync, _empty),
            (Opcode.SYNCFS, files.syncfs, _empty),
            (Opcode.FALLOCATE, files.fallocate, _empty),
            (Opcode.LSEEK, files.lseek, reply.lseek),
            (Opcode.COPY_FILE_RANGE, files.copy_file_range, reply.write),
            (Opcode.COPY_FILE_RANGE_64, files.copy_file_range, reply.copy_file_range_64),
            (Opcode.READDIR, directories.readdir, _listing),
            (Opcode.READDIRPLUS, directories.readdirplus, _listing),
            (Opcode.GETXATTR, xattrs.getxattr, _sized),
            (Opcode.LISTXATTR, xattrs.listxattr, _sized),
            (Opcode.SETXATTR, xattrs.setxattr, _empty),
            (Opcode.REMOVEXATTR, xattrs.removexattr, _empty),
            (Opcode.STATFS, Statfs(context).statfs, reply.statfs),
            (Opcode.IOCTL, ioctls.ioctl, _ioctl),
            (Opcode.DESTROY, _ignore, _empty),
            (Opcode.NOTIFY_REPLY, _ignore, _nothing),
        ]
        if isinstance(self._backings, InodeBackings):
            # The later row counts.
            rows += InodeOperations(context, self._backings, names, files).rows()
        return {int(opcode): Route(handle, encode) for opcode, handle, encode in rows}

    def _lookup(self, unique: int, entry: Entry | None) -> bytes:
        return reply.negative(unique, *self._valid) if entry is None else reply.entry(unique, entry)

    def trim(self) -> None:
        """Between requests: keep the number of open descriptors bounded."""
        self.opens.descriptors.trim()


def _descriptor_limit() -> int:
    """How many files the server keeps open for itself: a part of what it may, beside the directories."""
    return max(64, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 1024))


def _ignore(header: Header, request: Any) -> None:
    return None


def _nothing(unique: int, value: Any) -> None:
    return None


def _empty(unique: int, value: Any) -> bytes:
    return reply.empty(unique)


def _attr(unique: int, value: AttrReply) -> bytes:
    return reply.attr(unique, value.valid[0], value.attr, value.valid[1])


def _statx(unique: int, value: StatxReply) -> bytes:
    return reply.statx(unique, value.valid[0], value.statx, value.valid[1])


def _data(unique: int, value: bytes | memoryview | FileRange) -> Message:
    if isinstance(value, FileRange):
        return Spliced(reply.data_header(unique, value.length), value)
    return [reply.data_header(unique, len(value)), value]


def _sized(unique: int, value: bytes | int) -> bytes:
    return reply.xattr_size(unique, value) if isinstance(value, int) else reply.data(unique, value)


def _open(unique: int, value: OpenReply) -> bytes:
    return reply.open_(unique, value.fh, value.flags, value.backing_id)


def _create(unique: int, value: CreateReply) -> bytes:
    return reply.create(unique, value.entry, *value.opened)


def _listing(unique: int, value: DirBuffer) -> bytes:
    return value.reply(unique)


def _ioctl(unique: int, value: bytes) -> bytes:
    return reply.ioctl(unique, 0, value)
