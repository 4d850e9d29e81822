"""How does a union live as a mount?  Mount, agree with the kernel, serve, unmount."""

from __future__ import annotations

import codecs
import errno
import logging
from collections.abc import Callable
from typing import Final

import trio

from unionfs.linux import fd, process, procfs
from unionfs.linux.cpuidle import CpuLatency
from unionfs.overlay.layer import Layer
from unionfs.overlay.union import Union
from unionfs.serve import inode_passthrough, pyfuse3_binding, stacking, status, surroundings
from unionfs.serve.config import UNLIMITED_TIMEOUT, Binding, InodePassthrough, Passthrough, SessionConfig
from unionfs.serve.context import Context
from unionfs.serve.dispatch import Server
from unionfs.serve.errors import MountError
from unionfs.serve.inode_passthrough import InodeBackings
from unionfs.serve.mounting import Mounted, open_mount
from unionfs.serve.passthrough import Backings
from unionfs.serve.polling import idle_cpus
from unionfs.serve.session import Session
from unionfs.serve.signals import held, watch_signals
from unionfs.serve.stacking import Plan
from unionfs.wire import abi
from unionfs.wire.abi import Opcode
from unionfs.wire.cursor import Malformed
from unionfs.wire.init import Capabilities, Wanted, encode_init, encode_major, negotiate
from unionfs.wire.kinds import Header, Init
from unionfs.wire.reply import error as error_reply
from unionfs.wire.request import decode_header, decoders

_log: Final = logging.getLogger("unionfs")
_MAX_WRITE: Final = 1 << 20
#: Seconds that writing out what the kernel holds back may take when the server is told to end.
_MOST_WRITING: Final = 30.0

_FLAGS: Final = (
    abi.ASYNC_READ | abi.ATOMIC_O_TRUNC | abi.BIG_WRITES | abi.DONT_MASK | abi.HAS_IOCTL_DIR | abi.DO_READDIRPLUS
    | abi.READDIRPLUS_AUTO | abi.ASYNC_DIO | abi.PARALLEL_DIROPS | abi.ABORT_ERROR | abi.MAX_PAGES | abi.CACHE_SYMLINKS
    | abi.NO_OPENDIR_SUPPORT | abi.EXPLICIT_INVAL_DATA | abi.HANDLE_KILLPRIV_V2 | abi.SETXATTR_EXT | abi.INIT_EXT
    | abi.DIRECT_IO_ALLOW_MMAP | abi.HAS_RESEND | abi.HAS_EXPIRE_ONLY
)  # fmt: skip


#: So many have room from the start: their table takes 64 KiB.
_DESCRIPTORS: Final = 8192


def serve(union: Union, config: SessionConfig, ready: Callable[[str], None]) -> None:
    """Mount `union` and serve it until it is unmounted or a signal (SIGTERM, SIGINT, SIGHUP) ends it.

    `ready` is called once with a status line when the mount answers.  Raises MountError when it can't be mounted.
    """
    fd.reserve(_DESCRIPTORS)
    with held():
        if config.binding is Binding.PYFUSE3:
            binding = pyfuse3_binding.load()
            _leave_the_tree()
            binding(union, config, ready)
        else:
            _serve(union, config, ready)


def _serve(union: Union, config: SessionConfig, ready: Callable[[str], None]) -> None:
    if config.inode_passthrough is InodePassthrough.DRAFT and union.shows_otherwise:
        raise MountError("inode_passthrough=draft: can't be had for layers with owners in xattrs (xattr_permissions)")
    plan = stacking.plan(union, config)
    _insist(config, plan.obstacle, plan.too_deep)
    cpus = idle_cpus(config.cpu_idle)
    mounted = open_mount(config)
    _leave_the_tree()
    life = _Mount(union, config, mounted, plan, ready, cpus)
    try:
        trio.run(life.run)
        if life.failure is not None:
            raise life.failure
    finally:
        if cpus is not None:
            cpus.close()
        mounted.close()
        # Whatever ended the session, nothing stays mounted that would only answer ENOTCONN.
        mounted.unmount(lazy=True)


def _leave_the_tree() -> None:
    """From here on nothing depends on what is mounted where: the union may become the root of the whole system.

    Then modules can't be loaded any more either, of which the names of encodings are some.
    """
    for encoding in ("ascii", "unicode_escape"):
        codecs.lookup(encoding)
    if process.in_initramfs():
        process.keep_through_shutdown()
    procfs.anchor()


def _insist(config: SessionConfig, obstacle: str, refused: dict[Layer, str]) -> None:
    """With `passthrough=on`, it has to be there for every layer.  Raises MountError."""
    if config.passthrough is Passthrough.ON and refused:
        raise MountError(f"passthrough=on: can't be had for files of {stacking.named(refused)}")
    if config.passthrough is Passthrough.ON and obstacle:
        raise MountError(f"passthrough=on: can't be had: {obstacle}")
    if config.inode_passthrough is InodePassthrough.DRAFT and obstacle:
        raise MountError(f"inode_passthrough=draft: can't be had: {obstacle}")


