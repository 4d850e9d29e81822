"""Mounts: how is a union mounted with one implementation, and how is it proved that unmounting it leaves nothing?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.support import lowers

REPOSITORY = Path(__file__).resolve().parents[2]
"""The checkout: `python -m unionfs` is run with it on PYTHONPATH, so that the tests need no installation."""

Options = Mapping[str, str | None]
"""Mount options; a value of None stands for a flag (`volatile`)."""

MOUNT_SECONDS = 30.0
"""How long a mount command may take until it counts as hung."""

END_SECONDS = 10.0
"""How long unmounting may stay busy, and a server may live on after its mount is gone."""


class MountFailed(Exception):
    """A mount command that did not mount.

    `returncode` is its exit status and `stderr` what it printed; `command` is the argument list.
    """

    def __init__(self, command: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"exit {returncode}: {stderr.strip()} ({' '.join(command)})")
        self.command = list(command)
        self.returncode = returncode
        self.stderr = stderr


class LeftBehind(AssertionError):
    """Something of a mount outlived its unmounting: the mount itself or its server process."""


@dataclass(frozen=True)
class Layers:
    """The directories of one union: `lowers` with the topmost first, `upper` and `work` (both or neither), the mount point.

    `data` are data-only layers.
    """

    lowers: tuple[Path, ...]
    upper: Path | None
    work: Path | None
    mnt: Path
    data: tuple[Path, ...] = ()

    @property
    def fixed(self) -> tuple[Path, ...]:
        """All layers that must stay as they are."""
        return (*self.lowers, *self.data)

    @classmethod
    def create(cls, base: Path, lowers: int = 1, upper: bool = True) -> Layers:
        """Makes `lower0` (topmost) ... `lowerN-1`, `upper`, `work` and `mnt`, all empty with mode 0755, in `base`."""
        made = cls.at(base, lowers, upper)
        for path in (*made.lowers, made.upper, made.work, made.mnt):
            if path is not None:
                path.mkdir(parents=True)
                path.chmod(0o755)
        return made

    @classmethod
    def at(cls, base: Path, lowers: int = 1, upper: bool = True) -> Layers:
        """The same names as `create`, of directories that exist already."""
        return cls(
            lowers=tuple(base / f"lower{number}" for number in range(lowers)),
            upper=base / "upper" if upper else None,
            work=base / "work" if upper else None,
            mnt=base / "mnt",
        )

    @property
    def top(self) -> Path:
        """The upper directory; for layers that are known to have one."""
        if self.upper is None:
            raise ValueError("these layers have no upper")
        return self.upper


def escape(path: Path | str) -> str:
    """A path as it stands in a mount option: `\\`, `:` and `,` get a backslash (SEMANTICS: classic mount string)."""
    return "".join("\\" + char if char in "\\:," else char for char in os.fspath(path))


def option_string(layers: Layers, options: Options) -> str:
    """The `-o` string: lowerdir, upperdir and workdir of `layers`, then `options`.

    Whoever asks for it is about to mount: the lowers must stay as they are from here on (tests.support.lowers).
    """
    lowers.watch(layers.fixed, layers.work)
    data = "".join(f"::{escape(layer)}" for layer in layers.data)
    parts = ["lowerdir=" + ":".join(escape(lower) for lower in layers.lowers) + data]
    if layers.upper is not None and layers.work is not None:
        parts += [f"upperdir={escape(layers.upper)}", f"workdir={escape(layers.work)}"]
    parts += [name if value is None else f"{name}={value}" for name, value in options.items()]
    return ",".join(parts)


def mount_points() -> list[str]:
    """Every mount point of this mount namespace, as /proc/self/mountinfo lists them, octal escapes undone (proc(5))."""
    with open("/proc/self/mountinfo", "rb") as table:
        fields = [line.split(b" ")[4] for line in table]
    return [os.fsdecode(field.decode("unicode_escape").encode("latin-1")) for field in fields]


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on exactly this path."""
    return os.path.abspath(path) in mount_points()


def processes_naming(path: Path | str) -> dict[int, str]:
    """Processes other than this one and its ancestors with `path` in their command line: pid -> command line.

    A server keeps the command line it was started with, so the mount point finds it also after it went to the background.
    """
    wanted = os.fsencode(os.path.abspath(path))
    family = _ancestors()
    found: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in family:
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read()
        except OSError:  # it ended while we looked
            continue
        arguments = command.split(b"\0")
        if any(argument == wanted or wanted + b"/" in argument for argument in arguments):
            found[int(entry)] = os.fsdecode(command.replace(b"\0", b" ")).strip()
    return found


def _ancestors() -> set[int]:
    family = {os.getpid()}
    pid = os.getpid()
    while pid > 1:
        with open(f"/proc/{pid}/stat", "rb") as file:
            pid = int(file.read().rpartition(b")")[2].split()[1])
        family.add(pid)
    return family


def servers_of(mnt: Path) -> list[int]:
    """The processes that have this mount point as one whole argument: the server(s) of the mount, background or not."""
    wanted = os.path.abspath(mnt)
    return [pid for pid, command in processes_naming(mnt).items() if wanted in command.split(" ")]


