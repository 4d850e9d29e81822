"""What becomes durable, and what was lost?  The promises of a volatile mount: its mark, and the upper filesystem's write errors.

A volatile mount syncs nothing.  It leaves a mark in the work directory that bars the next mount, by the kernel's overlayfs
or by this program, until somebody takes it away; and once the upper filesystem has failed to write something, every
fsync(2) fails for good (overlayfs.rst, "Volatile mount").
"""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Final

from unionfs.linux import at, creds, fs, mount, procfs, stat
from unionfs.linux.fd import Fd
from unionfs.overlay import marks
from unionfs.overlay.config import Fsync, UnionConfig
from unionfs.overlay.errors import LayerError
from unionfs.overlay.trees import remove_tree

INCOMPAT: Final = b"incompat"
_VOLATILE: Final = b"volatile"
_DIRTY: Final = b"dirty"
#: Name in workdir/work of what a probe needs for a moment.
_PROBE: Final = marks.TEMPORARY + b"probe"
_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Durability:
    """What `fsync=` asks for, for one union.

    volatile: nothing is synced, fsync(2) succeeds without waiting unless something was lost.
    """

    __slots__ = ("_lost", "_probe", "_shown", "_userxattr", "volatile")

    def __init__(self, config: UnionConfig, prefix: str) -> None:
        self.volatile = config.fsync is Fsync.VOLATILE
        self._shown = os.fsdecode(config.upper or b"")
        self._userxattr = prefix == marks.USER
        self._probe: Fd | None = None
        self._lost = 0

    def begin(self, staging: int, path: bytes) -> None:
        """Of a volatile union: watch the upper filesystem from now on, and leave the mark in workdir/work.

        `staging` is that directory's descriptor, `path` its path as the user named it.

        Raises LayerError when the filesystem has failed to write something before, of which nobody has been told yet: the
        watch could not tell that error from a later one.
        """
        if not self.volatile:
            return
        try:
            self._probe = self._watch(staging, path)
        except OSError as error:
            if error.errno == errno.EIO:
                raise LayerError(
                    f"upperdir: the filesystem of {self._shown} has failed to write something and has told nobody yet; run"
                    f" `sync -f {self._shown}`, see that all is well, and mount again"
                ) from None
        _mark(staging)

    def withdraw(self, staging: int) -> None:
        """The mount did not come about, so nothing can have been lost: take the mark away."""
        if self.volatile:
            remove_tree(staging, INCOMPAT)

    @property
    def needs_file(self) -> bool:
        """Can an error only be seen on the file that is synced?"""
        return self._probe is None

    def check(self, fd: int = -1) -> None:
        """Before an fsync(2) of a volatile union succeeds: raises the error with which something was lost since the mount.

        `fd`: an open file on the upper layer, if `needs_file`; an error of another one then goes unnoticed.
        """
        if self._lost:
            raise OSError(self._lost, "the upper filesystem has lost data since the volatile mount")
        try:
            if self._probe is not None:
                os.fsync(self._probe.fileno())
            elif fd >= 0:
                fs.check_written(fd)
        except OSError as error:
            self._lost = error.errno or errno.EIO
            raise

    def end(self) -> None:
        """The union is closed; the mark stays."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _watch(self, staging: int, path: bytes) -> Fd | None:
        """A descriptor whose fsync(2) only says whether the upper filesystem has failed to write since now.

        System calls tell that of a whole filesystem by syncfs(2) alone, which syncs.  The kernel's overlayfs knows without, so
        a volatile overlay is made over empty directories on that filesystem, mounted nowhere; its directories can go at once.
        None where none can be made: no privilege, no overlayfs, an upper it does not take.  Raises EIO as the kernel does.
        They are named by the user's path, since kernels before 6.15 take no directory of a detached mount.
        """
        os.mkdir(_PROBE, 0o700, dir_fd=staging)
        fds: list[int] = []
        try:
            for name in (b"lower", b"upper", b"work"):
                os.mkdir(_PROBE + b"/" + name, 0o700, dir_fd=staging)
                fds.append(os.open(os.path.join(path, _PROBE, name), _OPEN))
            options: list[tuple[bytes, bytes | None]] = [
                (option, procfs.fd_path(fd)) for option, fd in zip((b"lowerdir", b"upperdir", b"workdir"), fds, strict=True)
            ]
            options += [(b"volatile", None), *([(b"userxattr", None)] if self._userxattr else [])]
            return Fd(mount.unmounted_overlay(options))
        except OSError as error:
            if error.errno == errno.EIO:
                raise
            return None
        finally:
            for fd in fds:
                os.close(fd)
            remove_tree(staging, _PROBE)


def _mark(staging: int) -> None:
    """Leave workdir/work/incompat/volatile/dirty, with the modes that the kernel's overlayfs gives them."""
    mode = 0 if creds.has_capability(creds.CAP_DAC_OVERRIDE) else 0o700
    os.mkdir(INCOMPAT, mode, dir_fd=staging)
    inner = os.open(INCOMPAT, _OPEN, dir_fd=staging)
    try:
        os.mkdir(_VOLATILE, mode, dir_fd=inner)
        os.mknod(_VOLATILE + b"/" + _DIRTY, modes.S_IFREG | mode & 0o600, dir_fd=inner)
    finally:
        os.close(inner)


def refuse_incompatible(base: int, work: bytes, shown: str) -> None:
    """Raises LayerError if `work` in the work directory `base` has the mark of a feature that must not be ignored.

    That is any name in work/incompat; the directory alone means nothing (fs/overlayfs/readdir.c, ovl_workdir_cleanup).
    """
    place = work + b"/" + INCOMPAT
    found = stat.find(base, place)
    if found is None or found.mode & 0o170000 != modes.S_IFDIR:
        return
    fd = os.open(place, _OPEN, dir_fd=base)
    try:
        if not creds.has_capability(creds.CAP_DAC_OVERRIDE):
            at.chmod(fd, b"", 0o700)
        names = os.listdir(procfs.fd_path(fd))
    finally:
        os.close(fd)
    where = f"{shown}/{os.fsdecode(place)}"
    if _VOLATILE in names:
        raise LayerError(
            f"workdir: {where}/volatile was left by a volatile mount, of which a crash may have lost data: start with a fresh"
            f" upperdir and workdir; or, if the system has not crashed since, run `rm -r {where}/volatile` and mount again"
        )
    if names:
        raise LayerError(
            f"workdir: {where}/{os.fsdecode(min(names))} is the mark of a feature that this version does not know; mount with the"
            " program that made it, or start with a fresh upperdir and workdir"
        )
