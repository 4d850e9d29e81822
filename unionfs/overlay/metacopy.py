"""Where are the data of a file whose own object holds only metadata?  The metacopy mark, and the search it starts below.

`overlay.metacopy` on a regular file says that its data are those of the next regular file below: of the same path, or of the one
that `overlay.redirect` names, which may be such a file again (overlayfs.rst, "Metadata only copy up").  The last of them may
name its data by an absolute redirect into the data-only layers, which are looked at when the data are first needed ("Data-only
lower layers").  What is refused, and how, follows fs/overlayfs/namei.c.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.linux import at, fs, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import digests, redirect
from unionfs.overlay.config import Verity
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.node import Node
    from unionfs.overlay.union import Union

_DOTS: Final = (b"", b".", b"..")


class Below(NamedTuple):
    """What the topmost lower object of a file says: its layer, inode number and link count."""

    layer: Layer
    ino: int
    nlink: int


class Data:
    """The place of a file's data, apart from the object that has its metadata.

    mark: the value of that object's metacopy mark.  below: the topmost lower object that the search came by.
    checked: the place is known, and its fs-verity digest was compared as far as that is asked for.
    """

    __slots__ = ("_layers", "_name", "_path", "_real", "below", "checked", "mark")

    def __init__(self, mark: bytes, below: Below, real: RealDir | None, name: bytes, layers: tuple[Layer, ...] = ()) -> None:
        """`name` in `real`; without a `real`, the path `name` in one of the data-only `layers`."""
        self.mark = mark
        self.below = below
        self.checked = False
        self._real = real
        self._name = name
        self._path = name
        self._layers = layers

    def seen_from(self, mark: bytes, below: Below) -> Data:
        """The same place, for an object above it."""
        return Data(mark, below, self._real, self._name if self._real is not None else self._path, self._layers)

    @property
    def is_known(self) -> bool:
        """Has a data-only file been looked for?"""
        return self._real is not None

    def at(self) -> tuple[int, bytes]:
        """(descriptor, name) of the file with the data.  Raises ENOENT and what `_find_in` does when there is none."""
        real = self._place()
        return real.fd(), self._name

    def layer(self) -> Layer:
        """The layer of the data."""
        return self._place().layer

    def blocks(self, found: Stat) -> int:
        """st_blocks of the file whose metadata are `found`: those of its data, guessed from the size until they are known."""
        if self._real is None:
            return -(-found.size // found.blksize) * found.blksize >> 9
        return stat.stat(*self.at()).blocks

    def _place(self) -> RealDir:
        if self._real is None:
            self._real, self._name = _find_in(self._layers, self._path)
        return self._real


def _find_in(layers: Iterable[Layer], path: bytes) -> tuple[RealDir, bytes]:
    """The regular file `path` in the first of the data-only layers that has it.

    Raises what the last one says: ENOENT, ELOOP for a symlink on the way, EXDEV for a path that leaves the layer.
    """
    problem = OSError(errno.ENOENT, "no data-only layer has the file")
    for layer in layers:
        try:
            fd = at.open_beneath(layer.root.fd(), path.lstrip(b"/"), os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            problem = error
            continue
        try:
            kind = stat.stat(fd).mode & 0o170000
        finally:
            os.close(fd)
        if kind == modes.S_IFREG:
            return _chain(layer, path)
        problem = OSError(errno.ENOENT, "not a regular file")
    raise problem


def _chain(layer: Layer, path: bytes) -> tuple[RealDir, bytes]:
    """The directory and the name of a path that was found to lead through no symlink, so that `..` can be reckoned away."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            parts.pop()
        elif part not in _DOTS:
            parts.append(part)
    here = layer.root
    for part in parts[:-1]:
        here = RealDir(layer, here, part)
    return here, parts[-1]


def find(real: RealDir, name: bytes, found: Stat, parents: Sequence[RealDir]) -> Data | None:
    """Where the data of the regular file `name` in `real` are; None for a file that holds its own.

    `parents`: all real directories that the file's directory is made of.
    Raises EPERM where such files are not followed, EIO when there are no data or the mark is damaged, EINVAL for a malformed
    redirect, EACCES for one with `..` in it.
    """
    mark = real.metacopy(name, found)
    return None if mark is None else _Search(real, mark, parents).run(real, name, found)