class _Mount:
    """One mount's life."""

    def __init__(
        self, union: Union, config: SessionConfig, mounted: Mounted, plan: Plan, ready: Callable[[str], None],
        cpus: CpuLatency | None = None,
    ) -> None:
        self._union = union
        self._config = config
        self._mounted = mounted
        self._plan = plan
        self._ready = ready
        self.failure: MountError | None = None
        self._server: Server | None = None
        self._stack_depth = 0
        self._session = Session(mounted.device, union, _MAX_WRITE, config.debug, cpus)
        self._backings = Backings(mounted.device, union.identity)
        self._inodes = abi.INODE_PASSTHROUGH_DRAFT if config.inode_passthrough is InodePassthrough.DRAFT else None
        if self._inodes is not None:
            self._backings = InodeBackings(mounted.device, union.identity, union, self._inodes)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, self._mounted, nursery.cancel_scope, self._write_out)
            try:
                if await self._agree():
                    self._ready(self._status())
                    self._log_status()
                    await self._serve()
                    self._log_status()
            except MountError as error:
                self.failure = error
            nursery.cancel_scope.cancel()

    async def _serve(self) -> None:
        assert self._server is not None
        try:
            await self._session.run()
        finally:
            self._server.opens.held.settle_all()

    async def _write_out(self) -> None:
        """Before the end while files are open: what the kernel holds back of them would be lost."""
        if self._server is not None:
            with trio.move_on_after(_MOST_WRITING):
                await self._server.files.write_out_all()

    async def _agree(self) -> bool:
        """Answer INIT; False when the filesystem was unmounted before."""
        session = self._session
        while True:
            await trio.lowlevel.wait_readable(session.device)
            try:
                size = session.receive()
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return False
                raise
            if not size:
                continue
            message = session.message(size)
            try:
                header = decode_header(message)
                if header.opcode != Opcode.INIT:
                    session.send(error_reply(header.unique, errno.EIO))
                    continue
                request: Init = decoders(True)[int(Opcode.INIT)](message[40:], header)
            except Malformed as error:
                _log.error("malformed request before INIT: %s", error)
                continue
            if request.major > abi.MAJOR:
                session.send(encode_major(header.unique))
                continue
            self._accept(header, request)
            return True

    def _accept(self, header: Header, request: Init) -> None:
        session, config = self._session, self._config
        try:
            caps, _ = negotiate(request, self._wanted(request.flags))
        except OSError as error:
            session.send(error_reply(header.unique, errno.EPROTO))
            raise MountError(f"{error.strerror}; that is Linux 5.4 or later") from None
        if caps.inode_passthrough is not self._inodes:
            session.send(error_reply(header.unique, errno.EPROTO))
            raise MountError(inode_passthrough.NOT_OFFERED)
        session.send(encode_init(header.unique, caps))
        self._mounted.widen_readahead()
        self._settle_passthrough(caps)
        seconds = min(config.timeout, UNLIMITED_TIMEOUT)
        valid = (int(seconds), int(seconds % 1 * 1e9))
        context = Context(self._union, config, valid, session.device, session.notices, caps.flags, caps.max_write)
        self._server = Server(context, self._backings)
        self._stack_depth = caps.max_stack_depth
        session.use(self._server, decoders(bool(caps.flags & abi.SETXATTR_EXT)))

    def _wanted(self, offered: int) -> Wanted:
        flags = _FLAGS
        if self._config.writeback and not self._union.read_only and offered & abi.HANDLE_KILLPRIV_V2:
            # Left out beside passthrough by `negotiate`.  Kernels without the other flag write back after the close(2), and say
            # nothing of a write that failed then.
            flags |= abi.WRITEBACK_CACHE
        flags |= abi.NO_EXPORT_SUPPORT if self._union.exports is None else abi.EXPORT_SUPPORT
        if not self._config.noacl and self._union.takes_acls:
            flags |= abi.POSIX_ACL
        if self._config.default_permissions:
            flags |= abi.ALLOW_IDMAP
        if not self._plan.obstacle:
            flags |= abi.PASSTHROUGH
        depth = self._plan.max_stack_depth
        return Wanted(flags, max_write=_MAX_WRITE, max_stack_depth=depth, inode_passthrough=self._inodes)

    def _settle_passthrough(self, caps: Capabilities) -> None:
        backings = self._backings
        backings.refused.update(self._plan.too_deep)
        if self._plan.obstacle:
            backings.reason = self._plan.obstacle
        elif not caps.flags & abi.PASSTHROUGH:
            backings.reason = "the kernel does not offer it (Linux 6.9 or later is needed)"
        else:
            backings.reason = ""
            backings.probe(self._union)
            if self._config.passthrough is Passthrough.ON:
                backings.probe_lowers(self._union)
        _insist(self._config, backings.reason, backings.refused)
        if backings.refused:
            _log.warning("no passthrough for files of %s", stacking.named(backings.refused))

    def _status(self) -> str:
        passthrough = f"passthrough: off ({self._backings.reason})" if self._backings.reason else "passthrough: on"
        return "; ".join((passthrough, *surroundings.adjustments(self._union)))

    def _log_status(self) -> None:
        """With `-d`: the state of passthrough, when the mount begins and when it ends."""
        if self._config.debug and self._server is not None:
            found = status.collect(
                self._union, self._backings, self._server.opens, self._stack_depth, self._config.lower_io
            )
            for line in (*found.lines(), *surroundings.adjustments(self._union)):
                _log.debug("%s", line)
