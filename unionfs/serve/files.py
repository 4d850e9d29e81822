"""How are regular files opened, read and written?  The file operations."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from unionfs.linux import at, fs, procfs
from unionfs.linux.fd import Fd
from unionfs.linux.stat import Stat
from unionfs.overlay import attrs, create, files, protect
from unionfs.overlay.copyup import INLINE_LIMIT
from unionfs.overlay.creator import Creator
from unionfs.overlay.inodes import Former
from unionfs.overlay.node import DirNode, Node
from unionfs.serve import callers, policy, splicing
from unionfs.serve.attributes import Attributes
from unionfs.serve.fileio import FileIo
from unionfs.serve.opens import OpenReply, Opens
from unionfs.serve.splicing import FileRange
from unionfs.wire import abi
from unionfs.wire.kinds import (
    CopyFileRange,
    Create,
    Fallocate,
    Fsync,
    Header,
    Lseek,
    Open,
    Read,
    Release,
    Syncfs,
    Tmpfile,
    Write,
)  # fmt: skip
from unionfs.wire.reply import Entry

if TYPE_CHECKING:
    from unionfs.serve.context import Context

#: Smaller reads are cheaper copied twice than spliced.
_SPLICE_MIN: Final = 64 * 1024
_RWF_NOWAIT: Final = os.RWF_NOWAIT


class CreateReply(NamedTuple):
    """The new file's entry, and how it was opened."""

    entry: Entry
    opened: OpenReply


