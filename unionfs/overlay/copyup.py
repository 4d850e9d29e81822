"""How does an object get from its lower layer to the upper one?  Staged, filled, given its metadata, published by one step.

Parents first.  The order inside is data, owner, mode, xattrs with ACLs and capabilities, times, origin, fsync, publish
(fs/overlayfs/copy_up.c; owner before xattrs, since chown(2) takes capabilities away).  A parent's own times stay.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, fs, handle, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import asowner, dirindex, idmapped, isolation, links, marks, metacopy, protect
from unionfs.overlay.config import Fsync
from unionfs.overlay.copydata import copy_data
from unionfs.overlay.creator import SERVER
from unionfs.overlay.datacopyup import DataCopyUp, Job, is_ordered, sync_data
from unionfs.overlay.errors import CopyUpNeeded
from unionfs.overlay.impure import set_impure
from unionfs.overlay.metacopy import Below, Data
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.owners import give_away
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.override import Override
    from unionfs.overlay.union import Union

#: A file with more data than this is copied outside the event loop.
INLINE_LIMIT: Final = 256 * 1024


def ensure_upper(union: Union, node: Node, length: int | None = None, found: Stat | None = None) -> None:
    """Put the object on the upper layer; of a regular file's data only the first `length` bytes, if given.

    `found` is the lower object's stat, if the caller has it.  A file that is there with its metadata alone gets its data.

    Raises CopyUpNeeded, having changed nothing, when that takes more than the event loop should do; EROFS in a read-only
    union; EOVERFLOW, ENOSPC, EDQUOT, EIO from the layers.  What `protect` forbids the caller has refused before.
    """
    if node.upper:
        _show(union, node)
        if node.data is None:
            return
    if isinstance(node, DirNode):
        if union.read_only:
            raise OSError(errno.EROFS, "read-only union")
        _ensure_directory(union, node)
        return
    _check_copyable(union, node)
    if found is None or node.upper:
        found = stat.stat(*node.at())
    if node.is_regular and (found.size if length is None else min(length, found.size)) > INLINE_LIMIT:
        raise CopyUpNeeded(node)
    job(union, node, length, found).run()


def ensure_metadata(union: Union, node: Node, found: Stat | None = None) -> None:
    """Put the object on the upper layer, because its metadata are to change; with metacopy=on a file's data stay below.

    Raises as `ensure_upper` does, and what `metacopy.check` does for a file whose data are elsewhere.
    """
    if not node.is_regular or not union.config.metacopy or node.unlinked:
        # Nobody can find the data by the name that is gone.
        if not node.upper or node in union.copying:
            ensure_upper(union, node, None, found)
        else:
            _show(union, node)
        return
    if node.upper:
        _show(union, node)
        if node.data is None:
            return
    _check_copyable(union, node)
    metacopy.check(union, node)
    if node.upper:
        return
    mark = metacopy.mark_for(union, metacopy.place(node))
    if mark is None:
        ensure_upper(union, node, None, found)
    else:
        CopyUp(union, node, None, found, mark).run()


def _check_copyable(union: Union, node: Node) -> None:
    if union.read_only:
        raise OSError(errno.EROFS, "read-only union")
    if node in union.copying:
        raise CopyUpNeeded(node)
    if node.parent is None and not node.unlinked and not node.upper and node.links is None:
        raise OSError(errno.ESTALE, "the directory of the only known name was forgotten")


def job(union: Union, node: Node, length: int | None = None, found: Stat | None = None) -> Job:
    """What brings a file with its data to the upper layer: all of it, or the data alone if the rest is there."""
    return DataCopyUp(union, node, length) if node.upper else CopyUp(union, node, length, found)


def _show(union: Union, node: Node) -> None:
    """An indexed file is about to change: the name by which it is known is on the upper layer then, as with overlayfs."""
    if node.links is None or node.links.shown:
        return
    if node.parent is not None and not node.unlinked and not union.read_only:
        ensure_upper(union, node.parent)
        links.link_up(union, node, node.parent, node.name)


def _ensure_directory(union: Union, node: DirNode) -> None:
    """Copy up a directory, its ancestors first; recursion would end at a depth users can reach."""
    missing = [node]
    while not (parent := missing[-1].parent or union.root).upper:
        missing.append(parent)
    for directory in reversed(missing):
        CopyUp(union, directory).run()
        # Nobody holds a descriptor's number here, and a path may be thousands of levels deep.
        union.trim()


class CopyUp(Job):
    """One object's way to the upper layer.

    `prepare` and `publish` belong to the event loop, `copy` may run in a worker thread; `run` is all three.  `cancelled`
    stops a copy under way: `copy` then raises EINTR.  Whatever fails, nothing is left behind.
    With a `mark`, the value of a metacopy mark, a file's data are left where they are.
    """

    __slots__ = ("_data", "_has_data", "_length", "_mark", "_name", "_node", "_source", "_stat", "_target", "_union")

    def __init__(
        self, union: Union, node: Node, length: int | None = None, found: Stat | None = None, mark: bytes | None = None
    ) -> None:
        super().__init__()
        self._union = union
        self._node = node
        self._length = length
        self._mark = mark
        self._name = b""
        self._source = -1
        self._data = -1
        self._target = -1
        self._has_data = False
        self._stat = found

    def prepare(self) -> None:
        """Copy up the parents and make the staged object."""
        union, node = self._union, self._node
        found = self._stat or stat.stat(*node.at())
        override = node.layer().override
        if override is not None:
            found = override.apply(*node.at(), found)
        self._stat = found
        if union.owners is None or not union.owners.lenient:
            idmapped.check(node.layer(), found)
        if not node.unlinked:
            ensure_upper(union, node.parent or union.root)
        staging = union.staging_area()
        keeper = self._keeper()
        if node.is_regular:
            self._source = at.open_at(*node.at(), os.O_RDONLY)
            if node.data is not None and self._mark is None:
                metacopy.check(union, node)
                self._data = at.open_at(*node.data.at(), os.O_RDONLY)
            self._target, self._name = staging.open_file(found.mode & 0o777 if keeper is None else 0o700)
            return
        union.identity.assume(SERVER)
        name = staging.temporary()
        if node.is_dir:
            os.mkdir(name, 0o700, dir_fd=staging.work)
        elif node.is_symlink:
            os.symlink(at.readlink(*node.at()), name, dir_fd=staging.work)
        elif keeper is not None:
            keeper.make_special(staging.work, name, found.mode & 0o170000, found.rdev)
        else:
            os.mknod(name, found.mode & 0o170000, found.rdev, dir_fd=staging.work)
        self._name = name

    def copy(self) -> None:
        """Data and metadata, and the data to the device.  Raises EINTR when cancelled."""
        self._fill()
        self._sync(self._here())

    def _here(self) -> tuple[int, bytes]:
        """The staged object."""
        return (self._target, b"") if self._target >= 0 else (self._union.staging_area().work, self._name)

    def _fill(self) -> None:
        """Give the staged object its data and metadata."""
        found = self._stat
        assert found is not None
        if self._mark is not None:
            os.ftruncate(self._target, found.size)
            xattr.write(self._target, None, self._union.prefix + "metacopy", self._mark)
        elif self._target >= 0:
            size = found.size if self._length is None else min(found.size, self._length)
            self._has_data = size > 0
            copy_data(self._data if self._data >= 0 else self._source, self._target, size, self.cancelled)
            if self._has_data and is_ordered(self._union):
                # On its way to the device while the rest is done.
                fs.start_write_out(self._target)
        here = self._here()
        self._copy_owner_and_mode(here, found)
        source = (self._source, None) if self._source >= 0 else self._node.at()
        copy_xattrs(self._union, self._node.layer(), source, (self._target, None) if self._target >= 0 else here)
        self._copy_flags(here)
        at.utimens(*here, (found.atime, found.atime_nsec), (found.mtime, found.mtime_nsec))
        self._write_origin(here)

    def _copy_owner_and_mode(self, here: tuple[int, bytes], found: Stat) -> None:
        """A staged file was made with the permission bits and as the server; the rest is set where it differs."""
        keeper = self._keeper()
        if keeper is not None:
            keeper.keep(here, found.mode, found.uid, found.gid, found.rdev)
            return
        foreign = (found.uid, found.gid) != (SERVER.uid, SERVER.gid)
        if foreign:
            owners = self._union.owners
            give_away(here, found.uid, found.gid, lenient=owners is not None and owners.lenient)
        if not self._node.is_symlink and (self._target < 0 or found.mode & 0o7000):
            at.chmod(*here, found.mode & 0o7777)

    def _keeper(self) -> Override | None:
        """What has owner and mode on the upper layer, if that is not the object itself."""
        upper = self._union.upper
        return None if upper is None else upper.override

    def _copy_flags(self, here: tuple[int, bytes]) -> None:
        """The inode flags that overlayfs carries along; those that would bar the copy-up itself go to an xattr."""
        assert self._stat is not None
        if self._source >= 0 and self._target >= 0 and (flags := _carried_flags(self._source)):
            fs.set_inode_flags(self._target, fs.inode_flags(self._target) | flags)
        letters = protect.encode(protect.real_flags(self._node, self._stat))
        if letters:
            asowner.write(*here, self._union.prefix + "protattr", letters)

    def _write_origin(self, here: tuple[int, bytes]) -> None:
        """Say which lower inode this was; not for one of several hard links without the index: the others keep its number."""
        node = self._node
        assert self._stat is not None
        if not node.is_dir and self._stat.nlink > 1 and node.links is None:
            return
        layer = node.layer()
        # By the open file where there is one: this may run in a thread, and `at` belongs to the event loop.
        source = (self._source, b"") if self._source >= 0 else node.at()
        found = handle.encode(*source) if layer.handles else None
        fd, name = (self._target, None) if self._target >= 0 else here
        try:
            asowner.write(fd, name, self._union.prefix + "origin", marks.encode_origin(layer.uuid, found))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP and error.errno != errno.EPERM:
                raise

    def _sync(self, here: tuple[int, bytes]) -> None:
        """See that after a crash the name never shows without its data.

        Where the journal orders a new name behind data already on the device, writing them out is enough and several
        times cheaper than a commit; a caller who wants the file durable syncs it like any other.
        """
        fsync = self._union.config.fsync
        if self._target >= 0:
            if self._has_data or fsync is Fsync.STRICT:
                sync_data(self._union, self._target)
        elif fsync is Fsync.STRICT and self._node.is_dir:
            fd = at.open_at(*here, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def publish(self) -> None:
        """Make the upper object visible and the node an upper one; the parent's times stay as they were."""
        union, node = self._union, self._node
        staging = union.staging_area()
        if node.unlinked:
            node.hold(self._target if self._target >= 0 else at.open_at(staging.work, self._name, os.O_PATH))
            self._target = -1
            node.upper = True
            if union.upper is not None:
                node.real_dir = union.upper.root
            if self._name:
                staging.discard(self._name)
                self._name = b""
            return
        if node.links is not None:
            node.protected = protect.real_flags(node, self._stat or stat.stat(*node.at()))
            staged = (staging.work, self._name) if self._name else (self._target, b"")
            left = self._data_left()
            try:
                links.publish(union, node, staged)
            finally:
                if node.upper:
                    node.data = left
            self._name = b""
            return
        parent = node.parent or union.root
        upper = parent.upper_dir
        set_impure(union, parent)
        before = stat.stat(upper.fd())
        if self._name:
            indexed = dirindex.add(union, self._name) if node.is_dir else b""
            try:
                staging.publish(self._name, upper, node.name, at.RENAME_NOREPLACE)
            except OSError:
                if indexed and union.origins is not None:
                    union.origins.remove(indexed)
                raise
            self._name = b""
        else:
            fd, target = upper.fd(), self._target
            asowner.insist(lambda: at.link(target, b"", fd, node.name), (fd, b""))
        self._settle(node, parent, upper)
        # What fails from here on does not undo the copy-up, which users can see by now.
        with contextlib.suppress(OSError):
            at.utimens(upper.fd(), b"", (before.atime, before.atime_nsec), (before.mtime, before.mtime_nsec))
        if union.config.fsync is Fsync.STRICT:
            union.sync_directory(upper)

    def _settle(self, node: Node, parent: DirNode, upper: RealDir) -> None:
        union = self._union
        if self._stat is not None:
            node.protected = protect.real_flags(node, self._stat)
        if isinstance(node, DirNode):
            node.reals = (RealDir(upper.layer, upper, node.name), *node.reals)
            node.reals[0].note_new()
            reals: tuple[RealDir, ...] = (upper,)
            if parent.index is not None and (entry := parent.index.names.get(node.name)) is not None:
                reals = (upper, *entry.reals)
        else:
            reals = (upper,)
            if self._stat is not None and self._stat.nlink > 1:
                # The other names stay with the lower file: from now on this one is another inode.
                node.ino = union.inodes.number(upper.layer, stat.stat(upper.fd(), node.name).ino)
                union.relisted.append(parent)
        union.changed.append(node)
        node.data = self._data_left()
        node.upper = True
        node.real_dir = upper
        node.real_name = node.name
        if parent.index is not None:
            parent.index.put(node.name, node.kind, node.ino, reals)

    def _data_left(self) -> Data | None:
        """Where the data are if they were not copied: where they were, seen from the upper layer."""
        node = self._node
        if self._mark is None:
            return None
        assert self._stat is not None
        below = Below(node.layer(), self._stat.ino, self._stat.nlink)
        if node.data is not None:
            return node.data.seen_from(self._mark, below)
        return Data(self._mark, below, node.real_dir, node.real_name)

    def close(self) -> None:
        """Drop whatever was not published."""
        for fd in (self._source, self._data, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._data = self._target = -1
        if self._name:
            self._union.staging_area().discard(self._name)
            self._name = b""


def copy_xattrs(union: Union, layer: Layer, source: tuple[int, bytes | None], target: tuple[int, bytes | None]) -> None:
    """All xattrs but the private ones, from an object of `layer` to one on the upper layer.

    ACLs (if there are any in this union) and `security.*` have to succeed; of the others those the upper filesystem does not
    know are left behind (fs/overlayfs/copy_up.c, ovl_copy_xattr).
    """
    keeper = None if union.upper is None else union.upper.override
    plain = keeper is None and layer.override is None
    mark = keeper.attribute if keeper is not None and keeper is layer.override else None
    for attribute in xattr.names(*source) if plain else sorted(xattr.names(*source)):
        if marks.unescape(attribute, union.prefix) is None and attribute != mark:
            continue
        name = attribute if plain else isolation.moved(layer.override, keeper, attribute)
        if name is None:
            continue
        value = xattr.find(*source, attribute)
        if value is None or (attribute == "security.capability" and not value):
            continue
        try:
            asowner.write(*target, name, value)
        except OSError as error:
            is_acl = attribute.startswith("system.posix_acl_")
            if is_acl and union.config.noacl:
                continue
            if is_acl and error.errno == errno.EINVAL:
                raise OSError(errno.EOVERFLOW, "who is in an ACL has no id in the server's user namespace") from None
            must = is_acl or attribute.startswith("security.")
            if must or error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise


def _carried_flags(fd: int) -> int:
    """Of a regular file's inode flags (chattr(1)) those that a copy-up keeps: synchronous writes, no atime."""
    try:
        return fs.inode_flags(fd) & (fs.FS_SYNC_FL | fs.FS_NOATIME_FL)
    except OSError:
        return 0
