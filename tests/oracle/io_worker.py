"""I/O workers: how does a process hold descriptors, mappings and running programs for a test that drives it step by step?

Every answer means the same on both implementations: contents are written as runs of bytes (`runs`), no descriptor, and no
address.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import select
import signal
import struct
import subprocess
import time
import traceback
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tests.oracle.actor import errno_name
from tests.oracle.io_mapping import Mapping
from tests.oracle.ops import Seen, seen
from tests.support import pyfuse3
from tests.support.syscalls import die_with_parent, fallocate, renameat2

PAGE = mmap.PAGESIZE
LARGEST = 24 * PAGE
"""No file of these tests is larger, in bytes."""

NOW = -1
"""Stands for every modification time that was not set explicitly."""

SET_BEFORE_NS = 1_500_000_000_000_000_000
"""Explicit times are before this one, the time of any test after it."""

STOP = "stop"
"""The command that ends a worker."""

SETTLE_SECONDS = 0.5
"""How long a program may take from its start until it sleeps."""


class Answer(NamedTuple):
    """What a call came to: "ok" or the errno's name, and what it returned."""

    outcome: str
    value: object = None

    def __str__(self) -> str:
        return self.outcome if self.value is None else f"{self.outcome} {self.value}"


class Look(NamedTuple):
    """A name or a descriptor as stat(2) shows it: the comparable part, the modification time or NOW, and st_ino."""

    seen: Seen
    mtime_ns: int
    ino: int


class Mapped(NamedTuple):
    """The pages of a mapping (runs, or EFAULT behind the end of the file), and what they are by read(2) on its descriptor."""

    pages: list[str]
    file: list[str]


def runs(data: bytes) -> str:
    """Bytes as `A*5000 .*96`, or a checksum where that would be long; a dot is a zero byte."""
    found = []
    for value, group in itertools.groupby(data):
        found.append(f"{chr(value) if value else '.'}*{sum(1 for _ in group)}")
        if len(found) > 8:
            return f"crc {zlib.crc32(data):08x} of {len(data)}"
    return " ".join(found)


