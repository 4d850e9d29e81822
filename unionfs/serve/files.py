"""How are regular files opened, read and written?  The file operations."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from unionfs.linux import fs
from unionfs.linux.fd import Fd
from unionfs.linux.stat import Stat
from unionfs.overlay import attrs, create, files
from unionfs.overlay.config import Fsync as FsyncMode
from unionfs.overlay.copyup import INLINE_LIMIT
from unionfs.overlay.creator import Creator
from unionfs.overlay.node import DirNode, Node
from unionfs.serve import splicing
from unionfs.serve.attributes import Attributes
from unionfs.serve.fileio import Descriptors, FileIo
from unionfs.serve.passthrough import Backings
from unionfs.serve.splicing import FileRange
from unionfs.wire import abi, notify
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

#: Bits of the file handle, all that RELEASE has to know of an open.
_CACHED: Final = 1
_PASSTHROUGH: Final = 2
_WRITER: Final = 4
_MAPPER: Final = 8
#: A file of at most this many bytes is pushed into the page cache with its first open.
_PUSH_LIMIT: Final = 64 * 1024
#: Smaller reads are cheaper copied twice than spliced.
_SPLICE_MIN: Final = 64 * 1024
_OPEN_FLAGS: Final = abi.FOPEN_NOFLUSH
_RWF_NOWAIT: Final = os.RWF_NOWAIT


class OpenReply(NamedTuple):
    """File handle, FOPEN_ flags and backing id of an open."""

    fh: int
    flags: int
    backing_id: int


class CreateReply(NamedTuple):
    """The new file's entry, and how it was opened."""

    entry: Entry
    opened: OpenReply


