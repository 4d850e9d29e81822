"""How does the upper layer change?  Through here: objects are made complete in the work directory, then one rename shows them.

workdir/work holds what is being made, named `#` and a number, and is emptied at every mount (overlayfs.rst, "workdir").
A crash at any instant leaves the old state or the new one, and garbage only there.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, creds, procfs, stat, xattr
from unionfs.overlay import acl, asowner, marks
from unionfs.overlay.creator import SERVER
from unionfs.overlay.durability import refuse_incompatible
from unionfs.overlay.errors import LayerError
from unionfs.overlay.node import DirNode
from unionfs.overlay.realdir import RealDir
from unionfs.overlay.trees import remove_tree

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

WORK: Final = b"work"
INDEX: Final = b"index"
_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINK: Final = frozenset((errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP))
_NO_TMPFILE: Final = frozenset((errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL))


class Staging:
    """The work directory and the whiteout kept there for linking."""

    __slots__ = ("_counter", "_sharing", "_tmpfiles", "_union", "_whiteout", "files", "work")

    def __init__(self, union: Union, work: int, files: bool) -> None:
        """`work`: descriptor of workdir/work; `files`: write whiteouts as `.wh.` files."""
        self._union = union
        self.work = work
        self.files = files
        self._counter = 0
        self._tmpfiles = True
        self._whiteout: bytes | None = None
        self._sharing = True

    def temporary(self) -> bytes:
        """A name for a new object in the work directory."""
        self._counter += 1
        return b"%s%x" % (marks.TEMPORARY, self._counter)

    def open_file(self, mode: int) -> tuple[int, bytes]:
        """A new empty regular file, the server's: (descriptor, its name in the work directory, empty if it has none)."""
        self._union.identity.assume(SERVER)
        if self._tmpfiles:
            try:
                return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=self.work), b""
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
                self._tmpfiles = False
        name = self.temporary()
        return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=self.work), name

    def publish(self, name: bytes, parent: RealDir, target: bytes, flags: int = 0) -> None:
        """Rename a staged object into place; with RENAME_EXCHANGE what was there is staged instead."""
        new = parent.fd()
        moving = ((self.work, name), (new, target)) if flags & at.RENAME_EXCHANGE else ((self.work, name),)
        asowner.insist(lambda: at.rename(self.work, name, new, target, flags), (new, b""), *moving)

    def discard(self, name: bytes) -> None:
        """Remove a staged object, a directory with all it holds; what fails is left for the next mount."""
        try:
            remove_tree(self.work, name)
        except OSError:
            self._union.log.warning("work directory: %s could not be removed", os.fsdecode(name))

    def whiteout(self, parent: DirNode, name: bytes) -> None:
        """Hide the lower object `name`, where the upper layer has nothing of that name."""
        upper = parent.upper_dir
        if self.files:
            self._mark(upper, name)
        else:
            self._make_whiteout(upper.fd(), name)

    def replace_by_whiteout(self, parent: DirNode, name: bytes, is_dir: bool) -> None:
        """Hide the lower object `name` and take the upper one of that name away, in one step."""
        upper = parent.upper_dir
        if self.files:
            self._mark(upper, name)
            try:
                self.take_away(upper, name, is_dir)
            except OSError:
                self.unmark(upper, name)
                raise
            return
        staged = self.staged_whiteout()
        try:
            self.publish(staged, upper, name, at.RENAME_EXCHANGE if is_dir else 0)
        except OSError:
            self.discard(staged)
            raise
        if is_dir:
            self.discard(staged)

    def move_and_hide(self, old: RealDir, name: bytes, new: RealDir, target: bytes) -> None:
        """RENAME_WHITEOUT where the filesystem has none: two steps, the first of which can be undone.

        A crash between them leaves the object under its new name, and under the old one what lies below or was replaced: nothing
        is lost.
        """
        there = stat.find(new.fd(), target)
        is_dir = there is not None and there.mode & 0o170000 == modes.S_IFDIR
        flags = 0 if there is None else at.RENAME_EXCHANGE
        staged = self.staged_whiteout()
        try:
            at.rename(old.fd(), name, new.fd(), target, flags)
            try:
                self.publish(staged, old, name, at.RENAME_EXCHANGE if is_dir else 0)
            except OSError:
                at.rename(new.fd(), target, old.fd(), name, flags)
                raise
        except OSError:
            self.discard(staged)
            raise
        if is_dir:
            self.discard(staged)

    def take_away(self, parent: RealDir, name: bytes, is_dir: bool) -> None:
        """Remove an upper object that hides nothing; a directory may still hold whiteouts."""
        if not is_dir:
            os.unlink(name, dir_fd=parent.fd())
            return
        try:
            os.rmdir(name, dir_fd=parent.fd())
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._take_apart(parent, name)

    def _take_apart(self, parent: RealDir, name: bytes) -> None:
        """Remove a directory that holds nothing but whiteouts, in one step where that can be had."""
        gone = self.temporary()
        try:
            fd = parent.fd()
            asowner.insist(lambda: at.rename(fd, name, self.work, gone), (fd, name))
        except OSError as error:
            # The upper is on another union, and the directory merged there: nobody may move it.
            if error.errno != errno.EXDEV:
                raise
            remove_tree(parent.fd(), name)
            return
        self.discard(gone)

    def is_whiteout(self, parent: RealDir, name: bytes) -> bool:
        """Does the upper directory itself hide `name` by an object of that name?"""
        found = stat.find(parent.fd(), name)
        return found is not None and parent.is_whiteout(name, found)

    def unmark(self, parent: RealDir, name: bytes) -> None:
        """Remove a `.wh.` file that a new object of that name makes superfluous."""
        if parent.has_marker(name):
            os.unlink(marks.MARKER + name, dir_fd=parent.fd())
            parent.note_marker(name, False)

    def _mark(self, upper: RealDir, name: bytes) -> None:
        self._union.identity.assume(SERVER)
        flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(marks.MARKER + name, flags, 0o600, dir_fd=upper.fd()))
        upper.note_marker(name, True)

    def _shared_whiteout(self) -> bytes:
        """The whiteout that others are hard links of, as the kernel's overlayfs does it."""
        if self._whiteout is None:
            name = self.temporary()
            self._union.identity.assume(SERVER)
            os.mknod(name, modes.S_IFCHR, 0, dir_fd=self.work)
            self._whiteout = name
        return self._whiteout

    def staged_whiteout(self) -> bytes:
        """A whiteout in the work directory, to be renamed into place."""
        name = self.temporary()
        self._make_whiteout(self.work, name)
        return name

    def _make_whiteout(self, dir_fd: int, name: bytes) -> None:
        """A link of the shared whiteout; a new one where it can have no more links, or the filesystem makes none."""
        if self._sharing:
            try:
                at.link(self.work, self._shared_whiteout(), dir_fd, name)
                return
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._sharing = error.errno == errno.EMLINK
                self._drop_shared()
        self._union.identity.assume(SERVER)
        os.mknod(name, modes.S_IFCHR, 0, dir_fd=dir_fd)

    def _drop_shared(self) -> None:
        if self._whiteout is not None:
            self.discard(self._whiteout)
            self._whiteout = None

    def can_make_devices(self) -> bool:
        """May this process make whiteout devices here?

        Another union as the upper's filesystem allows none; the kernel's overlayfs then takes `.wh.` files, one of ours does not.
        Raises LayerError when no form of whiteout can be had.
        """
        try:
            self._shared_whiteout()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._try_marker()
            return False
        return True

    def _try_marker(self) -> None:
        name = marks.MARKER + self.temporary()
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=self.work))
        except OSError as error:
            shown = os.fsdecode(self._union.config.upper or b"")
            raise LayerError(
                f"upperdir: the filesystem of {shown} takes whiteouts neither as devices nor as .wh.* files ({error.strerror}),"
                " as another unionfs does not; use a directory outside of it"
            ) from None
        os.unlink(name, dir_fd=self.work)

    def close(self) -> None:
        """Leave the work directory empty."""
        self._drop_shared()
        os.close(self.work)


