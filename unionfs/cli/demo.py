"""What does a union do?  Shown to a newcomer on two small layers in a temporary directory."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from unionfs.cli.messages import CommandError, ExitStatus, complain

_USAGE = """\
usage: unionfs demo [--keep]

Builds two small layers in a temporary directory, mounts them, reads, changes and removes files, shows what the
upper layer then holds, unmounts and cleans up. --keep leaves the layers (not the mount) there to look at.
"""
_UNMOUNT_SECONDS = 10.0
"""How long the mount may stay busy (an indexer that looked into it) before it is detached instead."""


def demo(words: Sequence[str]) -> int:
    """Runs the demonstration and returns the exit status: 0, or that of the mount command when it could not mount.

    Whatever happens, interrupted or not, the mount is gone afterwards, and so are the layers unless `--keep` is given.
    """
    if "-h" in words or "--help" in words:
        sys.stdout.write(_USAGE)
        return int(ExitStatus.OK)
    place = _make_place()
    try:
        _Stage(place).play()
    finally:
        if "--keep" in words:
            _say(f"\nThe layers are still there: {place}")
        else:
            _remove(place)
            if not place.exists():
                _say("\nUnmounted, and the temporary directory is gone.")
    return int(ExitStatus.OK)


class _Stage:
    """The demonstration's directories: two lower layers, an upper one with its work directory, and the mount point."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.base, self.app, self.upper, self.work, self.merged = (
            place / name for name in ("base", "app", "upper", "work", "merged")
        )

    def play(self) -> None:
        """Builds, mounts, shows, unmounts; unmounts also when a step fails."""
        self._build()
        try:
            self._mount()
            self._show_reading()
            self._show_copy_up()
            self._show_whiteout()
        finally:
            self._unmount()
        self._show_upper()

    def _build(self) -> None:
        _say(f"Two read-only layers and an empty writable one, in {self.place}")
        for directory in (self.base / "etc", self.app / "etc", self.upper, self.work, self.merged):
            directory.mkdir(parents=True)
        (self.base / "etc" / "motd").write_text("Welcome.\n")
        (self.base / "etc" / "old.conf").write_text("nobody needs this any more\n")
        (self.base / "etc" / "app.conf").write_text("colour = grey\n")
        (self.app / "etc" / "app.conf").write_text("colour = green\n")
        _list(self.base)
        _list(self.app)

    def _mount(self) -> None:
        options = ",".join(
            (
                f"lowerdir={_escaped(self.app)}:{_escaped(self.base)}",
                f"upperdir={_escaped(self.upper)}",
                f"workdir={_escaped(self.work)}",
                *(() if _takes_marks(self.upper, "trusted") else ("userxattr",)),
            )
        )
        _say("\nMount them: app on top of base, changes go to upper.")
        _say(f"  $ {shlex.join(['unionfs', '-o', options, str(self.merged)])}")
        command = [sys.executable, "-m", "unionfs", "-v", "-o", options, str(self.merged)]
        done = subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            reason = done.stderr.strip().removeprefix("unionfs: ")
            raise CommandError(f"the demo cannot mount: {reason}", done.returncode)
        for line in done.stdout.splitlines():
            _say(f"  {line}")
        if "passthrough: on" in done.stdout:
            _say("  The kernel reads and writes the backing files itself: file I/O runs at the speed of the disk.")
        else:
            _say("  The server reads and writes for the kernel, which caches; the reason stands behind `off`.")

    def _show_reading(self) -> None:
        _say("\nRead: the names of both layers in one directory; app.conf is that of the layer on top.")
        _list(self.merged)
        self._cat("etc/app.conf")

    def _show_copy_up(self) -> None:
        _say("\nChange motd, a file of the base layer: it is copied up first, and the base layer stays as it was.")
        _say(f"  $ echo Hello >> {self.merged}/etc/motd")
        with (self.merged / "etc" / "motd").open("a") as motd:
            motd.write("Hello\n")
        self._cat("etc/motd")
        _say(f"  in base: {(self.base / 'etc' / 'motd').read_text()!r}")

    def _show_whiteout(self) -> None:
        _say("\nRemove old.conf: the base layer cannot lose it, so the upper layer hides it with a whiteout.")
        _say(f"  $ rm {self.merged}/etc/old.conf")
        (self.merged / "etc" / "old.conf").unlink()
        _list(self.merged)

    def _show_upper(self) -> None:
        _say("\nUnmounted. What is left of it all is in the upper layer, in the format of the kernel's overlayfs:")
        _list(self.upper)
        _say("  motd is the copy with its new line; old.conf, a character device 0,0, is the whiteout.")

    def _cat(self, name: str) -> None:
        _say(f"  $ cat {self.merged}/{name}")
        for line in (self.merged / name).read_text().splitlines():
            _say(f"  {line}")

    def _unmount(self) -> None:
        """Unmounts by the helper an ordinary user has, or umount(8); detaches a mount that stays busy too long."""
        deadline = time.monotonic() + _UNMOUNT_SECONDS
        commands = (["umount", str(self.merged)], ["fusermount3", "-u", str(self.merged)])
        command = commands[os.geteuid() != 0]
        while _is_mount_point(self.merged):
            lazy = time.monotonic() > deadline
            words = [command[0], *(["-l"] if lazy and os.geteuid() == 0 else ["-z"] if lazy else []), *command[1:]]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode == 0:
                return
            if lazy:
                raise CommandError(f"cannot unmount {self.merged}: {done.stderr.strip()}", ExitStatus.SYSTEM)
            time.sleep(0.1)


