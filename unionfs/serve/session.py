"""How does a request get its answer?  The session: read, dispatch, reply; what takes long runs as a task.

One trio event loop owns all state.  A handler runs to its answer at once, or gives back a coroutine that becomes a task.
An operation that finds it has to wait for a file's copy-up, or for the scan of a very large directory, has changed nothing
yet: that is done in a task and then the operation starts again from its message.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, Final

import trio

from unionfs.linux import creds
from unionfs.overlay.errors import CopyUpNeeded, ScanNeeded
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.union import Union
from unionfs.serve.copyups import CopyUps
from unionfs.serve.dispatch import Message, Route, Server, Spliced
from unionfs.serve.lookahead import LOOKING, LookAhead
from unionfs.serve.memory import give_back, short_collections
from unionfs.serve.notices import DeviceNotices, tell_changes
from unionfs.serve.polling import IdleCpus, Poller
from unionfs.serve.scanning import Scans
from unionfs.serve.splicing import Splicer
from unionfs.wire.abi import NO_REPLY, Opcode
from unionfs.wire.cursor import Malformed
from unionfs.wire.describe import describe
from unionfs.wire.kinds import Header
from unionfs.wire.reply import error as error_reply
from unionfs.wire.request import decode_header

_log: Final = logging.getLogger("unionfs")
_INTERRUPT: Final = int(Opcode.INTERRUPT)
_HEADER_SIZE: Final = 40
#: Requests served before running tasks get a turn, and such turns before the loop sees to signals.
_BURST: Final = 32
_TURNS: Final = 32
#: Seconds between looks at an interrupted caller.
_KILL_CHECK: Final = 0.1
#: The device says so for a request that was interrupted or lost its caller before it was answered, or read.
_GONE: Final = frozenset((errno.ENOENT, errno.EINTR, errno.EAGAIN))

_Coroutine = Coroutine[Any, Any, Any]


class Session:
    """Serves one device until it is unmounted.

    device: descriptor of /dev/fuse, non-blocking.  decoders: how each operation's arguments are read.
    notices: to the device's kernel.  cpus: see `Poller`.
    """

    def __init__(
        self, device: int, union: Union, max_write: int, debug: bool, cpus: IdleCpus | None = None
    ) -> None:
        self.device = device
        self.union = union
        self.notices = DeviceNotices(self.notify)
        self.decoders: dict[int, Callable[[memoryview, Header], Any]] = {}
        self._debug = debug
        self._cpus = cpus
        self._server: Server | None = None
        self._routes: dict[int, Route] = {}
        self._ahead = LookAhead(union)
        self._buffer = bytearray(max_write + 4096 * 2)
        self._view = memoryview(self._buffer)
        self._splicer = Splicer(device)
        self._tasks: dict[int, _Task] = {}
        self._copy_ups = CopyUps(union)
        self._scans = Scans(union)
        self._nursery: trio.Nursery | None = None

    def use(self, server: Server, decoders: dict[int, Callable[[memoryview, Header], Any]]) -> None:
        """From now on requests are served by `server`."""
        self._server = server
        self._routes = server.routes
        self._ahead = server.ahead
        self.decoders = decoders

    def receive(self) -> int:
        """Read one request into the buffer; its length, 0 when there is none.  Raises OSError ENODEV when unmounted."""
        try:
            return os.readv(self.device, [self._buffer])
        except OSError as error:
            if error.errno in _GONE:
                return 0
            raise

    def message(self, size: int) -> memoryview:
        """The request just received."""
        return self._view[:size]

    async def run(self) -> None:
        """Serve until the filesystem is unmounted."""
        poller = Poller(self.device, self._cpus)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                with short_collections():
                    await self._loop(poller)
            except OSError as error:
                if error.errno not in (errno.ENODEV, errno.ECONNABORTED):
                    raise
            nursery.cancel_scope.cancel()
        self._splicer.close()

    async def _loop(self, poller: Poller) -> None:
        turns = 0
        while True:
            turns += 1
            if not self._burst(poller) and not self._work_ahead() and not (poller.look() if self._tasks else poller.ready()):
                poller.rest()
                give_back(self.union)
                await trio.lowlevel.wait_readable(self.device)
            elif self._tasks or turns % _TURNS == 0:
                # Tasks and signals have to get their turn however busy the device is.
                await trio.lowlevel.checkpoint()

    def _work_ahead(self) -> bool:
        """Nothing is waiting: do what will be asked for next; True when that has taken a while."""
        if self._tasks or self._server is None:
            return False
        try:
            return self._server.directories.make_ahead()
        except Exception:
            _log.exception("work ahead of requests failed")
            return False

    def _burst(self, poller: Poller) -> bool:
        """Serve what is waiting, up to a number of requests; True when there may be more."""
        assert self._server is not None
        served = 0
        # To look costs less than to be told that there is nothing to read.
        while poller.look():
            size = self.receive()
            if size:
                self._serve(self._view[:size])
            served += 1
            if served == _BURST:
                break
        if served:
            self.union.trim()
            self._server.trim()
        return served == _BURST

    def _serve(self, message: memoryview) -> None:
        try:
            header = decode_header(message)
        except Malformed:
            _log.error("a request without a proper header was dropped")
            return
        if header.opcode == _INTERRUPT:
            self._interrupt(message, header)
            return
        self._handle(message, header)

    def _handle(self, message: memoryview, header: Header) -> None:
        """Decode, dispatch, reply; nothing that happens here ends the server."""
        unique = header.unique
        if self._ahead.ready and header.opcode not in LOOKING:
            self._ahead.drop()
        route = self._routes.get(header.opcode)
        if route is None:
            self.send(error_reply(unique, errno.ENOSYS))
            return
        try:
            request = self.decoders[header.opcode](message[_HEADER_SIZE:], header)
            if self._debug:
                _log.debug("%s", describe(header, request))
            try:
                answer = route.handle(header, request)
            finally:
                if self.union.changed or self.union.relisted:
                    tell_changes(self.union, self.notices)
            if type(answer) is CoroutineType:
                self._start(self._finish, header, answer, route)
                return
            encoded = route.encode(unique, answer)
        except CopyUpNeeded as needed:
            assert self._nursery is not None
            self._copy_ups.begin(needed.node, self._nursery)
            self._start(self._copy_up_first, header, bytes(message), needed.node)
            return
        except ScanNeeded as needed:
            self._start(self._scan_first, header, bytes(message), needed.node)
            return
        except OSError as error:
            encoded = self._failure(header, error)
        except Malformed as error:
            _log.error("malformed %s: %s", describe(header), error)
            encoded = error_reply(unique, errno.EINVAL)
        except Exception:
            _log.exception("%s failed", describe(header))
            encoded = error_reply(unique, errno.EIO)
        if encoded is not None and header.opcode not in NO_REPLY:
            self.send(encoded)

    def _failure(self, header: Header, error: OSError) -> bytes:
        if self._debug:
            _log.debug("%s: %s", describe(header), error)
        return error_reply(header.unique, error.errno or errno.EIO)

    def send(self, message: bytes | Message) -> None:
        """Write one reply or notification; that its request is gone by now is no error."""
        try:
            if isinstance(message, bytes):
                os.write(self.device, message)
            elif isinstance(message, Spliced):
                self._splicer.send(*message)
            else:
                os.writev(self.device, message)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINTR):
                _log.error("a reply was refused: %s", error.strerror)
                self._answer_refused(message)

    def _answer_refused(self, message: bytes | Message) -> None:
        """The kernel took a reply for malformed: its caller must not wait for ever (fuse_out_header: the id at 8)."""
        header = message if isinstance(message, bytes) else message[0]
        unique = int.from_bytes(bytes(header[8:16]), sys.byteorder)
        with contextlib.suppress(OSError):
            os.write(self.device, error_reply(unique, errno.EIO))

    def notify(self, message: list[bytes]) -> None:
        """Send a notification; the kernel may not know the node any more, or be too busy."""
        try:
            os.writev(self.device, message)
        except OSError as error:
            if self._debug:
                _log.debug("notification: %s", error.strerror)

    def _start(self, task: Callable[..., Any], header: Header, *args: Any) -> None:
        assert self._nursery is not None
        entry = self._tasks[header.unique] = _Task(header.pid)
        self._nursery.start_soon(self._run_task, task, entry.scope, header, *args)

    async def _run_task(self, task: Callable[..., Any], scope: trio.CancelScope, header: Header, *args: Any) -> None:
        """Run a task to its reply; an interrupted one is answered EINTR."""
        encoded: bytes | Message | None = error_reply(header.unique, errno.EINTR)
        try:
            with scope:
                encoded = await task(header, *args)
        except OSError as error:
            encoded = self._failure(header, error)
        except Exception:
            _log.exception("%s failed", describe(header))
            encoded = error_reply(header.unique, errno.EIO)
        finally:
            # An operation that was started again may have become a task of its own under this number.
            if (entry := self._tasks.get(header.unique)) is not None and entry.scope is scope:
                del self._tasks[header.unique]
        if encoded is not None:
            self.send(encoded)

    async def _finish(self, header: Header, answer: _Coroutine, route: Route) -> bytes | Message | None:
        return route.encode(header.unique, await answer)

    async def _copy_up_first(self, header: Header, message: bytes, node: Node) -> bytes | Message | None:
        """Wait for the copy-up of `node`, then start the operation again."""
        assert self._nursery is not None
        await self._copy_ups.complete(node, self._nursery)
        self._again(header, message)
        return None

    async def _scan_first(self, header: Header, message: bytes, node: DirNode) -> bytes | Message | None:
        """Wait for the index of `node`, then start the operation again."""
        assert self._nursery is not None
        await self._scans.complete(node, self._nursery)
        self._again(header, message)
        return None

    def _again(self, header: Header, message: bytes) -> None:
        """Start an operation from its message, which may make a task of it anew."""
        self._tasks.pop(header.unique, None)
        self._handle(memoryview(message), header)

    def _interrupt(self, message: memoryview, header: Header) -> None:
        """The caller of a request got a signal.  A request that is not a task has been answered by now."""
        assert self._nursery is not None
        try:
            request = self.decoders[header.opcode](message[_HEADER_SIZE:], header)
        except Malformed:
            return
        task = self._tasks.get(request.unique)
        if task is not None and not task.interrupted:
            task.interrupted = True
            self._nursery.start_soon(self._end_when_killed, request.unique, task)

    async def _end_when_killed(self, unique: int, task: _Task) -> None:
        """Give the request up once its caller is being killed.

        The kernel interrupts for every signal, once, and any other one only waits: a program whose handler asks for
        restarts must not get EINTR from opening a file (signal(7)).
        """
        while self._tasks.get(unique) is task:
            if creds.is_being_killed(task.pid):
                task.scope.cancel()
                return
            await trio.sleep(_KILL_CHECK)


class _Task:
    """A request that is served by a task: how to cancel it, and for which thread."""

    __slots__ = ("interrupted", "pid", "scope")

    def __init__(self, pid: int) -> None:
        self.scope = trio.CancelScope()
        self.pid = pid
        self.interrupted = False