def wait_until_gone(mnt: Path, seconds: float = END_SECONDS) -> list[int]:
    """Waits for the server of `mnt` to end; returns the pids that still live after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        living = servers_of(mnt)
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.02)


def unmount(mnt: Path) -> None:
    """Unmounts `mnt` and waits for its server to end.

    EBUSY is waited out for END_SECONDS. What does not go by itself is removed by force (lazy unmount, SIGKILL by pid), and
    LeftBehind says what it was.
    """
    problems: list[str] = []
    deadline = time.monotonic() + END_SECONDS
    while is_mounted(mnt):
        done = subprocess.run(["umount", os.fspath(mnt)], capture_output=True, text=True, timeout=MOUNT_SECONDS)
        if done.returncode != 0 and time.monotonic() > deadline:
            problems.append(f"umount: {done.stderr.strip()}")
            subprocess.run(["umount", "-l", os.fspath(mnt)], check=False)
            break
        if done.returncode != 0:
            time.sleep(0.05)
    living = wait_until_gone(mnt)
    for pid in living:
        problems.append(f"server {pid} of {mnt} still lives {END_SECONDS:.0f} s after the unmount")
        os.kill(pid, signal.SIGKILL)
    if problems:
        raise LeftBehind("; ".join(problems))


def kill_servers(mnt: Path) -> None:
    """Kills the server of a mount that hangs, so that every process waiting in it gets ENOTCONN and can end."""
    for pid in servers_of(mnt):
        os.kill(pid, signal.SIGKILL)


class Driver(ABC):
    """One implementation of union mounts."""

    name: str
    defaults: ClassVar[Options] = {}
    """Options that hold unless the caller gives others of the same name."""

    @abstractmethod
    def command(self, layers: Layers, options: Options) -> list[str]:
        """The arguments of the command that mounts `layers` and returns when the mount answers."""

    def environment(self) -> dict[str, str]:
        """The environment of the mount command."""
        return dict(os.environ)

    def start(self, layers: Layers, options: Options | None = None) -> Path:
        """Mounts and returns the mount point; the caller unmounts (`unmount`). Raises MountFailed.

        The lowers are watched from here on, and compared when the test ends.
        """
        lowers.watch(layers.fixed, layers.work)
        command = self.command(layers, {**self.defaults, **(options or {})})
        try:
            # Waiting for the end of both pipes also proves that a background server does not keep them open.
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=MOUNT_SECONDS,
                stdin=subprocess.DEVNULL, env=self.environment(),
            )
        except subprocess.TimeoutExpired as late:
            self._abandon(layers.mnt)
            raise MountFailed(command, -1, f"no answer in {MOUNT_SECONDS} s: {late.stderr!r}") from late
        if done.returncode != 0 or not is_mounted(layers.mnt):
            self._abandon(layers.mnt)
            raise MountFailed(command, done.returncode, done.stderr or "exit 0, but nothing is mounted")
        return layers.mnt

    def _abandon(self, mnt: Path) -> None:
        kill_servers(mnt)
        if is_mounted(mnt):
            subprocess.run(["umount", "-l", os.fspath(mnt)], check=False)

    @contextmanager
    def mount(self, layers: Layers, options: Options | None = None) -> Iterator[Path]:
        """Mounts for the time of a `with` block and gives the mount point.

        Raises MountFailed when it cannot be mounted, LeftBehind when the mount or its server does not go away afterwards,
        LowerChanged when a lower layer is not what it was before it was first mounted.
        """
        self.start(layers, options)
        try:
            yield layers.mnt
        finally:
            try:
                unmount(layers.mnt)
            finally:
                lowers.check(layers.fixed)


class Kernel(Driver):
    """The kernel's overlayfs, the oracle. The features that change what an upper looks like are off unless asked for."""

    name = "kernel"
    defaults: ClassVar[Options] = {"redirect_dir": "on", "index": "off", "metacopy": "off", "xino": "off"}

    def command(self, layers: Layers, options: Options) -> list[str]:
        return ["mount", "-t", "overlay", "overlay", "-o", option_string(layers, options), os.fspath(layers.mnt)]


BINDING = "UNIONFS_TEST_BINDING"
"""The environment's variable that says with which `binding=` the tests mount unionfs where they name none."""


def unionfs_words(*arguments: str | Path) -> list[str]:
    """The argument list of `unionfs ARGUMENTS`, with the binding that the environment names if there are options."""
    binding = os.environ.get(BINDING)
    chosen = ["-o", f"binding={binding}"] if binding and "-o" in arguments else []
    return [sys.executable, "-m", "unionfs", *chosen, *(os.fspath(argument) for argument in arguments)]


class Unionfs(Driver):
    """Ours, as `python -m unionfs` of this checkout."""

    name = "unionfs"

    def command(self, layers: Layers, options: Options) -> list[str]:
        return unionfs_words("-o", option_string(layers, options), layers.mnt)

    def environment(self) -> dict[str, str]:
        kept = os.environ.get("PYTHONPATH")
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *([kept] if kept else [])])}


class FuseOverlayfs(Driver):
    """The peer `fuse-overlayfs`; used to show that the suite finds its known mistakes."""

    name = "fuse-overlayfs"

    def command(self, layers: Layers, options: Options) -> list[str]:
        return ["fuse-overlayfs", "-o", option_string(layers, options), os.fspath(layers.mnt)]


@contextmanager
def read_only(directories: Sequence[Path]) -> Iterator[None]:
    """Mounts each directory on itself, read-only, for the time of a `with` block."""
    mounted: list[Path] = []
    try:
        for directory in directories:
            subprocess.run(["mount", "--bind", directory, directory], check=True)
            mounted.append(directory)
            subprocess.run(["mount", "-o", "remount,bind,ro", directory], check=True)
        yield
    finally:
        for directory in reversed(mounted):
            subprocess.run(["umount", directory], check=True)