class Files:
    """The operations on regular files.  Handlers return a plain value, or a coroutine where they may take long."""

    __slots__ = ("_attributes", "_descriptors", "_held", "_union", "opens", "read_buffer")

    def __init__(self, context: Context, attributes: Attributes, opens: Opens) -> None:
        self._union = context.union
        self._attributes = attributes
        self._descriptors = opens.descriptors
        self._held = opens.held
        self.opens = opens
        self.read_buffer = memoryview(bytearray(context.max_write))

    def _file(self, nodeid: int) -> Node:
        node = self._union.node(nodeid)
        if node.is_dir:
            raise OSError(errno.EISDIR, "is a directory")
        return node

    def open(self, header: Header, request: Open) -> OpenReply:
        node, flags = self._file(header.nodeid), request.flags
        if flags & os.O_TRUNC or (node.former_ids and policy.is_writing(flags)):
            self.opens.bar_change(node)
        held = self._held if flags & os.O_TRUNC and self._held.on else None
        mtime = held.mtime_of(node, self.opens.io(node, header.nodeid)) if held is not None else None
        may_keep = callers.may_keep_set_ids(header) if request.open_flags & abi.OPEN_KILL_SUIDGID else None
        number = 0 if node.upper else node.ino
        files.prepare_open(self._union, node, flags, may_keep)
        if number and self._held.on and held is None:
            self._held.copied_up(self._union, node, number)
        opened = self.opens.open(node, header.nodeid, flags, header.pid)
        if held is not None and mtime is not None:
            held.changed(node, self.opens.io(node, header.nodeid), mtime)
        return opened

    def create(self, header: Header, request: Create) -> CreateReply:
        parent = self._union.node(header.nodeid)
        if not isinstance(parent, DirNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        who = Creator(header.uid, header.gid, request.umask)
        node, found, fd = create.create_file(self._union, parent, request.name, request.mode, who)
        return self._new_file(node, found, fd, request.flags)

    def tmpfile(self, header: Header, request: Tmpfile) -> CreateReply:
        parent = self._union.node(header.nodeid)
        if not isinstance(parent, DirNode):
            raise OSError(errno.ENOTDIR, "not a directory")
        who = Creator(header.uid, header.gid, request.umask)
        node, found, fd = create.make_tmpfile(self._union, parent, request.mode, who)
        return self._new_file(node, found, fd, request.flags)

    def _new_file(self, node: Node, found: Stat, fd: int, flags: int) -> CreateReply:
        node.attachment = io = FileIo()
        if self._held.on:
            io.mtime = (found.mtime, found.mtime_nsec)
        self._descriptors.keep(io, fd, True)
        opened = self.opens.open(node, node.nodeid, flags, 0, fd)
        return CreateReply(self._attributes.entry(node, found), opened)

    def release(self, header: Header, request: Release) -> Awaitable[None] | None:
        node = self._union.inodes.by_id.get(header.nodeid)
        if node is None or not request.fh:
            return None
        return self.opens.release(node, header.nodeid, request.fh)

    def name_lost(self, node: Node) -> None:
        """The last name of a file is gone."""
        self.opens.settle(node, node.attachment)

    def forgotten(self, gone: Node | Former) -> None:
        """The kernel forgot an inode."""
        self.opens.forgotten(gone.attachment)
        gone.attachment = None

    def read(self, header: Header, request: Read) -> memoryview | FileRange | Awaitable[bytes]:
        """What the page cache of the backing file holds is answered at once, the rest from a worker thread."""
        fd = self._descriptors.get(self._file(header.nodeid))
        size, offset = request.size, request.offset
        if size >= _SPLICE_MIN:
            length = min(size, os.fstat(fd).st_size - offset)
            if _SPLICE_MIN <= length <= splicing.LIMIT and self._is_cached(fd, offset, length):
                return FileRange(fd, offset, length)
        if size > len(self.read_buffer):
            return self._read_slowly(header.nodeid, size, offset)
        into = self.read_buffer[:size]
        try:
            done = os.preadv(fd, [into], offset, _RWF_NOWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise
            return self._read_slowly(header.nodeid, size, offset)
        if done < size and offset + done < os.fstat(fd).st_size:
            return self._read_slowly(header.nodeid, size, offset)
        return into[:done]

    def _is_cached(self, fd: int, offset: int, length: int) -> bool:
        """Are the first and the last byte in the page cache, and so most likely all between?"""
        into = self.read_buffer[:1]
        try:
            return (
                os.preadv(fd, [into], offset, _RWF_NOWAIT) == 1
                and os.preadv(fd, [into], offset + length - 1, _RWF_NOWAIT) == 1
            )
        except OSError:
            return False

    async def _read_slowly(self, nodeid: int, size: int, offset: int) -> bytes:
        node = self._file(nodeid)
        fd = os.dup(self._descriptors.get(node))
        try:
            return await trio.to_thread.run_sync(os.pread, fd, size, offset)
        finally:
            os.close(fd)

    def write(self, header: Header, request: Write) -> int:
        node = self._file(header.nodeid)
        if not node.data_upper:
            raise OSError(errno.EIO, "write to a file that was not copied up")
        if request.write_flags & abi.WRITE_KILL_SUIDGID:
            attrs.kill_privileges(self._union, node, callers.may_keep_set_ids(header))
            self._union.changed.append(node)
        fd = self._descriptors.get(node)
        if self._held.on:
            self._held.changing(node, node.attachment, fd)
        if request.write_flags & abi.WRITE_CACHE:
            # Pages changed through a mapping, or by a write that the kernel has held back: it removes the capability itself
            # when the write is made, and a capability given since must not go with it.
            with attrs.keeping_capability(fd):
                return self._write_late(node, fd, request)
        return os.pwrite(fd, request.data, request.offset)

    def _write_late(self, node: Node, fd: int, request: Write) -> int:
        """All of it or an error: of such a write the kernel doesn't look at how much was done, and nobody would be told."""
        data, done = request.data, 0
        try:
            while done < len(data):
                done += os.pwrite(fd, data[done:], request.offset + done)
        except OSError:
            self._held.failed(node)
            raise
        return done

    def fsync(self, header: Header, request: Fsync) -> Awaitable[None] | None:
        node = self._union.node(header.nodeid)
        durability = self._union.durability
        if self._held.on:
            self._held.settle(node)
        if durability.volatile:
            by_file = durability.needs_file and node.upper and node.is_regular
            durability.check(self._descriptors.get(node) if by_file else -1)
            return None
        if not node.upper:
            return None
        return self._fsync(node, bool(request.fsync_flags & abi.FSYNC_FDATASYNC))

    async def _fsync(self, node: Node, data_only: bool) -> None:
        if isinstance(node, DirNode):
            fd = os.open(procfs.fd_path(node.at()[0]), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        elif node.data is not None:
            # Its metadata alone are on the upper layer.
            fd = at.open_at(*node.at(), os.O_RDONLY | os.O_NONBLOCK)
        elif node.is_regular:
            fd = os.dup(self._descriptors.get(node))
        else:
            return
        try:
            await trio.to_thread.run_sync(os.fdatasync if data_only else os.fsync, fd)
        finally:
            os.close(fd)

    async def syncfs(self, header: Header, request: Syncfs) -> None:
        await trio.to_thread.run_sync(self._union.sync)

    def fallocate(self, header: Header, request: Fallocate) -> None:
        node = self._file(header.nodeid)
        if not node.data_upper:
            raise OSError(errno.EBADF, "not open for writing")
        protect.check_contents(node, appending=not request.mode & ~fs.FALLOC_FL_KEEP_SIZE)
        fd = self._descriptors.get(node)
        if self._held.on:
            self._held.changing(node, node.attachment, fd)
        fs.fallocate(fd, request.mode, request.offset, request.length)

    def lseek(self, header: Header, request: Lseek) -> int | Awaitable[int]:
        """SEEK_DATA and SEEK_HOLE; a file with writers may have data that only the kernel knows of."""
        node = self._file(header.nodeid)
        if self._held.on and node.attachment is not None and node.attachment.writers:
            return self._seek_written(node, request)
        return os.lseek(self._descriptors.get(node), request.offset, request.whence)

    async def _seek_written(self, node: Node, request: Lseek) -> int:
        await self._held.write_out(node.nodeid, request.offset)
        return os.lseek(self._descriptors.get(node), request.offset, request.whence)

    async def write_out_all(self) -> None:
        """Have the kernel write whatever it holds back of open files."""
        if self._held.on:
            for nodeid, node in list(self._union.inodes.by_id.items()):
                if node.is_regular and node.attachment is not None and node.attachment.writers:
                    await self._held.write_out(nodeid)

    def copy_file_range(self, header: Header, request: CopyFileRange) -> int | Awaitable[int]:
        source, target = self._file(header.nodeid), self._file(request.nodeid_out)
        if request.flags:
            raise OSError(errno.EINVAL, "unknown flags")
        if not target.data_upper:
            raise OSError(errno.EBADF, "not open for writing")
        protect.check_contents(target, appending=True)
        from_fd, to_fd = self._descriptors.get(source), self._descriptors.get(target)
        if self._held.on:
            self._held.changing(target, target.attachment, to_fd)
        length = min(request.length, 1 << 30)
        if min(length, os.fstat(from_fd).st_size - request.off_in) <= INLINE_LIMIT:
            return os.copy_file_range(from_fd, to_fd, length, request.off_in, request.off_out)
        # The numbers may be closed and given away before the task runs: it gets descriptors of its own.
        return self._copy_slowly(Fd(os.dup(from_fd)), Fd(os.dup(to_fd)), length, request.off_in, request.off_out)

    async def _copy_slowly(self, source: Fd, target: Fd, length: int, off_in: int, off_out: int) -> int:
        with source, target:
            return await trio.to_thread.run_sync(
                os.copy_file_range, source.fileno(), target.fileno(), length, off_in, off_out
            )
