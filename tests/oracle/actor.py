"""Actor: what did a sequence of system calls on a mount answer, step by step?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from tests.oracle.child import in_child
from tests.support import pyfuse3
from tests.support.mounts import kill_servers

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One recorded call: `label` says what was called, `outcome` is "ok" or the errno's name, `value` what it returned."""

    label: str
    outcome: str
    value: object = None

    def __str__(self) -> str:
        shown = f" = {self.value!r}" if self.outcome == "ok" and self.value is not None else ""
        return f"{self.label} -> {self.outcome}{shown}"


class Fd(int):
    """A descriptor that shows itself by the order of opening, so that labels are the same in every process."""

    order: int

    def __repr__(self) -> str:
        return f"fd{self.order}"

    def __str__(self) -> str:
        return str(int(self))


class Actor:
    """Runs calls in the working directory (the case's directory on the mount) and records each result or errno.

    Calls are functions whose results mean the same on both sides: no descriptors, no inode numbers, no current times
    (`tests.oracle.ops`).  `ticking`: times of files there move with the ticks of the kernel's clock, some milliseconds apart.
    """

    def __init__(self, ticking: bool = False) -> None:
        self.ticking = ticking
        self.steps: list[Step] = []
        self._who = ""
        self._opened = 0

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Calls, records, and returns the result, or None after an OSError and for what the binding that is tried lacks."""
        name = getattr(call, "__name__", "call")
        if pyfuse3.lacks_call(name, args):
            return None
        label = self._who + _label(name, args, kwargs)
        try:
            value = call(*args, **kwargs)
        except OSError as error:
            self.steps.append(Step(label, errno_name(error)))
            return None
        self.steps.append(Step(label, "ok", value))
        return value

    def fd(self, path: str, flags: int, mode: int = 0o644) -> Fd:
        """open(2); records success or errno. Returns the descriptor, or -1, on which every later call records EBADF.

        Without asking it is -1 for what the binding that is tried lacks.
        """
        label = self._who + _label("open", (path, flag_names(flags), oct(mode)), {})
        try:
            fd = Fd(-1 if pyfuse3.lacks_open(flags) else os.open(path, flags | os.O_CLOEXEC, mode))
            self.steps.append(Step(label, "ok"))
        except OSError as error:
            fd = Fd(-1)
            self.steps.append(Step(label, errno_name(error)))
        self._opened += 1
        fd.order = self._opened
        return fd

    def note(self, label: str, value: object) -> None:
        """Records something the sequence worked out itself, such as whether two inode numbers are the same."""
        self.steps.append(Step(self._who + label, "ok", value))

    @contextmanager
    def user(self, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> Iterator[None]:
        """Acts with the effective ids of an ordinary user: the filesystem ids follow, and all effective capabilities are gone."""
        gid = uid if gid is None else gid
        own_groups = os.getgroups()
        os.setgroups(list(groups))
        os.setegid(gid)
        os.seteuid(uid)
        self._who = f"uid {uid}: "
        try:
            yield
        finally:
            self._who = ""
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(own_groups)


STEPS_SECONDS = 30.0


def perform(steps: Callable[[Actor], None], directory: Path, mnt: Path, *, ticking: bool = False) -> list[Step]:
    """Runs steps in a child whose working directory is `directory`, on the mount `mnt`. Raises ChildFailed."""

    def act() -> list[Step]:
        os.chdir(directory)
        os.umask(0o022)
        actor = Actor(ticking)
        steps(actor)
        return actor.steps

    return in_child(act, STEPS_SECONDS, lambda: kill_servers(mnt))


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Sets the process's umask for a `with` block."""
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def errno_name(error: OSError) -> str:
    """`ENOENT` and the like; EOPNOTSUPP and ENOTSUP are one number."""
    return errno.errorcode.get(error.errno or 0, f"errno {error.errno}").replace("ENOTSUP", "EOPNOTSUPP")


def flag_names(flags: int) -> str:
    """Open flags as in the C call: `O_RDWR|O_CREAT`."""
    access = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
    names = [access.get(flags & os.O_ACCMODE, "O_ACCMODE")]
    rest = flags & ~os.O_ACCMODE
    # O_TMPFILE contains O_DIRECTORY, O_SYNC contains O_DSYNC: the wider ones first.
    for name in ("O_TMPFILE", "O_SYNC", "O_APPEND", "O_CREAT", "O_DIRECT", "O_DIRECTORY", "O_DSYNC", "O_EXCL", "O_NOATIME",
                 "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "O_TRUNC"):  # fmt: skip
        bits = getattr(os, name)
        if rest & bits == bits:
            names.append(name)
            rest &= ~bits
    return "|".join(names)


def _label(name: str, args: Sequence[object], kwargs: dict[str, object]) -> str:
    shown = [_shown(arg) for arg in args] + [f"{key}={_shown(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}...({len(text)})"