def prepare_work(base: int, shown: str) -> int:
    """Make workdir/work, empty; its descriptor.  Raises LayerError for a work directory that holds foreign things."""
    foreign = [name for name in os.listdir(procfs.fd_path(base)) if name not in (WORK, INDEX)]
    if foreign:
        raise LayerError(f"workdir: {shown} holds {os.fsdecode(foreign[0])}, which is not ours; use an empty directory")
    old = stat.find(base, WORK)
    if old is not None:
        if old.mode & 0o170000 != modes.S_IFDIR:
            raise LayerError(f"workdir: {shown}/work is not a directory; use an empty directory")
        if not creds.has_capability(creds.CAP_DAC_OVERRIDE):
            at.chmod(base, WORK, 0o700)
        refuse_incompatible(base, WORK, shown)
        remove_tree(base, WORK)
    # As the kernel's overlayfs has it, nobody may look inside; but the server itself must.
    mode = 0 if creds.has_capability(creds.CAP_DAC_OVERRIDE) else 0o700
    os.mkdir(WORK, mode, dir_fd=base)
    # What is staged must inherit nothing from the work directory: no default ACL, no group.
    for attribute in (acl.DEFAULT, acl.ACCESS):
        if xattr.find(base, WORK, attribute) is not None:
            xattr.remove(base, WORK, attribute)
    at.chmod(base, WORK, mode)
    return os.open(WORK, _OPEN, dir_fd=base)
