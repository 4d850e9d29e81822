"""Do random operations come out on unionfs as on the kernel's overlayfs?

A sequence is drawn from a seed over a small namespace, so that operations meet each other often; both implementations run it on
copies of the same layers, and every result, the trees, and the uppers are compared as in the written cases. When one differs,
the operations are taken away one by one as long as it still differs, and what is left is the report.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import assert_nothing_left
from tests.oracle import ops
from tests.oracle.actor import Actor, Fd, Step
from tests.oracle.case import Builder, Case, LayerBuilder, Steps, Suite
from tests.oracle.compare import WHOLE, Finding, Findings, compare
from tests.support.mounts import Driver, Kernel
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

NAMES = ("a", "b", "c")
PATHS = [
    *NAMES,
    *(f"{one}/{two}" for one, two in itertools.product(NAMES, NAMES)),
    *(f"{one}/a/{two}" for one, two in itertools.product(NAMES[:2], NAMES[:2])),
]

SECONDS = float(os.environ.get("UNIONFS_ORACLE_RANDOM_SECONDS", "15"))
"""How long each of the four tests goes on drawing; four times this is the share of the suite."""

SHRINK_SECONDS = 60.0

SEQUENCES = 12
"""Sequences that share one mount, each in a directory of its own."""

Operation = Callable[[Actor, list[Fd]], None]


def place(kind: str, number: int) -> str:
    """A path, chosen by a drawn number when the operation runs, so that most operations have something to act on.

    `there`: one that exists; `dir`: an existing directory; `free`: one that does not exist, in a directory that does; `any`:
    whichever.
    Both implementations choose alike as long as they show the same tree, and when they do not, that is found.
    """
    chosen = PATHS
    if kind == "there":
        chosen = [path for path in PATHS if os.path.lexists(path)]
    elif kind == "dir":
        chosen = [path for path in PATHS if _is_real_dir(path)]
    elif kind == "free":
        chosen = [path for path in PATHS if not os.path.lexists(path) and _is_real_dir(os.path.dirname(path) or ".")]
    return (chosen or PATHS)[number % len(chosen or PATHS)]


def _is_real_dir(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def draw(rng: random.Random) -> Operation:
    """One operation with its arguments."""
    blind = rng.random() < 0.2
    numbers = [rng.randrange(1 << 16) for _ in range(4)]
    data = bytes([rng.randrange(97, 123)]) * rng.choice((1, 10, 5000))
    mode = rng.choice((0o600, 0o644, 0o755, 0o4755, 0o2775, 0o1777))
    flags = rng.choice((os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC))
    rename_flags = rng.choice((0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
    target = rng.choice(("there", "free", "any"))
    size, number = rng.choice((0, 1, 100, 6000)), numbers[3] % 8

    def there() -> str:
        return place("any" if blind else "there", numbers[0])

    def free() -> str:
        return place("any" if blind else "free", numbers[1])

    def folder() -> str:
        return place("any" if blind else "dir", numbers[0])

    def other() -> str:
        return place(target, numbers[2])

    by_path: list[Operation] = [
        lambda a, fds: _ignore(a(ops.create, free(), data, mode)),
        lambda a, fds: _ignore(a(ops.write, there(), data)),
        lambda a, fds: _ignore(a(ops.write, there(), data, os.O_WRONLY | os.O_APPEND)),
        lambda a, fds: a(os.mkdir, free(), mode),
        lambda a, fds: a(os.symlink, other(), free()),
        lambda a, fds: a(os.mkfifo, free(), mode & 0o777),
        lambda a, fds: a(os.mknod, free(), stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        lambda a, fds: a(os.link, there(), free(), follow_symlinks=False),
        lambda a, fds: a(os.unlink, there()),
        lambda a, fds: a(os.rmdir, folder()),
        lambda a, fds: _rename(a, there(), other(), rename_flags),
        lambda a, fds: _rename(a, folder(), other(), rename_flags),
        lambda a, fds: a(os.chmod, there(), mode),
        lambda a, fds: a(ops.lchown, there(), size, mode),
        lambda a, fds: a(os.truncate, there(), size),
        lambda a, fds: a(ops.utime, there(), size * 10**9, mode * 10**9),
        lambda a, fds: a(ops.setxattr, there(), f"user.{number}", data[:10]),
        lambda a, fds: a(ops.removexattr, there(), f"user.{number}"),
    ]
    looking: list[Operation] = [
        lambda a, fds: _ignore(a(ops.lstat, there())),
        lambda a, fds: _read(a, there()),
        lambda a, fds: _ignore(a(ops.listing, folder())),
    ]
    by_descriptor: list[Operation] = [
        lambda a, fds: _open(a, fds, there(), flags),
        lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.write_fd, fd, data, size)),
        lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.read_fd, fd)),
        lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.fstat, fd)),
        lambda a, fds: _on_file(a, fds, number, lambda fd: a(os.ftruncate, fd, size)),
        lambda a, fds: _on_file(a, fds, number, lambda fd: a(os.fchmod, fd, mode)),
        lambda a, fds: _close(fds, number),
    ]
    return rng.choice(rng.choice((by_path, by_path, looking, by_descriptor)))


def _ignore(_: object) -> None:
    """Only the record counts."""


def _read(a: Actor, path: str) -> None:
    if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
        a(ops.read, path)


def _rename(a: Actor, source: str, target: str, flags: int) -> None:
    """Renames; after a failure gives the parents fixed times, since the kernel's attempt may have touched the source's (ext4
    takes a whiteout back).

    Not onto a directory that is not empty: there the kernel leaves traces of its attempt (intended.UNTOUCHED).
    """
    if not flags and _is_real_dir(source) and _is_real_dir(target) and os.listdir(target):
        return
    a(renameat2, source, target, flags)
    if a.steps[-1].outcome != "ok":
        for path in (source, target):
            a(ops.utime, os.path.dirname(path) or ".", 1, 2)


def _open(a: Actor, fds: list[Fd], path: str, flags: int) -> None:
    fd = a.fd(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    if fd >= 0:
        fds.append(fd)


def _on_file(a: Actor, fds: list[Fd], number: int, call: Callable[[Fd], object]) -> None:
    """Acts on the descriptor with a number, if it is an open regular file.

    A lower file that was opened read-only and has lost its name is left alone: there the kernel refuses what ours allows
    (test_own).
    """
    if not fds:
        return
    fd = fds[number % len(fds)]
    status = os.fstat(fd)
    named = status.st_nlink > 0 and _has_name(status)
    if stat.S_ISREG(status.st_mode) and named:
        call(fd)


def _has_name(status: os.stat_result) -> bool:
    for path in PATHS:
        try:
            found = os.lstat(path)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
            return True
    return False


def _close(fds: list[Fd], number: int) -> None:
    if fds:
        os.close(fds.pop(number % len(fds)))


def fill(layer: LayerBuilder, rng: random.Random, below: dict[str, str]) -> dict[str, str]:
    """A random layer over the same namespace: path -> what it is. `below` is what the next layer down is.

    Whiteouts stand only in directories that are merged: in others the kernel lists them, and finds the directory not empty
    (test_own).
    """
    made: dict[str, str] = {}
    for path in PATHS:
        parent = os.path.dirname(path)
        if parent and made.get(parent) not in ("dir", "opaque"):
            continue
        kinds = ("file", "dir", "dir", "symlink", "fifo", "whiteout", "opaque", None, None, None, None)
        kind = rng.choice(kinds)
        if kind is not None:
            made[path] = kind
        if kind == "file":
            layer.file(path, bytes([rng.randrange(65, 91)]) * rng.choice((0, 3, 5000)), mode=rng.choice((0o600, 0o644, 0o4755)))
        elif kind == "dir":
            layer.dir(path, mode=rng.choice((0o700, 0o755, 0o2775)))
        elif kind == "opaque":
            layer.opaque(path)
        elif kind == "symlink":
            layer.symlink(path, rng.choice(PATHS))
        elif kind == "fifo":
            layer.node(path, stat.S_IFIFO)
        elif kind == "whiteout" and below.get(parent) in ("dir", "opaque") and made.get(parent, "dir") == "dir":
            layer.whiteout(path)
    return made


def sequence(seed: int, length: int, left_out: frozenset[int] = frozenset(), dated: bool = False) -> Case:
    """The case of a seed: layers, then `length` operations but for those with the numbers in `left_out`.

    `dated`: what is opened gets fixed times, because the kernel's metacopy takes an open for writing for a change.
    """
    rng = random.Random(seed)
    layer_seeds = [rng.random() for _ in range(3)]
    chosen = [operation for number, operation in enumerate([draw(rng) for _ in range(length)]) if number not in left_out]

    def build(b: Builder) -> Steps:
        below: dict[str, str] = {}
        for layer, layer_seed in ((b.lower(1), layer_seeds[2]), (b.lower(0), layer_seeds[1]), (b.upper, layer_seeds[0])):
            below = {"": "dir", **fill(layer, random.Random(layer_seed), below)}

        def steps(a: Actor) -> None:
            fds: list[Fd] = []
            for operation in chosen:
                known = len(fds)
                operation(a, fds)
                if dated and len(fds) > known and fcntl.fcntl(fds[-1], fcntl.F_GETFL) & os.O_ACCMODE:
                    a(os.utime, fds[-1], ns=(1, 2))

        return steps

    return build


class Runner:
    """Runs sequences on both implementations, many to a mount."""

    def __init__(self, base: Path, subject: Driver, options: dict[str, str | None]) -> None:
        self.base, self.subject, self.options, self.count = base, subject, options, 0

    def findings(self, cases: dict[str, Case]) -> tuple[Findings, dict[str, list[Step]]]:
        """The differences of each named case, and the oracle's steps."""
        self.count += 1
        suite = Suite("random", lowers=2, options=self.options, cases=cases)
        place = self.base / f"round{self.count}"
        place.mkdir()
        found, steps = compare(suite, list(cases), place, self.subject, Kernel())
        assert_nothing_left(place)
        shutil.rmtree(place)
        return found, steps

    def sequence(self, seed: int, length: int, left_out: frozenset[int] = frozenset()) -> Case:
        """The case of a seed under this runner's options."""
        return sequence(seed, length, left_out, dated="metacopy" in self.options)

    def shrink(self, seed: int, length: int) -> str:
        """Leaves out operations of a sequence that differs while it still does; the steps that are left and their findings."""
        left_out: frozenset[int] = frozenset()
        deadline = time.monotonic() + SHRINK_SECONDS
        step = length // 2
        while step >= 1:
            for start in range(0, length, step):
                trial = left_out | frozenset(range(start, min(start + step, length)))
                if trial != left_out and time.monotonic() < deadline and self._of(seed, length, trial)[0]:
                    left_out = trial
            step //= 2
        findings, steps = self._of(seed, length, left_out)
        return "\n".join(["the oracle's steps:", *map(str, steps), "findings:", *map(str, findings[:20])])

    def _of(self, seed: int, length: int, left_out: frozenset[int]) -> tuple[list[Finding], list[Step]]:
        name = f"s{seed}"
        found, steps = self.findings({name: self.sequence(seed, length, left_out)})
        return [*found[name], *found[WHOLE]], steps.get(name, [])


@pytest.mark.parametrize("options", [{}, {"metacopy": "on"}], ids=["default", "metacopy"])
@pytest.mark.parametrize("length", [25, 120])
def test_random_operations(length: int, options: dict[str, str | None], subject: Driver, scratch: Path) -> None:
    given = os.environ.get("UNIONFS_ORACLE_SEED")
    first = int(given) if given else random.SystemRandom().randrange(1 << 40)
    print(f"UNIONFS_ORACLE_SEED={first} repeats this run")
    runner = Runner(scratch, subject, options)
    deadline = time.monotonic() + SECONDS
    for start in itertools.count(first, SEQUENCES):
        found, _ = runner.findings({f"s{seed}": runner.sequence(seed, length) for seed in range(start, start + SEQUENCES)})
        different = [int(name[1:]) for name, findings in found.items() if findings and name != WHOLE]
        if different:
            pytest.fail(f"UNIONFS_ORACLE_SEED={different[0]}, length {length}: {runner.shrink(different[0], length)}")
        assert not found[WHOLE], f"seeds from {start}: {found[WHOLE]}"
        if time.monotonic() > deadline:
            break
