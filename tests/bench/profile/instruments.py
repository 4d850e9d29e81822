"""How is a server's time measured without a line in the server?  Its functions are wrapped before it starts.

`wrap_system_calls` has to come before anything else of the package is imported, since its modules bind C functions then.
What is measured is a server that is slower by the measuring: some 0.2 us for each change of stage.
"""

from __future__ import annotations

import fcntl
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import trio

from tests.bench.profile.account import DECODING, ENCODING, REPLYING, UNION, Account, Row
from tests.bench.profile.stepped import Stepped

#: The functions of Python's own modules that are one system call each, by its name.  The package calls them as `os.NAME`.
_CALLS = {
    "open": "openat", "close": "close", "read": "read", "pread": "pread", "preadv": "preadv", "write": "write",
    "pwrite": "pwrite", "dup": "dup", "mkdir": "mkdirat", "rmdir": "rmdir", "unlink": "unlinkat", "symlink": "symlinkat",
    "readlink": "readlinkat", "mknod": "mknodat", "link": "linkat", "rename": "renameat", "stat": "stat", "fstat": "fstat",
    "ftruncate": "ftruncate", "lseek": "lseek", "fsync": "fsync", "fdatasync": "fdatasync", "chmod": "fchmodat",
    "fchmod": "fchmod", "copy_file_range": "copy_file_range", "sendfile": "sendfile", "splice": "splice",
    "getxattr": "getxattr", "listxattr": "listxattr", "setxattr": "setxattr", "removexattr": "removexattr",
    "listdir": "getdents of a directory",
}  # fmt: skip


def wrap_system_calls(account: Account) -> None:
    """Every system call the union makes is counted from now on, in Python's modules and by way of ctypes."""
    for name, shown in _CALLS.items():
        setattr(os, name, account.timed_call(shown, getattr(os, name)))
    scandir = account.timed_call("getdents of a directory", _Entries)
    os.scandir = lambda path: scandir(_scandir, path)  # type: ignore[assignment]
    fcntl.ioctl = account.timed_call("ioctl", fcntl.ioctl)
    from unionfs.linux import libc

    bind = libc.function

    def function(name: str, *argtypes: Any, blocking: bool = False) -> Callable[..., int]:
        return account.timed_call(name, bind(name, *argtypes, blocking=blocking))

    libc.function = function
    syscall = libc.syscall
    by_name = {name: account.timed_call(name, syscall) for name in libc.NUMBERS}
    libc.syscall = lambda name, *args: by_name[name](name, *args)


_scandir = os.scandir


class _Entries:
    """The entries of a directory, read at once so that the time is that of the system calls."""

    def __init__(self, scandir: Callable[[Any], Any], path: Any) -> None:
        with scandir(path) as entries:
            self._entries = iter(list(entries))

    def __iter__(self) -> Iterator[os.DirEntry[Any]]:
        return self._entries

    def __next__(self) -> os.DirEntry[Any]:
        return next(self._entries)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


def wrap_session(account: Account) -> None:
    """The stages of every request are booked from now on."""
    from unionfs.serve import directories, polling
    from unionfs.serve.dispatch import Route, Server
    from unionfs.wire.abi import Opcode

    session: Any = importlib.import_module("unionfs.serve.session")
    names = {int(opcode): opcode.name for opcode in Opcode}
    Session = session.Session
    receive, decode_header, use, run = Session.receive, session.decode_header, Session.use, Session.run
    look = polling.Poller.look

    def timed_look(self: Any) -> bool:
        account.await_request()
        there: bool = look(self)
        if not there:
            account.nothing_there()
        return there

    def timed_receive(self: Any) -> int:
        account.await_request()
        size: int = receive(self)
        if size:
            account.received()
        else:
            account.nothing_there()
        return size

    def timed_decode_header(message: memoryview) -> Any:
        before, _ = account.switch(DECODING)
        header = decode_header(message)
        account.identified(names.get(header.opcode, str(header.opcode)))
        account.switch(before)
        return header

    def timed_use(self: Any, server: Server, decoders: dict[int, Callable[..., Any]]) -> None:
        for opcode, (handle, encode) in list(server.routes.items()):
            server.routes[opcode] = Route(account.timed_stage(UNION, handle), account.timed_stage(ENCODING, encode))
        use(self, server, {opcode: account.timed_stage(DECODING, decode) for opcode, decode in decoders.items()})

    async def timed_run(self: Any) -> None:
        account.adopt()
        await run(self)

    Session.receive, Session.use, Session.run = timed_receive, timed_use, timed_run
    polling.Poller.look = timed_look  # type: ignore[method-assign]
    Session.send = account.timed_stage(REPLYING, Session.send)
    Session.notify = account.timed_stage(REPLYING, Session.notify)
    session.decode_header = timed_decode_header
    listings: Any = directories.Directories
    listings.make_ahead = account.timed_row("(listing ahead)", listings.make_ahead)
    _wrap_tasks(account, names)


def _wrap_tasks(account: Account, names: dict[int, str]) -> None:
    """What is done outside of a request's first turn: by tasks, by copy-ups and scans, and in worker threads."""
    from unionfs.serve import copyups, scanning, session

    Session: Any = session.Session
    Scans: Any = scanning.Scans
    jobs: Any = copyups.CopyUps
    run_task, run_copy_up, run_scan = Session._run_task, jobs._run, Scans._run

    async def timed_task(self: Any, task: Any, scope: Any, header: Any, *args: Any) -> None:
        name = names.get(header.opcode, str(header.opcode))
        await Stepped(account, run_task(self, task, scope, header, *args), lambda: account.named(name))

    async def timed_copy_up(self: Any, *args: Any) -> None:
        await Stepped(account, run_copy_up(self, *args), lambda: account.named("(copy-up)"))

    async def timed_scan(self: Any, *args: Any) -> None:
        await Stepped(account, run_scan(self, *args), lambda: account.named("(scan)"))

    Session._run_task, jobs._run, Scans._run = timed_task, timed_copy_up, timed_scan
    to_thread: Any = trio.to_thread
    run_sync = to_thread.run_sync

    async def timed_run_sync(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        row: Row = account.row

        def work() -> Any:
            start = account.now()
            try:
                return function(*args)
            finally:
                row.worker += account.now() - start

        return await run_sync(work, **kwargs)

    to_thread.run_sync = timed_run_sync
