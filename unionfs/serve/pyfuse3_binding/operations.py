"""How does each of pyfuse3's requests reach its handler?  The methods that pyfuse3 calls, one for each operation.

What the kernel says and pyfuse3 does not pass on is found out where it matters, as by whom a set-id bit may be kept; what can't
be found out is listed in unionfs(8), "A SECOND BINDING".
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from types import CoroutineType
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

import pyfuse3
import trio

from unionfs.linux import creds
from unionfs.overlay import acl
from unionfs.overlay.errors import CopyUpNeeded, ScanNeeded
from unionfs.overlay.inodes import ROOT_ID
from unionfs.serve import callers
from unionfs.serve.attributes import AttrReply
from unionfs.serve.context import Context
from unionfs.serve.copyups import CopyUps
from unionfs.serve.dispatch import Server
from unionfs.serve.notices import tell_changes
from unionfs.serve.pyfuse3_binding import values
from unionfs.serve.pyfuse3_binding.numbers import Numbers
from unionfs.serve.scanning import Scans
from unionfs.serve.splicing import FileRange
from unionfs.wire import abi, kinds
from unionfs.wire.abi import Opcode
from unionfs.wire.describe import describe
from unionfs.wire.kinds import Header
from unionfs.wire.reply import Entry

_log: Final = logging.getLogger("unionfs")
#: More than any xattr's value and any list of names may have (XATTR_SIZE_MAX, XATTR_LIST_MAX).
_XATTR_ROOM: Final = 1 << 20
_DOTS: Final = (b".", b"..")
_ACCESS_ACL: Final = os.fsencode(acl.ACCESS)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Caller(NamedTuple):
    """Who asks, where pyfuse3 does not say; as its RequestContext."""

    uid: int = 0
    gid: int = 0
    pid: int = 0
    umask: int = 0


_NOBODY: Final = _Caller()


def _header(opcode: Opcode, nodeid: int, caller: Any) -> Header:
    return Header(0, opcode, 0, nodeid, caller.uid, caller.gid, caller.pid, 0)


_Method = Callable[Concatenate["Operations", _P], Awaitable[_T]]


def _operation(method: _Method[_P, _T]) -> _Method[_P, _T]:
    """A method that raises nothing but FUSEError: pyfuse3 ends with any other exception, and the mount with it."""

    @functools.wraps(method)
    async def guarded(self: Operations, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:
            _log.exception("%s failed", method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return guarded


class _Listing:
    """The entries of one part of a listing, on their way into pyfuse3's reply.

    unshown: nodes of which nothing but the name was listed.
    """

    __slots__ = ("_numbers", "_token", "unshown")

    def __init__(self, numbers: Numbers, token: pyfuse3.ReaddirToken) -> None:
        self._numbers = numbers
        self._token = token
        self.unshown: list[int] = []

    def add_plus(self, entry: Entry | None, name: bytes, ino: int, next_offset: int, dtype: int) -> bool:
        """As `DirBuffer.add_plus`; a node that would be listed with another inode number than its own is left out, too."""
        number = ino if entry is None else self._numbers.choose(entry.nodeid, ino)
        if entry is None or number != ino:
            if not pyfuse3.readdir_reply(self._token, name, values.name_only(ino, dtype), next_offset):
                return False
            if name not in _DOTS:
                self._numbers.refused[ino] += 1
            if entry is not None:
                self.unshown.append(entry.nodeid)
            return True
        if not pyfuse3.readdir_reply(self._token, name, values.entry(entry, number), next_offset):
            return False
        self._numbers.keep(entry.nodeid, number)
        return True


class Operations(pyfuse3.Operations):  # type: ignore[misc]  # its types are not looked at, see pyproject.toml
    """What pyfuse3 calls: its class of the same name says what each method gets and returns, and answers ENOSYS to all others.

    started: INIT has come.  nursery: where long work runs; set before the first request.
    """

    enable_writeback_cache = False

    def __init__(self, context: Context, server: Server, numbers: Numbers) -> None:
        self.enable_acl = not context.config.noacl and context.union.takes_acls
        self.supports_dot_lookup = context.union.exports is not None
        self.started = trio.Event()
        self.nursery: trio.Nursery
        self._union = context.union
        self._notices = context.notices
        self._valid = context.valid
        self._debug = context.config.debug
        self._server = server
        self._numbers = numbers
        self._copy_ups = CopyUps(context.union)
        self._scans = Scans(context.union)

    def init(self) -> None:
        self.started.set()

    async def _ask(self, opcode: Opcode, nodeid: int, caller: Any, request: Any) -> Any:
        """The answer of the operation's handler in the dispatch table."""
        return await self._call(self._server.routes[opcode].handle, opcode, nodeid, caller, request)

    async def _call(
        self, handle: Callable[[Header, Any], Any], opcode: Opcode, nodeid: int, caller: Any, request: Any
    ) -> Any:
        """The answer of a handler, called again after what it had to wait for, as by the session."""
        header = _header(opcode, nodeid, caller)
        if self._debug:
            _log.debug("%s", describe(header, request))
        while True:
            self._union.trim()
            self._server.trim()
            try:
                try:
                    answer = handle(header, request)
                finally:
                    if self._union.changed or self._union.relisted:
                        tell_changes(self._union, self._notices)
                return await answer if type(answer) is CoroutineType else answer
            except CopyUpNeeded as needed:
                await self._copy_ups.complete(needed.node, self.nursery)
            except ScanNeeded as needed:
                await self._scans.complete(needed.node, self.nursery)

    def _entry(self, entry: Entry) -> pyfuse3.EntryAttributes:
        number = self._numbers.choose(entry.nodeid, entry.attr.ino)
        self._numbers.keep(entry.nodeid, number)
        return values.entry(entry, number)

    # ------------------------------------------------------------------------------------------------------------- names

    @_operation
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        found = await self._ask(Opcode.LOOKUP, self._numbers.nodeid(parent_inode), ctx, kinds.Lookup(name))
        return values.missing(self._valid) if found is None else self._entry(found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Has no answer, and so nobody to take an exception."""
        for number, lookups in inode_list:
            nodeid, lookups = self._numbers.find_nodeid(number), lookups - self._numbers.refuse(number, lookups)
            if nodeid is not None and lookups:
                try:
                    await self._forget(nodeid, lookups)
                except Exception:
                    _log.exception("forget failed")

    async def _forget(self, nodeid: int, lookups: int) -> None:
        await self._ask(Opcode.BATCH_FORGET, 0, _NOBODY, kinds.BatchForget(((nodeid, lookups),)))
        self._numbers.forget(nodeid)

    @_operation
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        target: bytes = await self._ask(Opcode.READLINK, self._numbers.nodeid(inode), ctx, kinds.Readlink())
        return target

    @_operation
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        request = kinds.Mknod(mode, rdev, ctx.umask, name, ())
        return self._entry(await self._ask(Opcode.MKNOD, self._numbers.nodeid(parent_inode), ctx, request))

    @_operation
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        request = kinds.Mkdir(mode, ctx.umask, name, ())
        return self._entry(await self._ask(Opcode.MKDIR, self._numbers.nodeid(parent_inode), ctx, request))

    @_operation
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        request = kinds.Symlink(name, target, ())
        return self._entry(await self._ask(Opcode.SYMLINK, self._numbers.nodeid(parent_inode), ctx, request))

    @_operation
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        request = kinds.Link(self._numbers.nodeid(inode), new_name)
        return self._entry(await self._ask(Opcode.LINK, self._numbers.nodeid(new_parent_inode), ctx, request))

    @_operation
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._ask(Opcode.UNLINK, self._numbers.nodeid(parent_inode), ctx, kinds.Unlink(name))

    @_operation
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._ask(Opcode.RMDIR, self._numbers.nodeid(parent_inode), ctx, kinds.Rmdir(name))

    @_operation
    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:  # fmt: skip
        request = kinds.Rename(self._numbers.nodeid(parent_inode_new), flags, name_old, name_new)
        await self._ask(Opcode.RENAME2, self._numbers.nodeid(parent_inode_old), ctx, request)

    # -------------------------------------------------------------------------------------------------------- attributes

    @_operation
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        nodeid = self._numbers.nodeid(inode)
        return values.attributes(await self._ask(Opcode.GETATTR, nodeid, ctx, kinds.Getattr(0, 0)))

    @_operation
    async def setattr(
        self, inode: int, attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:  # fmt: skip
        nodeid, request = self._numbers.nodeid(inode), values.setattr_request(attr, fields, fh)
        if fields.update_size and not creds.has_capability(creds.CAP_FSETID, ctx.pid):
            request = request._replace(valid=request.valid | abi.FATTR_KILL_SUIDGID)
        if fields.update_mode and request.mode & stat.S_ISGID and not await self._may_keep_sgid(nodeid, ctx):
            request = request._replace(mode=request.mode & ~stat.S_ISGID)
        return values.attributes(await self._ask(Opcode.SETATTR, nodeid, ctx, request))

    async def _may_keep_sgid(self, nodeid: int, caller: pyfuse3.RequestContext) -> bool:
        """What the kernel says with a change, or sees to itself: is the caller in the file's group, or privileged?"""
        found: AttrReply = await self._ask(Opcode.GETATTR, nodeid, caller, kinds.Getattr(0, 0))
        return callers.may_keep_set_ids(_header(Opcode.SETATTR, nodeid, caller))(found.attr.gid)

    @_operation
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return values.statfs(await self._ask(Opcode.STATFS, ROOT_ID, ctx, kinds.Statfs()))

    @_operation
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        raise OSError(errno.ENOSYS, "the kernel checks")

    # ------------------------------------------------------------------------------------------------------------- xattrs

    @_operation
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        request = kinds.Getxattr(name, _XATTR_ROOM)
        value: bytes = await self._ask(Opcode.GETXATTR, self._numbers.nodeid(inode), ctx, request)
        return value

    @_operation
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        request = kinds.Listxattr(_XATTR_ROOM)
        names: bytes = await self._ask(Opcode.LISTXATTR, self._numbers.nodeid(inode), ctx, request)
        return names.split(b"\0")[:-1]

    @_operation
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """XATTR_CREATE and XATTR_REPLACE pyfuse3 has seen to."""
        nodeid = self._numbers.nodeid(inode)
        kill = name == _ACCESS_ACL and not await self._may_keep_sgid(nodeid, ctx)
        flags = abi.SETXATTR_ACL_KILL_SGID if kill else 0
        await self._ask(Opcode.SETXATTR, nodeid, ctx, kinds.Setxattr(name, value, 0, flags))

    @_operation
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._ask(Opcode.REMOVEXATTR, self._numbers.nodeid(inode), ctx, kinds.Removexattr(name))

    # -------------------------------------------------------------------------------------------------------------- files

    @_operation
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        nodeid = self._numbers.nodeid(inode)
        kill = bool(flags & os.O_TRUNC) and not creds.has_capability(creds.CAP_FSETID, ctx.pid)
        request = kinds.Open(flags, abi.OPEN_KILL_SUIDGID if kill else 0)
        return values.file_info(nodeid, await self._ask(Opcode.OPEN, nodeid, ctx, request))

    @_operation
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        request = kinds.Create(flags, mode, ctx.umask, 0, name, ())
        entry, opened = await self._ask(Opcode.CREATE, self._numbers.nodeid(parent_inode), ctx, request)
        return values.file_info(entry.nodeid, opened), self._entry(entry)

    @_operation
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:
        nodeid, own_fh = values.of_file(fh)
        found = await self._ask(Opcode.READ, nodeid, _NOBODY, kinds.Read(own_fh, off, size, 0, 0, 0))
        return os.pread(found.fd, found.length, found.offset) if isinstance(found, FileRange) else found

    @_operation
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """The kernel takes set-id bits and capabilities away by itself beforehand, since libfuse does not say that the server
        does; what is there yet has to stay, as with every write of pages that were changed through a mapping.
        """
        nodeid, own_fh = values.of_file(fh)
        request = kinds.Write(own_fh, off, len(buf), abi.WRITE_CACHE, 0, 0, memoryview(buf))
        written: int = await self._ask(Opcode.WRITE, nodeid, _NOBODY, request)
        return written

    @_operation
    async def flush(self, fh: int) -> None:
        raise OSError(errno.ENOSYS, "not to be asked again")

    @_operation
    async def fsync(self, fh: int, datasync: bool) -> None:
        nodeid, own_fh = values.of_file(fh)
        request = kinds.Fsync(own_fh, abi.FSYNC_FDATASYNC if datasync else 0)
        await self._ask(Opcode.FSYNC, nodeid, _NOBODY, request)

    @_operation
    async def release(self, fh: int) -> None:
        nodeid, own_fh = values.of_file(fh)
        await self._ask(Opcode.RELEASE, nodeid, _NOBODY, kinds.Release(own_fh, 0, 0, 0))

    # -------------------------------------------------------------------------------------------------------- directories

    @_operation
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """The number is also the file handle: listing has no state."""
        return inode

    @_operation
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = _Listing(self._numbers, token)

        def handle(header: Header, request: kinds.Readdir) -> None:
            self._server.directories.list_into(header, request.offset, listing)

        await self._call(handle, Opcode.READDIRPLUS, self._numbers.nodeid(fh), _NOBODY, kinds.Readdir(fh, start_id, 0))
        for nodeid in listing.unshown:
            await self._forget(nodeid, 1)

    @_operation
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        request = kinds.Fsync(0, abi.FSYNC_FDATASYNC if datasync else 0)
        await self._ask(Opcode.FSYNCDIR, self._numbers.nodeid(fh), _NOBODY, request)

    @_operation
    async def releasedir(self, fh: int) -> None:
        """Nothing is kept for an open directory."""
