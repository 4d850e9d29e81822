"""The kernel's side with backing files: does every reply of the server fit the kernel's rules, and what does a program then see?

A connection as of `fake_kernel`, to a server that believes in passthrough.  The ioctls, which a socket has not, are led to
`kernel_rules`, and so is every reply: one that the kernel would turn into an error for the user fails the test.  Then the
operations do what the kernel does: by themselves at the backing file where it may, else by a request.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

from tests.serve import kernel_rules
from tests.serve.fake_kernel import OFFER, PATIENCE, ROOT, FakeKernel, union_config
from tests.serve.kernel_rules import Inode, Opened, Rules
from tests.support import lowers
from tests.support.mounts import Layers
from tests.wire import answers, kernel
from tests.wire.answers import Answer
from unionfs.linux import fuse
from unionfs.overlay.config import UnionConfig
from unionfs.serve.config import InodePassthrough, LowerIo, Passthrough, SessionConfig

LOOKUP, FORGET, OPEN, RELEASE, INIT, CREATE, BATCH_FORGET, READDIRPLUS, TMPFILE = 1, 2, 14, 18, 26, 35, 42, 44, 51
NAMING = frozenset((LOOKUP, 6, 8, 9, 13))
"""Operations answered with an entry alone."""


class Seen(NamedTuple):
    """What stat(2) shows, without times of access."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime: int


class PassthroughKernel(FakeKernel):
    """A connection whose kernel takes backing files.

    rules: what it knows.  requests: the operations sent so far, by number.
    """

    def __init__(self, config: UnionConfig, session: SessionConfig) -> None:
        self.rules = Rules()
        self.rules.inodes[ROOT] = Inode(ROOT, 0, 0o040000, 1)
        self.requests: list[int] = []
        self._sent: dict[int, bytes] = {}
        self._agreed = threading.Event()
        super().__init__(config, session)

    def backing_open(self, device: int, fd: int, operations: int = 0) -> int:
        """The ioctl, which comes from the server's thread, after the kernel has taken the reply to INIT."""
        assert self._agreed.wait(PATIENCE)
        return self.rules.backing_open(fd, operations)

    def backing_close(self, device: int, backing_id: int) -> None:
        """The ioctl."""
        self.rules.backing_close(backing_id)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.rules.close()

    def send(self, message: bytes) -> int:
        unique = super().send(message)
        opcode, nodeid = _kind(message)
        self.requests.append(opcode)
        self._sent[unique] = message
        if opcode == FORGET:
            self.rules.forget(nodeid, *struct.unpack_from("=Q", message, 40))
        elif opcode == BATCH_FORGET:
            for forgotten, lookups in struct.iter_unpack("=QQ", message[48:]):
                self.rules.forget(forgotten, lookups)
        return unique

    def wait(self, unique: int) -> Answer:
        answer = super().wait(unique)
        message = self._sent.pop(unique)
        if not answer.error:
            opcode, nodeid = _kind(message)
            try:
                self._take(opcode, nodeid, message, answer.body)
            except OSError as error:
                name = errno.errorcode[error.errno or 0]
                raise AssertionError(f"operation {opcode} ends as {name}: {error.strerror}") from error
        return answer

    def _take(self, opcode: int, nodeid: int, message: bytes, body: bytes) -> None:
        if opcode == INIT:
            low, high = struct.unpack_from("=I", body, 12)[0], struct.unpack_from("=I", body, 32)[0]
            self.rules.flags = low | high << 32
            (self.rules.max_stack_depth,) = struct.unpack_from("=I", body, 36)
            self._agreed.set()
        elif opcode in NAMING:
            self._enter(body)
        elif opcode == OPEN:
            self.rules.open(nodeid, *answers.opened(body))
        elif opcode in (CREATE, TMPFILE):
            inode = self._enter(body)
            assert inode is not None
            self.rules.open(inode.nodeid, *answers.opened(body, 312 if self.rules.inode_operations else 128))
        elif opcode == READDIRPLUS:
            for entry in answers.listing(body, plus=True):
                if entry.node is not None and entry.node.nodeid:
                    self.rules.entry(entry.node.nodeid, entry.node.attr.ino, entry.node.attr.mode)
        elif opcode == RELEASE:
            self.rules.release(nodeid, struct.unpack_from("=Q", message, 40)[0])

    def _enter(self, body: bytes) -> Inode | None:
        if self.rules.inode_operations:
            given = answers.node2(body)
            if given.nodeid:
                return self.rules.entry(given.nodeid, given.ino, given.mode, given.backing_id)
        else:
            node = answers.node(body)
            if node.nodeid:
                return self.rules.entry(node.nodeid, node.attr.ino, node.attr.mode)
        return None

    def find(self, path: str, parent: int = ROOT) -> Inode:
        """The inode of a path, every step looked up."""
        inode = None
        for name in path.split("/"):
            body = self.ok(kernel.lookup(parent, os.fsencode(name)))
            (parent,) = struct.unpack_from("=Q", body)
            if not parent:
                raise FileNotFoundError(errno.ENOENT, "no such name", path)
            inode = self.rules.inodes[parent]
        assert inode is not None
        return inode

    def open(self, path: str, flags: int = os.O_RDONLY) -> Opened:
        """open(2): as the VFS does it, which looks the path up once more when the answer is ESTALE (do_filp_open)."""
        try:
            return self.open_inode(self.find(path).nodeid, flags)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        return self.open_inode(self.find(path).nodeid, flags)

    def open_inode(self, nodeid: int, flags: int = os.O_RDONLY) -> Opened:
        """One OPEN.  Raises OSError as the server answered."""
        answer = self.ask(kernel.open_(nodeid, flags))
        if answer.error:
            raise OSError(-answer.error, os.strerror(-answer.error))
        return self.rules.inodes[nodeid].opens[-1]

    def create(self, parent: int, name: str, flags: int = os.O_RDWR, mode: int = 0o100644) -> Opened:
        """CREATE."""
        body = self.ok(kernel.create(parent, os.fsencode(name), flags | os.O_CREAT, mode))
        return self.rules.inodes[struct.unpack_from("=Q", body)[0]].opens[-1]

    def release(self, opened: Opened) -> None:
        """The last close(2)."""
        self.ok(kernel.release(opened.nodeid, opened.fh))

    def read(self, opened: Opened, size: int = 4096, offset: int = 0) -> bytes:
        """read(2): at the backing file, unless the open is past every cache."""
        if opened.backing is None or opened.flags & kernel_rules.DIRECT_IO:
            return self.ok(kernel.read(opened.nodeid, opened.fh, offset, size))
        fd = os.open(f"/proc/self/fd/{opened.backing.fd}", os.O_RDONLY)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def write(self, opened: Opened, data: bytes, offset: int = 0) -> None:
        """write(2)."""
        if opened.backing is None or opened.flags & kernel_rules.DIRECT_IO:
            self.ok(kernel.write(opened.nodeid, opened.fh, offset, data))
            return
        fd = os.open(f"/proc/self/fd/{opened.backing.fd}", os.O_WRONLY)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def asked_stat(self, nodeid: int) -> Seen:
        """What the server says to GETATTR."""
        _, attr = answers.attributes(self.ok(kernel.getattr_(nodeid)))
        return Seen(attr.ino, attr.mode, attr.nlink, attr.uid, attr.gid, attr.size, attr.mtime * 10**9 + attr.mtimensec)

    def stat(self, nodeid: int) -> Seen:
        """stat(2): of the attached backing file, if there is one."""
        attached = self.rules.inodes[nodeid].attached
        if attached is None or not attached.operations & kernel_rules.GETATTR:
            return self.asked_stat(nodeid)
        found = os.fstat(attached.fd)
        return Seen(
            found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns
        )

    def asked_names(self, nodeid: int) -> dict[str, tuple[int, int]]:
        """What the server says to READDIR: number and type (DT_) of each name."""
        return {os.fsdecode(entry.name): (entry.ino, entry.type) for entry in self.listing(nodeid)}

    def names(self, nodeid: int) -> dict[str, tuple[int, int]]:
        """readdir(3): of the attached backing file, if that may list."""
        attached = self.rules.inodes[nodeid].attached
        if attached is None or not attached.operations & kernel_rules.READDIR:
            return self.asked_names(nodeid)
        path = f"/proc/self/fd/{attached.fd}"
        dots = {name: (os.stat(f"{path}/{name}").st_ino, 4) for name in (".", "..")}
        with os.scandir(path) as entries:
            return dots | {
                entry.name: (entry.inode(), entry.stat(follow_symlinks=False).st_mode >> 12) for entry in entries
            }