def pages_of(data: bytes) -> list[str]:
    """The pages that a mapping of LARGEST bytes shows of a file with this content."""
    whole = [data[start : start + PAGE].ljust(PAGE, b"\0") for start in range(0, len(data), PAGE)]
    return [runs(page) for page in whole] + ["EFAULT"] * (LARGEST // PAGE - len(whole))


def look(status: os.stat_result) -> Look:
    """The part of a stat result that is defined by the operations, and st_ino."""
    mtime = status.st_mtime_ns if status.st_mtime_ns < SET_BEFORE_NS else NOW
    return Look(seen(status), mtime, status.st_ino)


class Hands:
    """What a worker can do: each public method is a command. Descriptors and mappings are named by small numbers (slots)."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._maps: dict[int, tuple[Mapping, int]] = {}
        self._programs: list[subprocess.Popen[bytes]] = []
        self._buffer = mmap.mmap(-1, LARGEST)

    def enter(self, directory: str) -> None:
        """Lets everything go, and makes `directory` the working directory."""
        self.let_go()
        os.chdir(directory)
        os.umask(0o022)

    def let_go(self) -> None:
        """Closes every descriptor and mapping, ends every program."""
        for slot in list(self._fds):
            self.close(slot)
        for slot in list(self._maps):
            self.unmap(slot)
        self.end_programs()

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        """open(2) into a slot, which is closed first."""
        if slot in self._fds:
            self.close(slot)
        self._fds[slot] = os.open(path, flags | os.O_CLOEXEC, mode)

    def reopen(self, slot: int, source: int, flags: int) -> None:
        """open(2) of another slot's /proc/self/fd link."""
        self.open(slot, f"/proc/self/fd/{self._fds[source]}", flags, 0)

    def close(self, slot: int) -> None:
        """close(2)."""
        os.close(self._fds.pop(slot))

    def read(self, slot: int) -> str:
        """The whole file by pread(2)."""
        return runs(self._content(self._fds[slot]))

    def read_path(self, path: str) -> str:
        """The whole file through a descriptor of its own."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return runs(self._content(fd))
        finally:
            os.close(fd)

    def _content(self, fd: int) -> bytes:
        # The buffer is aligned, as O_DIRECT needs it.
        return self._buffer[: os.preadv(fd, [self._buffer], 0)]

    def write(self, slot: int, letter: bytes, size: int, offset: int) -> int:
        """pwrite(2) of `size` times a letter."""
        self._buffer[:size] = letter * size
        return os.pwritev(self._fds[slot], [memoryview(self._buffer)[:size]], offset)

    def map(self, mapping: int, slot: int, shared: bool, writable: bool) -> None:
        """mmap(2) of LARGEST bytes from the start of the file; the descriptor is duplicated, to read beside the mapping."""
        if mapping in self._maps:
            self.unmap(mapping)
        fd = self._fds[slot]
        self._maps[mapping] = (Mapping(fd, LARGEST, shared, writable), os.dup(fd))

    def unmap(self, mapping: int) -> None:
        """munmap(2)."""
        made, fd = self._maps.pop(mapping)
        made.close()
        os.close(fd)

    def read_map(self, mapping: int) -> Mapped:
        """Every page of a mapping, and the file beside it."""
        made, fd = self._maps[mapping]
        pages = []
        for start in range(0, LARGEST, PAGE):
            try:
                pages.append(runs(made.read(start, PAGE)))
            except OSError as error:
                pages.append(errno_name(error))
        return Mapped(pages, pages_of(self._content(fd)))

    def write_map(self, mapping: int, letter: bytes, size: int, offset: int) -> int:
        """Stores through a shared mapping, and msyncs it; the number of bytes until the first page behind the end."""
        return self._maps[mapping][0].write(offset, letter * size)

    def truncate(self, path: str, size: int) -> None:
        """truncate(2)."""
        os.truncate(path, size)

    def ftruncate(self, slot: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(self._fds[slot], size)

    def fallocate(self, slot: int, mode: int, offset: int, size: int) -> None:
        """fallocate(2)."""
        if pyfuse3.lacks_call("fallocate", (slot, mode)):
            return
        fallocate(self._fds[slot], mode, offset, size)

    def copy(self, source: int, target: int, size: int, source_offset: int, offset: int) -> int:
        """copy_file_range(2)."""
        return os.copy_file_range(self._fds[source], self._fds[target], size, source_offset, offset)

    def link(self, source: str, target: str) -> None:
        """link(2)."""
        os.link(source, target)

    def rename(self, source: str, target: str, flags: int) -> None:
        """renameat2(2)."""
        renameat2(source, target, flags)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(path)

    def chmod(self, path: str, mode: int) -> None:
        """chmod(2)."""
        os.chmod(path, mode)

    def chown(self, path: str, uid: int) -> None:
        """chown(2)."""
        os.chown(path, uid, uid)

    def utime(self, path: str, mtime_ns: int) -> None:
        """utimensat(2)."""
        os.utime(path, ns=(mtime_ns, mtime_ns))

    def setxattr(self, path: str, value: bytes) -> None:
        """setxattr(2) of user.test."""
        os.setxattr(path, "user.test", value)

    def getxattr(self, path: str) -> bytes:
        """getxattr(2) of user.test."""
        return os.getxattr(path, "user.test")

    def fchmod(self, slot: int, mode: int) -> None:
        """fchmod(2)."""
        os.fchmod(self._fds[slot], mode)

    def fchown(self, slot: int, uid: int) -> None:
        """fchown(2)."""
        os.fchown(self._fds[slot], uid, uid)

    def futime(self, slot: int, mtime_ns: int) -> None:
        """futimens(3)."""
        os.utime(self._fds[slot], ns=(mtime_ns, mtime_ns))

    def fsetxattr(self, slot: int, value: bytes) -> None:
        """fsetxattr(2) of user.test."""
        os.setxattr(self._fds[slot], "user.test", value)

    def fgetxattr(self, slot: int) -> bytes:
        """fgetxattr(2) of user.test."""
        return os.getxattr(self._fds[slot], "user.test")

    def fsync(self, slot: int) -> None:
        """fsync(2)."""
        os.fsync(self._fds[slot])

    def execute(self, path: str) -> None:
        """Starts a program, and waits until it sleeps or is dead; it goes on running."""
        program = subprocess.Popen(
            [f"./{path}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + SETTLE_SECONDS
        while program.poll() is None and _state(program.pid) != "S" and time.monotonic() < deadline:
            time.sleep(0.0005)
        if program.returncode is None:
            self._programs.append(program)

    def end_programs(self) -> None:
        """Kills what was started."""
        while self._programs:
            program = self._programs.pop()
            program.kill()
            program.wait()

    def look(self, names: list[str]) -> tuple[dict[str, Look | str], dict[int, Look]]:
        """Every name (or why it cannot be seen) and every descriptor as stat(2) shows it."""
        return {name: _look_at(name) for name in names}, {slot: look(os.fstat(fd)) for slot, fd in self._fds.items()}


def _look_at(name: str) -> Look | str:
    try:
        return look(os.lstat(name))
    except OSError as error:
        return errno_name(error)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


class WorkerLost(Exception):
    """A worker that died, or did not answer in time: the mount hangs."""


class Letting(Protocol):
    """What a worker works with: each public method is a command."""

    def let_go(self) -> None:
        """Closes everything."""


class Worker:
    """A process with hands, seen from the test."""

    def __init__(self, hands: Callable[[], Letting] = Hands) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            die_with_parent()
            os.close(self._commands)
            os.close(self._answers)
            _serve(commands, answers, hands())
        os.close(commands)
        os.close(answers)

    def send(self, command: str, *arguments: object) -> None:
        """Has a command begin; `receive` must follow."""
        _put(self._commands, (command, arguments))

    def receive(self, seconds: float) -> Answer:
        """The answer to what was sent. Raises WorkerLost."""
        try:
            answer: Answer = _get(self._answers, seconds)
        except (EOFError, TimeoutError) as error:
            raise WorkerLost(f"no answer: {error!r}") from error
        if answer.outcome == "raised":
            raise AssertionError(answer.value)
        return answer

    def end(self) -> None:
        """Ends the process, if need be by force; all it had open is closed then."""
        # The other workers hold the pipe as well: closing it would not be seen.
        try:
            self.send(STOP)
            stopped = bool(select.select([self._answers], [], [], 5)[0])
        except BrokenPipeError:  # killed already
            stopped = True
        if not stopped:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._commands)
        os.close(self._answers)


def _serve(commands: int, answers: int, hands: Letting) -> None:
    """The worker's life: never returns, and runs none of the parent's exit handlers."""
    try:
        while True:
            command, arguments = _get(commands, None)
            if command == STOP:
                hands.let_go()
                _put(answers, Answer("ok"))
                break
            _put(answers, _do(hands, command, arguments))
    finally:
        os._exit(0)


def _do(hands: Letting, command: str, arguments: tuple[object, ...]) -> Answer:
    call: Callable[..., object] = getattr(hands, command)
    try:
        return Answer("ok", call(*arguments))
    except OSError as error:
        return Answer(errno_name(error))
    except KeyError:
        return Answer("empty slot")
    except Exception:
        return Answer("raised", traceback.format_exc())


def _put(fd: int, value: object) -> None:
    data = pickle.dumps(value)
    view = memoryview(struct.pack("=I", len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]


def _get(fd: int, seconds: float | None) -> Any:
    (size,) = struct.unpack("=I", _exactly(fd, 4, seconds))
    return pickle.loads(_exactly(fd, size, seconds))


def _exactly(fd: int, size: int, seconds: float | None) -> bytes:
    data = b""
    while len(data) < size:
        if seconds is not None and not select.select([fd], [], [], seconds)[0]:
            raise TimeoutError(f"{seconds} s")
        part = os.read(fd, size - len(data))
        if not part:
            raise EOFError("the process is gone")
        data += part
    return data
