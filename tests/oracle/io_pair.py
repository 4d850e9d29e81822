"""I/O pairs: how do workers on unionfs and on the kernel's overlayfs do the same, step by step, over copies of the same layers?

Each example has a directory of its own, with the same files in all of them; a pair is mounted once for many examples.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import assert_nothing_left
from tests.oracle.io_worker import PAGE, Answer, Look, Worker, WorkerLost
from tests.support import lowers
from tests.support.mounts import Driver, Kernel, Layers, Options, kill_servers, unmount

WORKERS = 2
SLOTS = 3
"""Of descriptors and of mappings in each worker."""

DIRECTORIES = 150
"""Examples of one mount."""

ANSWER_SECONDS = 20.0

BUILT_NS = 1_000_000_000_000_000_000
"""The modification time of everything in the layers."""

CODE = {
    "x86_64": bytes.fromhex("b822000000 0f05 ebf7"),  # mov eax, 34 (pause); syscall; jmp
    "aarch64": bytes.fromhex("e0031faae1031faae2031faae3031faa e4031faa 280980d2 010000d4 f9ffff17"),  # ppoll(0, 0, 0, 0, 0); b
}
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def sleeper(size: int) -> bytes:
    """A program that sleeps until it is killed, `size` bytes of ELF: one page that is code, the rest letters by page.

    It holds no other system call, so that running what a test has written into it does no harm.
    """
    machine, base = platform.machine(), 0x400000
    code = CODE[machine]
    entry = 64 + 56
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, ELF_MACHINE[machine], 1, base + entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, entry + len(code), entry + len(code), 0x10000)
    return (header + code).ljust(PAGE, b"\0") + letters(size - PAGE, "P")


def letters(size: int, first: str) -> bytes:
    """`size` bytes in which every page has another letter, from `first` on."""
    return b"".join(bytes([ord(first) + page % 8]) * PAGE for page in range(-(-size // PAGE)))[:size]


LOWER = {
    "data": letters(5000, "A"),
    "big": letters(70_000, "A"),
    "exe": sleeper(9000),
    "lib.so": letters(8300, "I"),
    "hard1": letters(4100, "M"),
}
HARD_LINK = ("hard1", "hard2")
UPPER = {"up": letters(6000, "U")}
EXECUTABLE = ("exe",)
MAPPABLE = ("exe", "lib.so")
"""Served by mapping the lower file where that is possible. The names are of the lower files as built."""
NAMES = [*LOWER, HARD_LINK[1], *UPPER, "new1", "new2"]


def fill(layers: Layers) -> None:
    """Makes the directories of the examples, 0, 1, ..."""
    for number in range(DIRECTORIES):
        lower, upper = layers.lowers[0] / str(number), layers.top / str(number)
        for directory, contents in ((lower, LOWER), (upper, UPPER)):
            directory.mkdir()
            for name, data in contents.items():
                (directory / name).write_bytes(data)
                (directory / name).chmod(0o755 if name in EXECUTABLE else 0o644)
        os.link(lower / HARD_LINK[0], lower / HARD_LINK[1])
        for directory in (lower, upper):
            for path in directory.iterdir():
                os.utime(path, ns=(BUILT_NS, BUILT_NS))


@dataclass
class Seen:
    """What all workers of a side see at one time: the names, and each worker's descriptors by slot."""

    names: dict[str, Look | str]
    slots: dict[tuple[int, int], Look]


@dataclass
class Side:
    """One implementation: its mount and its workers."""

    driver: Driver
    layers: Layers
    options: Options
    workers: list[Worker] = field(default_factory=list)

    def start(self) -> None:
        """Mounts, and starts the workers."""
        self.driver.start(self.layers, self.options)
        self.workers = [Worker() for _ in range(WORKERS)]

    def stop(self) -> None:
        """Ends the workers, unmounts; fails when a lower has changed."""
        for worker in self.workers:
            worker.end()
        self.workers = []
        unmount(self.layers.mnt)
        lowers.check(self.layers.lowers)

    def look(self) -> Seen:
        """Everything this side shows."""
        answers = [self.receive(number) for number in range(WORKERS)]
        seen = Seen({}, {})
        for number, answer in enumerate(answers):
            assert answer.outcome == "ok", f"{self.driver.name}: stat of what is open: {answer}"
            assert isinstance(answer.value, tuple)
            names, slots = answer.value
            seen.names.update(names)
            seen.slots.update({(number, slot): found for slot, found in slots.items()})
        return seen

    def send_look(self) -> None:
        """Has all workers look; the first at the names too."""
        for number, worker in enumerate(self.workers):
            worker.send("look", [] if number else NAMES)

    def receive(self, number: int) -> Answer:
        """The answer of one worker; if there is none, the server is killed, so that its processes can end."""
        try:
            return self.workers[number].receive(ANSWER_SECONDS)
        except WorkerLost:
            kill_servers(self.layers.mnt)
            raise


class Pair:
    """Ours and the oracle, mounted and mounted again as the directories are used up."""

    def __init__(self, base: Path, subject: Driver, options: Options) -> None:
        self._base, self._subject, self._options = base, subject, options
        self._rounds, self._next = 0, DIRECTORIES
        self.sides: list[Side] = []

    @property
    def ours(self) -> Side:
        """The implementation under test."""
        return self.sides[0]

    @property
    def oracle(self) -> Side:
        """The kernel's overlayfs."""
        return self.sides[1]

    def enter(self) -> str:
        """Has every worker let go of everything and enter a directory that nobody has used; its name."""
        if self._next == DIRECTORIES:
            self.stop()
            self._start()
        directory, self._next = str(self._next), self._next + 1
        for side in self.sides:
            for number, worker in enumerate(side.workers):
                worker.send("enter", os.fspath(side.layers.mnt / directory))
                answer = side.receive(number)
                assert answer.outcome == "ok", answer
        return directory

    def let_go(self) -> None:
        """Has every worker close what it has open."""
        for side in self.sides:
            for number, worker in enumerate(side.workers):
                worker.send("let_go")
                side.receive(number)

    def both(self, worker: int, command: str, *arguments: object) -> tuple[Answer, Answer]:
        """Ours and the oracle's answer to a command."""
        for side in self.sides:
            side.workers[worker].send(command, *arguments)
        ours, oracle = (side.receive(worker) for side in self.sides)
        return ours, oracle

    def look(self) -> tuple[Seen, Seen]:
        """What is seen on ours and on the oracle."""
        for side in self.sides:
            side.send_look()
        ours, oracle = (side.look() for side in self.sides)
        return ours, oracle

    def renew(self) -> None:
        """Forgets the mounts after something in them broke: the next example gets new ones."""
        self._next = DIRECTORIES

    def _start(self) -> None:
        self._rounds += 1
        place = self._base / f"io{self._rounds}"
        fill(Layers.create(place / "master"))
        for label, driver, options in (("ours", self._subject, self._options), ("oracle", Kernel(), {})):
            subprocess.run(["cp", "-a", os.fspath(place / "master"), os.fspath(place / label)], check=True)
            side = Side(driver, Layers.at(place / label), options)
            side.start()
            self.sides.append(side)
        self._next = 0

    def stop(self) -> None:
        """Unmounts both; what is left behind, or a lower that has changed, is an error."""
        sides, self.sides = self.sides, []
        for side in sides:
            side.stop()
        if sides:
            place = self._base / f"io{self._rounds}"
            assert_nothing_left(place)
            lowers.forget(place)
            shutil.rmtree(place)