def _is_mount_point(path: Path) -> bool:
    """Whether something is mounted there, also when its server is dead, which os.path.ismount() takes for nothing."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return path.is_mount()


def _say(text: str) -> None:
    print(text, flush=True)


def _list(top: Path) -> None:
    """Every entry below `top`, one line each like `ls -l`, by names seen from the demonstration's directory."""
    _say(f"  $ ls -lR {top}")
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(names + files):
            path = Path(directory, name)
            found = path.lstat()
            device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
            size = f"{os.major(found.st_rdev)},{os.minor(found.st_rdev)}" if device else str(found.st_size)
            _say(f"  {stat.filemode(found.st_mode)} {size:>6}  {path.relative_to(top.parent)}")


def _escaped(path: Path) -> str:
    """The path as an option's value: the characters that mean something there are protected."""
    return "".join(f"\\{character}" if character in "\\:," else character for character in str(path))


def _environment() -> dict[str, str]:
    """The environment in which `python -m unionfs` finds this very package, installed or not."""
    package_home = str(Path(__file__).resolve().parents[2])
    search = [package_home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search)}


def _make_place() -> Path:
    """A new temporary directory, where possible on a filesystem that can hold an upper layer.

    In a container /tmp is often on the kernel's overlayfs, which refuses whiteouts; memory (/dev/shm, /run) does not.
    """
    for parent in (tempfile.gettempdir(), "/dev/shm", "/run"):
        if os.access(parent, os.W_OK | os.X_OK):
            place = Path(tempfile.mkdtemp(prefix="unionfs-demo-", dir=parent))
            if _can_hold_upper(place):
                return place
            place.rmdir()
    return Path(tempfile.mkdtemp(prefix="unionfs-demo-"))


def _can_hold_upper(place: Path) -> bool:
    """Whether whiteouts and marks can be made there."""
    probe = place / "probe"
    try:
        os.mknod(probe, stat.S_IFCHR, os.makedev(0, 0))
        probe.unlink()
    except OSError:
        return False
    return _takes_marks(place, "trusted") or _takes_marks(place, "user")


def _takes_marks(place: Path, namespace: str) -> bool:
    """Whether the caller may set the union's marks in this namespace; root of a user namespace may not in `trusted`."""
    mark = f"{namespace}.overlay.opaque"
    try:
        os.setxattr(place, mark, b"0")
        os.removexattr(place, mark)
    except OSError:
        return False
    return True


def _remove(place: Path) -> None:
    """Removes the demonstration's directories; says what stays."""
    for staging in (place / "work").glob("*"):
        # The staging directory has mode 000, which stops its own owner unless that is root.
        staging.chmod(0o700)
    try:
        shutil.rmtree(place)
    except OSError as error:
        complain(f"cannot remove {error.filename}: {error.strerror}")
