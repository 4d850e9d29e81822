"""Where does a directory of one layer lie, and which descriptor stands for it?  `RealDir` and its bounded cache."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, procfs, stat
from unionfs.overlay import marks
from unionfs.overlay.marks import DirMarks

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer

_OPEN_DIR: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A directory larger than this many bytes is not scanned just to learn that it holds no `.wh.` files.
_SCAN_LIMIT: Final = 64 * 1024
#: Shared by lower directories, which never change.
_NO_MARKERS: Final[set[bytes]] = set()


#: So many components of at most 255 bytes fit in one path.
_A_PATH: Final = 15


def _open_deep(top: int, names: list[bytes], *, private: bool) -> int:
    """Open the directory below `top` whose path is `names` backwards, through no symlink.

    Only where the layer is no private clone are there mounts in it; one component at a time they would be crossed, too.
    """
    fd = top
    while names:
        part = names[-_A_PATH:]
        del names[-_A_PATH:]
        try:
            below = at.open_beneath(fd, b"/".join(reversed(part)), os.O_PATH | os.O_DIRECTORY, across_mounts=not private)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            # Kernels before 5.6, and sandboxes that do not know the call: one component, the rest again.
            names.extend(part[:-1])
            below = os.open(part[-1], _OPEN_DIR, dir_fd=fd)
        finally:
            if fd != top:
                os.close(fd)
        fd = below
    return fd


class DescriptorCache:
    """Open O_PATH descriptors of real directories, the oldest closed first.

    A descriptor may be in use by the operation under way, so none is closed while one runs: the session calls `trim`
    between requests.
    """

    __slots__ = ("_limit", "_open")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[RealDir, None] = {}

    def add(self, real: RealDir) -> None:
        self._open[real] = None

    def discard(self, real: RealDir) -> None:
        self._open.pop(real, None)

    def trim(self) -> None:
        """Close the oldest descriptors above the limit; never called while an operation runs."""
        excess = len(self._open) - self._limit
        if excess > 0:
            for real in list(self._open)[: excess + self._limit // 8]:
                real.close()

    def close(self) -> None:
        for real in list(self._open):
            real.close()


class RealDir:
    """A directory on one layer, as (parent directory, name); its descriptor is opened when needed.

    Lower directories never move.  An upper one moves with its name or with an ancestor's, and only here is that noted.
    """

    __slots__ = ("_fd", "_markers", "_marks", "layer", "name", "parent")

    def __init__(self, layer: Layer, parent: RealDir | None, name: bytes, fd: int = -1) -> None:
        self.layer = layer
        self.parent = parent
        self.name = name
        self._fd = fd
        self._markers: set[bytes] | None = None
        self._marks: DirMarks | None = None

    def fd(self) -> int:
        """An O_PATH descriptor, valid until the operation under way ends.  Raises ENOENT, ENOTDIR, ELOOP, EMFILE."""
        fd = self._fd
        return fd if fd >= 0 else self._reopen()

    def _reopen(self) -> int:
        """Open from the nearest ancestor that is open, without opening those between."""
        names = [self.name]
        above = self.parent
        assert above is not None, "a layer's root is always open"
        while above._fd < 0:
            names.append(above.name)
            above = above.parent
            assert above is not None, "a layer's root is always open"
        if len(names) == 1:
            self._fd = os.open(self.name, _OPEN_DIR, dir_fd=above._fd)
        else:
            self._fd = _open_deep(above._fd, names, private=self.layer.private)
        self.layer.descriptors.add(self)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; `fd` opens it again.  A layer's root stays open."""
        if self._fd >= 0 and self.parent is not None:
            os.close(self._fd)
            self._fd = -1
            self.layer.descriptors.discard(self)

    def release(self) -> None:
        """Close the descriptor, of a layer's root too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def path(self) -> bytes:
        """For messages only: where the directory lies as the user knows it."""
        parts: list[bytes] = []
        real = self
        while real.parent is not None:
            parts.append(real.name)
            real = real.parent
        return b"/".join([real.layer.path, *reversed(parts)])

    def marks(self) -> DirMarks:
        """What the directory's own xattrs say, read once."""
        if self._marks is None:
            self._marks = marks.read_dir_marks(self.fd(), b"", self.layer.prefix)
        return self._marks

    def note_new(self) -> None:
        """The directory was just made, without marks that matter for what it holds."""
        self._marks = marks.NO_MARKS

    def note_marks(self, found: DirMarks) -> None:
        """The directory's marks were read by its name."""
        self._marks = found

    def note_impure(self) -> None:
        """The directory got the impure mark."""
        self._marks = self.marks()._replace(impure=True)

    def note_origin(self) -> None:
        """The directory got an origin."""
        self._marks = self.marks()._replace(origin=True)

    def note_pure(self) -> None:
        """The directory lost the impure mark."""
        self._marks = self.marks()._replace(impure=False)

    def note_opaque(self) -> None:
        """The directory got the opaque mark."""
        self._marks = self.marks()._replace(opaque=True)

    def note_redirect(self, value: bytes) -> None:
        """The directory got a redirect."""
        self._marks = self.marks()._replace(redirect=value)

    def is_whiteout(self, name: bytes, found: stat.Stat) -> bool:
        """Is the object `name` of this directory a whiteout in one of the kernel's two forms?"""
        kind = found.mode & 0o170000
        if kind == modes.S_IFCHR:
            return found.rdev_major == 0 and found.rdev_minor == 0
        if kind == modes.S_IFREG and found.size == 0 and self.marks().xwhiteouts:
            return marks.has_whiteout_xattr(self.fd(), name, self.layer.prefix)
        return False

    def metacopy(self, name: bytes, found: stat.Stat) -> bytes | None:
        """The mark of the regular file `name` that is only metadata, its data being in a layer below; None for one that is not.

        Such a file holds no blocks of data; one made by a copy-up lies in an impure directory.  Where they are not followed no
        other is asked: for them one is enough that was missed, for an upper file not even one that is empty.
        """
        layer = self.layer
        followed = layer.metacopy or layer.data_layers
        if not followed and (found.blocks or not (found.size or layer.is_upper)) and not self.marks().impure:
            return None
        return marks.metacopy(self.fd(), name, layer.prefix)

    def has_marker(self, name: bytes) -> bool:
        """Does a `.wh.` file here hide `name` in the layers below (the form of AUFS, OCI images and fuse-overlayfs)?"""
        if self._markers is None:
            if stat.stat(self.fd()).size > _SCAN_LIMIT:
                return stat.find(self.fd(), marks.MARKER + name) is not None
            self._markers = {entry for entry in os.listdir(procfs.fd_path(self.fd())) if entry.startswith(marks.MARKER)}
        return marks.MARKER + name in self._markers

    def know_markers(self, hidden: list[bytes]) -> None:
        """A scan of this lower directory has found all its `.wh.` files, for the names `hidden`."""
        self._markers = {marks.MARKER + name for name in hidden} if hidden else _NO_MARKERS

    def note_marker(self, name: bytes, present: bool) -> None:
        """A `.wh.` file for `name` was made or removed here."""
        if self._markers is not None:
            if present:
                self._markers.add(marks.MARKER + name)
            else:
                self._markers.discard(marks.MARKER + name)
