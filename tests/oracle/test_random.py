"""Do random operations come out on unionfs as on the kernel's overlayfs?

A sequence is drawn from a seed over a small namespace, so that operations meet each other often; both implementations run it on
copies of the same layers, and every result, the trees, and the uppers are compared as in the written cases. When one differs,
the operations are taken away one by one as long as it still differs, and what is left is the report.
"""

from __future__ import annotations

import ast
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
from tests.oracle.actor import Actor, Fd
from tests.oracle.case import Builder, LayerBuilder, Steps, Suite
from tests.oracle.compare import WHOLE, Finding, Findings, compare
from tests.support.mounts import Driver, Kernel
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

NAMES = ("a", "b", "c")
PATHS = [
    *NAMES,
    *(f"{one}/{two}" for one, two in itertools.product(NAMES, NAMES)),
    *(f"{one}/a/{two}" for one, two in itertools.product(NAMES[:2], NAMES[:2])),
]

SECONDS = float(os.environ.get("UNIONFS_ORACLE_RANDOM_SECONDS", "25"))
"""How long each of the two tests goes on drawing; twice this is the share of the suite."""

SEQUENCES = 12
"""Sequences that share one mount, each in a directory of its own."""

Operation = Callable[[Actor, list[Fd]], None]


def draw(rng: random.Random) -> tuple[str, Operation]:
    """One operation with its arguments, and its text for the report."""
    path, other = rng.choice(PATHS), rng.choice(PATHS)
    data = bytes([rng.randrange(97, 123)]) * rng.choice((1, 10, 5000))
    mode = rng.choice((0o600, 0o644, 0o755, 0o4755, 0o2775, 0o1777))
    number = rng.randrange(8)
    flags = rng.choice((os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC))
    rename_flags = rng.choice((0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
    size = rng.choice((0, 1, 100, 6000))
    table: dict[str, Operation] = {
        f"create {path}": lambda a, fds: _ignore(a(ops.create, path, data, mode)),
        f"write {path}": lambda a, fds: _ignore(a(ops.write, path, data)),
        f"append {path}": lambda a, fds: _ignore(a(ops.write, path, data, os.O_WRONLY | os.O_APPEND)),
        f"mkdir {path}": lambda a, fds: a(os.mkdir, path, mode),
        f"symlink {path}": lambda a, fds: a(os.symlink, other, path),
        f"fifo {path}": lambda a, fds: a(os.mkfifo, path, mode & 0o777),
        f"device {path}": lambda a, fds: a(os.mknod, path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        f"link {path} {other}": lambda a, fds: a(os.link, path, other, follow_symlinks=False),
        f"unlink {path}": lambda a, fds: a(os.unlink, path),
        f"rmdir {path}": lambda a, fds: a(os.rmdir, path),
        f"rename {path} {other} {rename_flags}": lambda a, fds: _rename(a, path, other, rename_flags),
        f"rename back {other} {path}": lambda a, fds: _rename(a, other, path, 0),
        f"chmod {path}": lambda a, fds: a(os.chmod, path, mode),
        f"chown {path}": lambda a, fds: a(ops.lchown, path, size, mode),
        f"truncate {path} {size}": lambda a, fds: a(os.truncate, path, size),
        f"utime {path}": lambda a, fds: a(ops.utime, path, size * 10**9, mode * 10**9),
        f"setxattr {path}": lambda a, fds: a(ops.setxattr, path, f"user.{number}", data[:10]),
        f"removexattr {path}": lambda a, fds: a(ops.removexattr, path, f"user.{number}"),
        f"stat {path}": lambda a, fds: _ignore(a(ops.lstat, path)),
        f"read {path}": lambda a, fds: _read(a, path),
        f"list {path}": lambda a, fds: _ignore(a(ops.listing, path)),
        f"open {path}": lambda a, fds: fds.append(a.fd(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)),
        f"pwrite {number}": lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.write_fd, fd, data, size)),
        f"pread {number}": lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.read_fd, fd)),
        f"fstat {number}": lambda a, fds: _on_file(a, fds, number, lambda fd: a(ops.fstat, fd)),
        f"ftruncate {number}": lambda a, fds: _on_file(a, fds, number, lambda fd: a(os.ftruncate, fd, size)),
        f"fchmod {number}": lambda a, fds: _on_file(a, fds, number, lambda fd: a(os.fchmod, fd, mode)),
        f"close {number}": lambda a, fds: _close(fds, number),
    }
    return rng.choice(list(table.items()))


def _ignore(_: object) -> None:
    """Only the record counts."""


def _read(a: Actor, path: str) -> None:
    if os.path.lexists(path) and stat.S_ISREG(os.lstat(path).st_mode):
        a(ops.read, path)


