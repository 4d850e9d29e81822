"""I/O machine: which sequences of opens, reads, writes, mappings, changes and closes are tried, in several processes at once?

A hypothesis state machine: every rule does one call on unionfs and on the kernel's overlayfs, then compares the results and
everything that both show of the files and of each open descriptor.
"""

from __future__ import annotations

import os
import time
from typing import NoReturn

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.oracle.actor import flag_names
from tests.oracle.io_model import Model, Opened, Slot
from tests.oracle.io_pair import BUILT_NS, NAMES, SLOTS, WORKERS, Pair
from tests.oracle.io_worker import PAGE, Answer
from tests.support.syscalls import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
)

SHRINK_SECONDS = 30.0


def _is_defined(flags: int) -> bool:
    """O_TRUNC without writing is not defined: of a running program the oracle both empties the file and says ETXTBSY."""
    return not flags & os.O_TRUNC or flags & os.O_ACCMODE != os.O_RDONLY


LETTERS = st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"])
SIZES = st.sampled_from([0, 1, 4096, 7000, 80_000])
OFFSETS = st.sampled_from([0, 10, 4096, 4999, 65_536])
FAVOURITES = ("1st", "2nd")
"""Stand for two names that each example draws at its start, so that most calls meet on the same files."""

PATHS = st.sampled_from([*FAVOURITES * 5, *NAMES])
MODES = st.sampled_from([0o644, 0o755, 0o600])
TIMES = st.sampled_from([BUILT_NS + 10**9, BUILT_NS + 2 * 10**9])
WORKER = st.integers(0, WORKERS - 1)
NUMBER = st.integers(0, 5)
ACCESS = st.sampled_from([os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
OPTIONAL = [0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_DIRECT, os.O_SYNC]
FLAGS = st.builds(lambda access, more: access | more, ACCESS, st.sampled_from(OPTIONAL)).filter(_is_defined)
OPTIONAL_AGAIN = [0, 0, os.O_TRUNC, os.O_APPEND, os.O_DIRECT]
AGAIN = st.builds(lambda access, more: access | more, ACCESS, st.sampled_from(OPTIONAL_AGAIN)).filter(_is_defined)
FALLOCATE = st.sampled_from([0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE])


class Enough(BaseException):
    """The time to look for a shorter sequence is over. No Exception, or hypothesis would take it for a failure of its own."""


class Search:
    """The shortest sequence so far that came out otherwise, and how long to look for a shorter one."""

    def __init__(self) -> None:
        self.shortest: list[str] = []
        self._deadline = float("inf")

    def failed(self, log: list[str]) -> NoReturn:
        """One came out otherwise. Raises AssertionError."""
        if not self.shortest:
            self._deadline = time.monotonic() + SHRINK_SECONDS
        if not self.shortest or len(log) < len(self.shortest):
            self.shortest = log
        raise AssertionError("\n".join(log))

    def go_on(self) -> None:
        """A sequence begins. Raises Enough."""
        if time.monotonic() > self._deadline:
            raise Enough


class IoMachine(RuleBasedStateMachine):
    """The rules; a subclass has the pair, and the lower_io mode or None without passthrough."""

    pair: Pair
    lower_io: str | None
    search: Search

    def __init__(self) -> None:
        super().__init__()
        self.search.go_on()
        self._log: list[str] = []
        self._failed = False
        self._lost = False
        self._directory = self.pair.enter()
        self._model = Model(self.lower_io, self.pair.oracle.layers.top / self._directory)
        self._names: dict[object, str] = {}
        self._compare_views("at the start", ())

    @initialize(first=st.sampled_from(NAMES[:6]), second=st.sampled_from(NAMES), mapped=st.booleans(), held=st.booleans())
    def begin(self, first: str, second: str, mapped: bool, held: bool) -> None:
        """Draws the favourites; one is open from the start, and perhaps mapped."""
        self._names = dict(zip(FAVOURITES, (first, second), strict=True))
        if held:
            self.open(0, 0, first, os.O_RDONLY, 0)
        if held and mapped:
            self.map(0, 0, True, False)

    def _named(self, path: str) -> str:
        return self._names.get(path, path)

    def teardown(self) -> None:
        """Every file by name, once while all is open, once after all is closed."""
        if self._lost:
            self.pair.renew()
        elif not self._failed:
            for _ in range(2):
                for name in NAMES:
                    self._do(0, "read_path", name)
                self.pair.let_go()
                self._model.slots.clear()
                self._model.maps.clear()

    def _do(self, worker: int, command: str, *arguments: object, rebound: tuple[str, ...] = ()) -> Answer:
        """One call on both, with equal answers; the oracle's."""
        ours, oracle = self._call(worker, command, *arguments)
        self._expect(ours == oracle, ours, oracle)
        self._compare_views("seen afterwards", rebound)
        return oracle

    def _call(self, worker: int, command: str, *arguments: object) -> tuple[Answer, Answer]:
        arguments = tuple(self._named(value) if isinstance(value, str) else value for value in arguments)
        shown = [flag_names(value) if command.endswith("open") and i == 2 and isinstance(value, int) else repr(value)
                 for i, value in enumerate(arguments)]  # fmt: skip
        self._log.append(f"process {worker}: {command}({', '.join(shown)})")
        self._lost = True
        ours, oracle = self.pair.both(worker, command, *arguments)
        self._lost = False
        self._log[-1] += f" -> {oracle}"
        return ours, oracle

    def _expect(self, good: bool, ours: object, oracle: object) -> None:
        if not good:
            self._failed = True
            self.search.failed([*self._log, f"ours:   {ours}", f"oracle: {oracle}"])

    def _compare_views(self, when: str, rebound: tuple[str, ...]) -> None:
        self._lost = True
        ours, oracle = self.pair.look()
        self._lost = False
        found = self._model.differences(ours, oracle, rebound)
        self._expect(not found, "\n".join([when, *found]), "(as said)")

    def _slot(self, number: int) -> Slot | None:
        """One of the open descriptors."""
        slots = sorted(self._model.slots)
        return slots[number % len(slots)] if slots else None

    def _changeable(self, number: int) -> Slot | None:
        slots = sorted(slot for slot in self._model.slots if self._model.changeable(slot))
        return slots[number % len(slots)] if slots else None

    def _opened(self, slot: Slot) -> Opened:
        return self._model.slots[slot]

    @rule(worker=WORKER, number=st.integers(0, SLOTS - 1), path=PATHS, flags=FLAGS, mode=MODES)
    def open(self, worker: int, number: int, path: str, flags: int, mode: int) -> None:
        path = self._named(path)
        self._model.forget_slot((worker, number))
        lower = self._model.lower_content(path)
        if self._do(worker, "open", number, path, flags, mode, rebound=(path,)).outcome == "ok":
            self._model.opened((worker, number), path, flags, lower)

    @rule(worker=WORKER, number=st.integers(0, SLOTS - 1), path=PATHS, writable=st.booleans())
    def open_plainly(self, worker: int, number: int, path: str, writable: bool) -> None:
        self.open(worker, number, path, os.O_RDWR if writable else os.O_RDONLY, 0)

    @rule(worker=WORKER, number=st.integers(0, SLOTS - 1), path=PATHS, more=st.sampled_from([0, os.O_TRUNC, os.O_APPEND]))
    def open_to_write(self, worker: int, number: int, path: str, more: int) -> None:
        self.open(worker, number, path, os.O_WRONLY | more, 0)

    @precondition(lambda self: self._model.slots)
    @rule(source=NUMBER, number=st.integers(0, SLOTS - 1), flags=AGAIN)
    def reopen(self, source: int, number: int, flags: int) -> None:
        slot = self._slot(source)
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if slot is None or slot[1] == number or (writes and not self._model.changeable(slot)):
            return
        worker = slot[0]
        busy = bool(writes) and self._model.may_be_busy(self._opened(slot))
        if busy and flags & os.O_TRUNC:
            return
        self._model.forget_slot((worker, number))
        ours, oracle = self._call(worker, "reopen", number, slot[1], flags)
        if busy and (ours.outcome, oracle.outcome) == ("ETXTBSY", "ok"):
            self._undo(worker, "close", number)
            return
        self._expect(ours == oracle, ours, oracle)
        if oracle.outcome == "ok":
            self._model.reopened((worker, number), slot, flags)
        self._compare_views("seen afterwards", ())

    def _undo(self, worker: int, command: str, number: int) -> None:
        """Takes back on the oracle what ours may refuse."""
        self.pair.oracle.workers[worker].send(command, number)
        self.pair.oracle.receive(worker)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER)
    def close(self, number: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        self._model.forget_slot(slot)
        self._do(slot[0], "close", slot[1])

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER)
    def read(self, number: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        ours, oracle = self._call(slot[0], "read", slot[1])
        self._expect(self._model.same_read(self._opened(slot), ours, oracle), ours, oracle)

    @rule(worker=WORKER, path=PATHS)
    def read_path(self, worker: int, path: str) -> None:
        self._do(worker, "read_path", path)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, letter=LETTERS, size=st.sampled_from([1, 100, 5000]), offset=OFFSETS)
    def write(self, number: int, letter: bytes, size: int, offset: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        if self._opened(slot).direct:
            size, offset = PAGE, offset // PAGE * PAGE
        self._do(slot[0], "write", slot[1], letter, size, offset)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, mapping=st.integers(0, SLOTS - 1), shared=st.booleans(), writable=st.booleans())
    def map(self, number: int, mapping: int, shared: bool, writable: bool) -> None:
        slot = self._slot(number)
        assert slot is not None
        opened, worker = self._opened(slot), slot[0]
        self._model.maps.pop((worker, mapping), None)
        ours, oracle = self._call(worker, "map", mapping, slot[1], shared, shared and writable)
        self._expect(ours == oracle, ours, oracle)
        if oracle.outcome == "ok":
            self._model.maps[worker, mapping] = Opened(**{**opened.__dict__, "writable": shared and writable})

    @precondition(lambda self: self._model.maps)
    @rule(number=NUMBER)
    def read_map(self, number: int) -> None:
        worker, mapping = self._mapping(number)
        ours, oracle = self._call(worker, "read_map", mapping)
        self._expect(self._model.same_mapping(self._model.maps[worker, mapping], ours, oracle), ours, oracle)

    @precondition(lambda self: any(opened.writable for opened in self._model.maps.values()))
    @rule(number=NUMBER, letter=LETTERS, size=st.sampled_from([1, 100, 5000]), offset=st.sampled_from([0, 10, 4096]))
    def write_map(self, number: int, letter: bytes, size: int, offset: int) -> None:
        worker, mapping = self._mapping(number, writable=True)
        self._do(worker, "write_map", mapping, letter, size, offset)

    @precondition(lambda self: self._model.maps)
    @rule(number=NUMBER)
    def unmap(self, number: int) -> None:
        worker, mapping = self._mapping(number)
        del self._model.maps[worker, mapping]
        self._do(worker, "unmap", mapping)

    def _mapping(self, number: int, writable: bool = False) -> Slot:
        maps = sorted(slot for slot, opened in self._model.maps.items() if opened.writable or not writable)
        return maps[number % len(maps)]

    @rule(worker=WORKER, path=PATHS, size=SIZES)
    def truncate(self, worker: int, path: str, size: int) -> None:
        self._do(worker, "truncate", path, size)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, size=SIZES)
    def ftruncate(self, number: int, size: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        self._do(slot[0], "ftruncate", slot[1], size)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, mode=FALLOCATE, offset=OFFSETS)
    def fallocate(self, number: int, mode: int, offset: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        self._do(slot[0], "fallocate", slot[1], mode, offset, 5000)

    @precondition(lambda self: len(self._model.slots) > 1)
    @rule(number=NUMBER, into=NUMBER, size=st.sampled_from([100, 9000]), offset=st.sampled_from([0, 4096]))
    def copy(self, number: int, into: int, size: int, offset: int) -> None:
        source = self._slot(number)
        assert source is not None
        targets = sorted(slot for slot in self._model.slots if slot[0] == source[0])
        slot = targets[into % len(targets)]
        moved = self._opened(source).lower is not None and self.lower_io == "passthrough"
        if not moved and not self._opened(source).direct and not self._opened(slot).direct:
            self._do(source[0], "copy", source[1], slot[1], size, 0, offset)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER)
    def fsync(self, number: int) -> None:
        slot = self._slot(number)
        assert slot is not None
        self._do(slot[0], "fsync", slot[1])

    @rule(worker=WORKER, source=PATHS, new=PATHS)
    def link(self, worker: int, source: str, new: str) -> None:
        self._do(worker, "link", source, new, rebound=(self._named(new),))

    @rule(worker=WORKER, source=PATHS, new=PATHS, flags=st.sampled_from([0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, worker: int, source: str, new: str, flags: int) -> None:
        source, new = self._named(source), self._named(new)
        before = self._model.lower_content(new)
        ours, oracle = self._call(worker, "rename", source, new, flags)
        self._expect(ours == oracle, ours, oracle)
        if oracle.outcome == "ok":
            exchange = flags == RENAME_EXCHANGE
            # A rename of one name of a file over another does nothing.
            moved = exchange or not os.path.lexists(self.pair.oracle.layers.mnt / self._directory / source)
            if moved and source != new:
                if not exchange:
                    self._model.loses_name(new, before is not None)
                self._model.renames(source, new, exchange)
        self._compare_views("seen afterwards", (source, new))

    @rule(worker=WORKER, path=PATHS)
    def unlink(self, worker: int, path: str) -> None:
        path = self._named(path)
        on_lower = self._model.lower_content(path) is not None
        ours, oracle = self._call(worker, "unlink", path)
        self._expect(ours == oracle, ours, oracle)
        if oracle.outcome == "ok":
            self._model.loses_name(path, on_lower)
        self._compare_views("seen afterwards", (path,))

    @rule(worker=WORKER, path=PATHS, mode=MODES)
    def chmod(self, worker: int, path: str, mode: int) -> None:
        self._do(worker, "chmod", path, mode)

    @rule(worker=WORKER, path=PATHS, uid=st.integers(0, 2))
    def chown(self, worker: int, path: str, uid: int) -> None:
        self._do(worker, "chown", path, uid)

    @rule(worker=WORKER, path=PATHS, mtime_ns=TIMES)
    def utime(self, worker: int, path: str, mtime_ns: int) -> None:
        self._do(worker, "utime", path, mtime_ns)

    @rule(worker=WORKER, path=PATHS, value=LETTERS)
    def setxattr(self, worker: int, path: str, value: bytes) -> None:
        self._do(worker, "setxattr", path, value)
        self._do(worker, "getxattr", path)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, mode=MODES)
    def fchmod(self, number: int, mode: int) -> None:
        self._on_changeable(number, "fchmod", mode)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, uid=st.integers(0, 2))
    def fchown(self, number: int, uid: int) -> None:
        self._on_changeable(number, "fchown", uid)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, mtime_ns=TIMES)
    def futime(self, number: int, mtime_ns: int) -> None:
        self._on_changeable(number, "futime", mtime_ns)

    @precondition(lambda self: self._model.slots)
    @rule(number=NUMBER, value=LETTERS)
    def fsetxattr(self, number: int, value: bytes) -> None:
        self._on_changeable(number, "fsetxattr", value)

    def _on_changeable(self, number: int, command: str, argument: object) -> None:
        slot = self._changeable(number)
        if slot is not None:
            self._do(slot[0], command, slot[1], argument)

    @rule(worker=WORKER, path=st.sampled_from(["exe", "exe", "new1"]))
    def execute(self, worker: int, path: str) -> None:
        self._do(worker, "execute", path)

    @rule(worker=WORKER)
    def end_programs(self, worker: int) -> None:
        self._do(worker, "end_programs")
