"""The kernel's side: how does a session behave whose other end is not a mount, but a test that sends it what it likes?

The real session, server and union run in a thread of their own on one end of a SOCK_SEQPACKET pair, which keeps messages
apart as /dev/fuse does; the test has the other end.  There is no passthrough, since nobody takes backing files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import trio

from tests.support import lowers
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from tests.wire.answers import Answer, Dirent, Node
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.union import Union
from unionfs.serve import run, stacking
from unionfs.serve.config import Passthrough, SessionConfig
from unionfs.serve.mounting import Mounted
from unionfs.serve.session import Session

ROOT = 1
PATIENCE = 20.0
"""Seconds until a missing answer is a failure."""

OFFER = 0x5FD73FFFFFB
"""INIT flags as Linux 6.18 offers them."""

_ROOM = 8 << 20
_CLONE_FS = 0x200
_SO_SNDBUFFORCE = 32


class _SocketSession(Session):
    """A session that takes the end of the stream for what /dev/fuse says of it: ENODEV."""

    def receive(self) -> int:
        try:
            size = os.readv(self.device, [self._buffer])
        except BlockingIOError:
            return 0
        except ConnectionResetError:
            # Closed with a notification unread.
            size = 0
        if not size:
            raise OSError(errno.ENODEV, "the other end was closed")
        return size


class FakeKernel:
    """One connection.  `union` may be looked at whenever no request is under way.

    notifications: what the server said unasked, so far.  failure: how its thread ended, if by an exception.
    """

    def __init__(self, config: UnionConfig, session: SessionConfig) -> None:
        self._config = config
        self._session_config = session
        self._socket, self._server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self._server_end):
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        self._server_end.setblocking(False)
        self._unique = 0
        self._waiting: dict[int, Answer] = {}
        self._opened = threading.Event()
        self.notifications: list[Answer] = []
        self.failure: BaseException | None = None
        self.union: Union
        self.session: Session
        self._thread = threading.Thread(target=self._serve, name="server")
        self._thread.start()
        assert self._opened.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure

    def _serve(self) -> None:
        # The umask becomes the server's own: threads share it otherwise.
        ctypes.CDLL(None).unshare(_CLONE_FS)
        try:
            self.union = Union.open(self._config)
            try:
                trio.run(self._live)
            finally:
                self._close_files()
                self.union.close()
        except BaseException as error:
            self.failure = error
        finally:
            self._opened.set()
            self._server_end.close()

    def _close_files(self) -> None:
        """What is still open ends with the server's process, which here goes on."""
        for node in self.union.inodes.by_id.values():
            if node.attachment is not None:
                node.attachment.close()
        for former in self.union.inodes.formers.values():
            if former.attachment is not None:
                former.attachment.close()

    async def _live(self) -> None:
        device = self._server_end.fileno()
        plan = stacking.plan(self.union, self._session_config)
        mounted = Mounted(device, self._session_config.mountpoint, None)
        with mock.patch.object(run, "Session", _SocketSession):
            life = run._Mount(self.union, self._session_config, mounted, plan, lambda status: None)
        self.session = life._session
        self._opened.set()
        if await life._agree():
            await life._serve()

    def close(self) -> None:
        """Unmount, as it were; raises what ended the server before, if it has ended."""
        self._socket.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not end with its connection"
        if self.failure is not None:
            raise self.failure

    def is_alive(self) -> bool:
        """Is the server still there?"""
        return self._thread.is_alive()

    def agree(self, offer: int = OFFER) -> Answer:
        """The INIT handshake."""
        return self.ask(kernel.init(7, 46, offer))

    def send(self, message: bytes) -> int:
        """Send a request under a unique number of its own, which is returned."""
        self._unique += 2
        self._socket.send(message[:8] + struct.pack("=Q", self._unique) + message[16:])
        return self._unique

    def send_raw(self, message: bytes) -> None:
        """Send bytes as they are."""
        self._socket.send(message)

    def wait(self, unique: int) -> Answer:
        """The answer to a request that was sent."""
        deadline = time.monotonic() + PATIENCE
        while unique not in self._waiting:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self._socket], [], [], left)[0], "no answer"
            self._receive()
        return self._waiting.pop(unique)

    def is_answered(self, unique: int) -> bool:
        """Is the answer there already?"""
        while select.select([self._socket], [], [], 0)[0]:
            self._receive()
        return unique in self._waiting

    def _receive(self) -> None:
        message = self._socket.recv(_ROOM)
        assert message, f"the server has gone: {self.failure!r}"
        answer = answers.answer(message)
        if answer.unique:
            assert answer.unique not in self._waiting, "answered twice"
            self._waiting[answer.unique] = answer
        else:
            self.notifications.append(answer)

    def ask(self, message: bytes) -> Answer:
        """Send a request and wait for its answer."""
        return self.wait(self.send(message))

    def ok(self, message: bytes) -> bytes:
        """The body of the answer to a request that has to succeed."""
        answer = self.ask(message)
        assert answer.error == 0, os.strerror(-answer.error)
        return answer.body

    def error(self, message: bytes) -> int:
        """The errno a request fails with, 0 if it does not."""
        return -self.ask(message).error

    def lookup(self, path: str, parent: int = ROOT) -> Node:
        """The node of a path; every step counts as a lookup."""
        node = None
        for name in path.split("/"):
            node = answers.node(self.ok(kernel.lookup(parent, os.fsencode(name))))
            assert node.nodeid, f"{path}: no {name}"
            parent = node.nodeid
        assert node is not None
        return node

    def listing(self, nodeid: int, size: int = 4096, plus: bool = False, pid: int = 0) -> list[Dirent]:
        """All entries of a directory, asked for with buffers of `size` bytes; `pid` as of `page`."""
        entries: list[Dirent] = []
        while page := self.page(nodeid, entries[-1].off if entries else 0, size, plus, pid):
            entries += page
        return entries

    def page(self, nodeid: int, offset: int, size: int, plus: bool = False, pid: int = 0) -> list[Dirent]:
        """One answer's entries of a directory; to the thread `pid` without attributes that it does not want (see `listers`)."""
        ask = kernel.readdirplus if plus else kernel.readdir
        body = self.ok(ask(nodeid, 0, offset, size, pid=pid))
        assert len(body) <= size, "more than was asked for"
        return answers.listing(body, plus)

    def settle(self) -> None:
        """Return when everything sent before has been dealt with."""
        self.ok(kernel.getattr_(ROOT))


def union_config(layers: Layers) -> UnionConfig:
    """The union of these layers, with default options."""
    return UnionConfig(
        tuple(os.fsencode(lower) for lower in layers.lowers),
        None if layers.upper is None else os.fsencode(layers.upper),
        None if layers.work is None else os.fsencode(layers.work),
    )


@contextmanager
def fake_kernel(
    layers: Layers, *, agree: bool = True, config: UnionConfig | None = None, noacl: bool = False, writeback: bool = True
) -> Iterator[FakeKernel]:
    """A connection to a server of these layers, after INIT unless `agree` is false; it ends with the block.

    The lowers must be untouched then.
    """
    session = SessionConfig(
        b"fake", os.fsencode(layers.mnt), noacl=noacl, passthrough=Passthrough.OFF, writeback=writeback
    )
    with lowers.untouched(layers.lowers, layers.work):
        connection = FakeKernel(config or union_config(layers), session)
        try:
            if agree:
                assert connection.agree().error == 0
                connection.settle()
            yield connection
        finally:
            connection.close()