def _rename(a: Actor, source: str, target: str, flags: int) -> None:
    """Renames; after a failure gives the parents fixed times, since the kernel's attempt may have touched the source's (ext4
    takes a whiteout back).
    """
    a(renameat2, source, target, flags)
    if a.steps[-1].outcome != "ok":
        for path in (source, target):
            a(ops.utime, os.path.dirname(path) or ".", 1, 2)


def _on_file(a: Actor, fds: list[Fd], number: int, call: Callable[[Fd], object]) -> None:
    """Acts on the descriptor with a number, if it is an open regular file.

    A lower file that was opened read-only and has lost its name is left alone: there the kernel refuses what ours allows
    (test_own).
    """
    if not fds or fds[number % len(fds)] < 0:
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
        fd = fds.pop(number % len(fds))
        if fd >= 0:
            os.close(fd)


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


def sequence(seed: int, length: int, left_out: frozenset[int] = frozenset()) -> tuple[Callable[[Builder], Steps], list[str]]:
    """The case of a seed: layers, then `length` operations but for those with the numbers in `left_out`; and the operations'
    texts.
    """
    rng = random.Random(seed)
    layer_seeds = [rng.random() for _ in range(3)]
    drawn = [draw(rng) for _ in range(length)]
    chosen = [operation for number, operation in enumerate(drawn) if number not in left_out]

    def build(b: Builder) -> Steps:
        below: dict[str, str] = {}
        for layer, layer_seed in ((b.lower(1), layer_seeds[2]), (b.lower(0), layer_seeds[1]), (b.upper, layer_seeds[0])):
            below = {"": "dir", **fill(layer, random.Random(layer_seed), below)}

        def steps(a: Actor) -> None:
            fds: list[Fd] = []
            for _, operation in chosen:
                operation(a, fds)

        return steps

    return build, [text for text, _ in chosen]


def marked_in_vain(finding: Finding) -> bool:
    """Whether a finding is the opaque mark that the kernel leaves on the source of a rename that then fails
    (intended.FAILED_RENAME).

    A mark that ours lacks and that matters shows in the trees, when the uppers are mounted crosswise.
    """
    if finding.where != "upper" or not finding.key.endswith(" xattrs"):
        return False
    ours, oracle = (set(ast.literal_eval(value)) for value in (finding.ours, finding.oracle))
    return bool(oracle - ours == {("trusted.overlay.opaque", b"y")} and not ours - oracle)


class Runner:
    """Runs sequences on both implementations, many to a mount."""

    def __init__(self, base: Path, subject: Driver) -> None:
        self.base, self.subject, self.count = base, subject, 0

    def findings(self, cases: dict[str, Callable[[Builder], Steps]]) -> Findings:
        """The differences of each named case."""
        self.count += 1
        suite = Suite("random", lowers=2)
        for name, build in cases.items():
            suite.add(name, build)
        place = self.base / f"round{self.count}"
        place.mkdir()
        found = compare(suite, list(cases), place, self.subject, Kernel())
        assert_nothing_left(place)
        shutil.rmtree(place)
        return {name: [finding for finding in findings if not marked_in_vain(finding)] for name, findings in found.items()}

    def shrink(self, seed: int, length: int) -> tuple[list[str], list[str]]:
        """Leaves out operations of a sequence that differs while it still does: (operations left, their findings as text)."""
        left_out: frozenset[int] = frozenset()
        deadline = time.monotonic() + 60
        step = length // 2
        while step >= 1:
            for start in range(0, length, step):
                trial = left_out | frozenset(range(start, min(start + step, length)))
                if trial != left_out and time.monotonic() < deadline and any(self._of(seed, length, trial)):
                    left_out = trial
            step //= 2
        found = self._of(seed, length, left_out)
        return sequence(seed, length, left_out)[1], [str(finding) for finding in itertools.chain(*found)]

    def _of(self, seed: int, length: int, left_out: frozenset[int]) -> list[list[Finding]]:
        found = self.findings({f"s{seed}": sequence(seed, length, left_out)[0]})
        return list(found.values())


@pytest.mark.parametrize("length", [25, 120])
def test_random_operations(length: int, subject: Driver, scratch: Path) -> None:
    given = os.environ.get("UNIONFS_ORACLE_SEED")
    first = int(given) if given else random.SystemRandom().randrange(1 << 40)
    print(f"UNIONFS_ORACLE_SEED={first} repeats this run")
    runner = Runner(scratch, subject)
    deadline = time.monotonic() + SECONDS
    for start in itertools.count(first, SEQUENCES):
        found = runner.findings({f"s{seed}": sequence(seed, length)[0] for seed in range(start, start + SEQUENCES)})
        different = [name for name, findings in found.items() if findings and name != WHOLE]
        if different:
            seed = int(different[0][1:])
            operations, findings = runner.shrink(seed, length)
            pytest.fail(f"seed {seed}, length {length}: " + "; ".join(operations) + "\n" + "\n".join(findings[:20]))
        assert not found[WHOLE], f"seeds from {start}: {found[WHOLE]}"
        if time.monotonic() > deadline:
            break