class Files:
    """The operations on regular files.  Handlers return a plain value, or a coroutine where they may take long."""

    __slots__ = ("_attributes", "_context", "_union", "backings", "descriptors", "read_buffer")

    def __init__(self, context: Context, attributes: Attributes, backings: Backings) -> None:
        self._context = context
        self._union = context.union
        self._attributes = attributes
        self.backings = backings
        self.descriptors = Descriptors(1024)
        self.read_buffer = memoryview(bytearray(context.max_write))

    def _file(self, nodeid: int) -> Node:
        node = self._union.node(nodeid)
        if node.is_dir:
            raise OSError(errno.EISDIR, "is a directory")
        return node

    def open(self, header: Header, request: Open) -> OpenReply:
        node = self._file(header.nodeid)
        files.prepare_open(self._union, node, request.flags, bool(request.open_flags & abi.OPEN_KILL_SUIDGID))
        return self._opened(node, request.flags)

    def _opened(self, node: Node, flags: int, fd: int = -1) -> OpenReply:
        """Choose the I/O mode of one more open; `fd` is a descriptor of the file, if there is one already."""
        io: FileIo | None = node.attachment
        if io is None:
            io = node.attachment = FileIo()
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if not io.cached and files.is_settled(self._union, node) and (io.backing_id or self.backings.attach(node, io, fd)):
            return self._open_passthrough(node, io, flags, writing, fd)
        keep = 0 if io.mixed else abi.FOPEN_KEEP_CACHE
        io.mixed = False
        if not io.cached and not io.stored and not writing and keep:
            self._push(node, io)
        io.cached += 1
        if not writing:
            return OpenReply(_CACHED, keep | _OPEN_FLAGS, 0)
        io.writers += 1
        return OpenReply(_CACHED | _WRITER, keep | _OPEN_FLAGS, 0)

    def _open_passthrough(self, node: Node, io: FileIo, flags: int, writing: bool, fd: int) -> OpenReply:
        if not io.passthrough:
            self.backings.busy(io)
        io.passthrough += 1
        io.mixed = True
        fh = _PASSTHROUGH
        if writing:
            fh |= _WRITER
            io.writers += 1
        if flags & os.O_ACCMODE == os.O_RDWR:
            fh |= _MAPPER
            io.mappers += 1
            if io.mappers == 1 and fd < 0:
                # A shared mapping changes the file unseen: what the kernel knows of its times must not last.
                self._context.notify([notify.inval_inode(node.nodeid, -1, 0)])
        return OpenReply(fh, abi.FOPEN_PASSTHROUGH | _OPEN_FLAGS, io.backing_id)

    def _push(self, node: Node, io: FileIo) -> None:
        """Put a small file's data into the kernel's page cache, so that reading it makes no request."""
        io.stored = True
        if attrs.real_stat(node).size <= _PUSH_LIMIT:
            data = files.read_small(node, _PUSH_LIMIT)
            if data:
                self._context.notify([notify.store_header(node.nodeid, 0, len(data)), data])

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
        self.descriptors.keep(io, fd, True)
        opened = self._opened(node, flags & ~os.O_TRUNC, fd)
        return CreateReply(self._attributes.entry(node, found), opened)

    def release(self, header: Header, request: Release) -> None:
        node = self._union.inodes.by_id.get(header.nodeid)
        io = node.attachment if node is not None else None
        if node is None or io is None:
            return
        if request.fh & _WRITER:
            io.writers -= 1
        if request.fh & _MAPPER:
            io.mappers -= 1
        if request.fh & _PASSTHROUGH:
            io.passthrough -= 1
            if not io.passthrough:
                self.backings.idle(io)
        elif request.fh & _CACHED:
            io.cached -= 1
        if not io.cached and not io.passthrough and (node.unlinked or io.fd >= 0):
            self.name_lost(node)

    def name_lost(self, node: Node) -> None:
        """Nothing keeps a closed file registered or open once its names are gone."""
        io = node.attachment
        if not io.cached and not io.passthrough:
            self.descriptors.drop(io)
            if node.unlinked:
                self.backings.release(io)

    def release_node(self, node: Node) -> None:
        """The kernel forgot the node."""
        self.descriptors.drop(node.attachment)
        self.backings.release(node.attachment)
        node.attachment = None

    def read(self, header: Header, request: Read) -> memoryview | FileRange | Awaitable[bytes]:
        """What the page cache of the backing file holds is answered at once, the rest from a worker thread."""
        fd = self.descriptors.get(self._file(header.nodeid))
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
        fd = os.dup(self.descriptors.get(node))
        try:
            return await trio.to_thread.run_sync(os.pread, fd, size, offset)
        finally:
            os.close(fd)

    def write(self, header: Header, request: Write) -> int:
        node = self._file(header.nodeid)
        if not node.upper:
            raise OSError(errno.EIO, "write to a file that was not copied up")
        if request.write_flags & abi.WRITE_KILL_SUIDGID:
            attrs.kill_privileges(self._union, node)
            self._union.changed.append(node)
        return os.pwrite(self.descriptors.get(node), request.data, request.offset)

    def fsync(self, header: Header, request: Fsync) -> Awaitable[None] | None:
        node = self._union.node(header.nodeid)
        if not node.upper or self._union.config.fsync is FsyncMode.VOLATILE:
            return None
        return self._fsync(node, bool(request.fsync_flags & abi.FSYNC_FDATASYNC))

    async def _fsync(self, node: Node, data_only: bool) -> None:
        if isinstance(node, DirNode):
            fd = os.open(b"/proc/self/fd/%d" % node.at()[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        elif node.is_regular:
            fd = os.dup(self.descriptors.get(node))
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
        if not node.upper:
            raise OSError(errno.EBADF, "not open for writing")
        fs.fallocate(self.descriptors.get(node), request.mode, request.offset, request.length)

    def lseek(self, header: Header, request: Lseek) -> int:
        return os.lseek(self.descriptors.get(self._file(header.nodeid)), request.offset, request.whence)

    def copy_file_range(self, header: Header, request: CopyFileRange) -> int | Awaitable[int]:
        source, target = self._file(header.nodeid), self._file(request.nodeid_out)
        if request.flags:
            raise OSError(errno.EINVAL, "unknown flags")
        if not target.upper:
            raise OSError(errno.EBADF, "not open for writing")
        from_fd, to_fd = self.descriptors.get(source), self.descriptors.get(target)
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