class _Search:
    """One search, from the topmost object downward.

    path: what is searched for in the next layer, when a redirect has named a path.  redirected: some redirect was met.
    absolute: the latest redirect was a path.  below: the topmost lower object met.
    """

    __slots__ = ("_absolute", "_below", "_data_layers", "_mark", "_may", "_parents", "_path", "_redirected")

    def __init__(self, real: RealDir, mark: bytes, parents: Sequence[RealDir]) -> None:
        self._mark = mark
        self._parents = parents
        self._path = b""
        self._redirected = False
        self._absolute = False
        self._below: Below | None = None
        self._may = (real.layer.metacopy, real.layer.follow)
        self._data_layers = real.layer.data_layers

    def run(self, real: RealDir, name: bytes, found: Stat) -> Data:
        mark = self._mark
        while True:
            if 0 < len(mark) < digests.HEAD_SIZE:
                raise OSError(errno.EIO, "damaged metacopy mark")
            if self._below is None and not real.layer.is_upper:
                self._below = Below(real.layer, found.ino, found.nlink)
            name = self._redirect(real, name)
            step = self._next(real.layer, name)
            if step is None:
                return self._end()
            real, name, found = step
            further = real.metacopy(name, found)
            if further is None:
                return Data(self._mark, self._below or Below(real.layer, found.ino, found.nlink), real, name)
            mark = further

    def _redirect(self, real: RealDir, name: bytes) -> bytes:
        """Take note of the redirect of a file without data; the name to go on with in the same directory."""
        self._absolute = False
        if not real.layer.below and not self._data_layers:
            return name
        value = xattr.find(real.fd(), name, real.layer.prefix + "redirect")
        if value is None:
            return name
        value = redirect.of_file(value)
        self._redirected = True
        self._absolute = value.startswith(b"/")
        if self._absolute:
            self._path = value
        elif self._path:
            self._path = self._path[: self._path.rindex(b"/") + 1] + value
        return value

    def _next(self, layer: Layer, name: bytes) -> tuple[RealDir, bytes, Stat] | None:
        """The next regular file below `layer`; None when the search ends without one."""
        if not self._path:
            for parent in self._parents:
                if parent.layer.number <= layer.number:
                    continue
                self._check()
                here, ended = _regular(parent, name)
                if here is not None:
                    return parent, name, here
                if ended:
                    break
            return None
        for below in layer.below:
            self._check()
            directory, self._path, ended = redirect.to_parent(below, self._path)
            if directory is not None:
                last = self._path[self._path.rindex(b"/") + 1 :]
                here, hidden = _regular(directory, last)
                if here is not None:
                    return directory, last, here
                ended = ended or hidden
            if ended:
                break
        return None

    def _check(self) -> None:
        """May the search go on into the next layer?"""
        may_find, may_follow = self._may
        if not may_find:
            raise OSError(errno.EPERM, "metadata-only file, and metacopy is off")
        if self._redirected and not may_follow:
            raise OSError(errno.EPERM, "redirected file, and redirects are not followed")

    def _end(self) -> Data:
        """No layer that shows has the data: they are in a data-only one, or nowhere."""
        if self._below is not None and self._data_layers and self._absolute:
            return Data(self._mark, self._below, None, self._path, self._data_layers)
        self._check()
        raise OSError(errno.EIO, "metadata-only file without data below")


def _regular(directory: RealDir, name: bytes) -> tuple[Stat | None, bool]:
    """The regular file of that name, and whether something there ends the search."""
    if name in _DOTS:
        raise OSError(errno.EACCES, "redirect to no name")
    here = stat.find(directory.fd(), name)
    if here is None:
        return None, directory.has_marker(name)
    if here.mode & 0o170000 != modes.S_IFREG or directory.is_whiteout(name, here):
        return None, True
    return here, True


def check(union: Union, node: Node) -> None:
    """Before the data are used, or a copy of the metadata is to stand for them: are they there, and the right ones?

    Raises ENOENT and the like for missing data-only files, EIO for a digest that is wrong or missing (see `Verity`).
    """
    data = node.data
    if data is None or data.checked:
        return
    if not data.is_known:
        data.layer()
        # The number of blocks was a guess.
        union.changed.append(node)
    if union.config.verity is not Verity.OFF:
        digests.verify(union.config.verity, data.mark, data.at())
    data.checked = True


def mark_for(union: Union, source: tuple[int, bytes]) -> bytes | None:
    """The metacopy mark for a copy of the metadata of a file whose data are at `source`.

    None when the data have to be copied as well: verity=require, and the file has no fs-verity digest.
    """
    if union.config.verity is Verity.OFF:
        return b""
    fd = at.open_at(*source, os.O_RDONLY | os.O_NONBLOCK)
    try:
        measured = fs.measure_verity(fd)
    finally:
        os.close(fd)
    if measured is None:
        return None if union.config.verity is Verity.REQUIRE else b""
    return digests.encode(*measured)


def place(node: Node) -> tuple[int, bytes]:
    """(descriptor, name) of a file's data, wherever they are."""
    return node.at() if node.data is None else node.data.at()