def _kind(message: bytes) -> tuple[int, int]:
    """Operation and nodeid of a request."""
    opcode, nodeid = struct.unpack_from("=4xI8xQ", message)
    return opcode, nodeid


def session_config(
    layers: Layers, *, draft: bool = False, lower_io: LowerIo = LowerIo.AUTO, depth: int | None = None, read_only: bool = False
) -> SessionConfig:
    """A session with passthrough, or with that and the draft, which the mount does not do without."""
    return SessionConfig(
        b"fake",
        os.fsencode(layers.mnt),
        read_only=read_only,
        passthrough=Passthrough.AUTO if draft else Passthrough.ON,
        lower_io=lower_io,
        max_stack_depth=depth,
        inode_passthrough=InodePassthrough.DRAFT if draft else InodePassthrough.OFF,
    )


@contextmanager
def passthrough_kernel(
    layers: Layers,
    *,
    draft: bool = False,
    lower_io: LowerIo = LowerIo.AUTO,
    depth: int | None = None,
    config: UnionConfig | None = None,
    minor: int = 45,
    offer: int | None = None,
) -> Iterator[PassthroughKernel]:
    """A connection to a server of these layers, after INIT; it ends with the block.

    draft: the kernel offers passthrough of inode operations, and the mount asks for it.  offer: other INIT flags than that.
    """
    union = config or union_config(layers)
    session = session_config(layers, draft=draft, lower_io=lower_io, depth=depth, read_only=union.upper is None)
    offered = offer if offer is not None else OFFER & ~kernel_rules.INIT_INODES | (kernel_rules.INIT_INODES if draft else 0)
    with lowers.untouched(layers.lowers, layers.work):
        connection = PassthroughKernel(union, session)
        with (
            mock.patch.object(fuse, "backing_open", connection.backing_open),
            mock.patch.object(fuse, "backing_close", connection.backing_close),
        ):
            try:
                if connection.ask(kernel.init(7, minor, offered)).error == 0:
                    connection.settle()
                yield connection
            finally:
                connection.close()
