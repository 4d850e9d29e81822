"""Which upper inode has taken the place of a lower one?  workdir/index, whose entries are named by the lower inode's handle.

An entry is called as the value of `overlay.origin` in lowercase hexadecimal.  That of a file is a hard link of the upper inode,
that of a directory (nfs_export) an empty directory whose `overlay.upper` names the upper one, and a whiteout says that the
object is gone for good (overlayfs.rst, "Inode properties", "NFS export"; fs/overlayfs/namei.c, ovl_verify_index).
"""

from __future__ import annotations

import binascii
import errno
import os
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, handle, procfs, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import acl, marks
from unionfs.overlay.errors import LayerError
from unionfs.overlay.realdir import RealDir
from unionfs.overlay.staging import INDEX
from unionfs.overlay.trees import remove_tree

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KIND: Final = 0o170000
#: The longest value of `overlay.nlink`: a letter, a sign and a 32-bit number.
_LINKS_MAX: Final = 12
_ADVICE: Final = "mount with index=off, or use a fresh upperdir and workdir"


class Links:
    """What a node has whose names are all those of one lower inode (and those it was given since).

    origin: the lower inode's handle as `overlay.origin` has it.  key: (device, number) of the lower inode.  lower: how many names
    it has there.  extra: once it is on the upper layer, by how much the union's link count exceeds that of the upper inode.
    shown: the name by which the node is known is sure to be on the upper layer too.
    """

    __slots__ = ("extra", "key", "lower", "origin", "shown")

    def __init__(self, origin: bytes, key: tuple[int, int], lower: int) -> None:
        self.origin = origin
        self.key = key
        self.lower = lower
        self.extra = 0
        self.shown = False

    @property
    def entry(self) -> bytes:
        """The name of its entry in the index."""
        return entry_name(self.origin)


def entry_name(origin: bytes) -> bytes:
    """The name of the index entry of an origin."""
    return binascii.hexlify(origin)


class OriginIndex:
    """workdir/index, open.

    dir: the directory.  everything: every object that is copied up has an entry (nfs_export), not only files with several
    names.
    """

    __slots__ = ("_prefix", "dir", "everything")

    def __init__(self, upper: Layer, fd: int, prefix: str, everything: bool) -> None:
        self._prefix = prefix
        self.dir = RealDir(upper, None, INDEX, fd)
        self.everything = everything

    def find(self, origin: bytes, kind: int) -> Stat | None:
        """The entry of the lower object of `kind` (S_IFMT bits).

        Raises EIO for one that stands for another kind of object, or says that this one is gone while it shows.
        """
        found = stat.find(self.dir.fd(), entry_name(origin))
        override = self.dir.layer.override
        if found is not None and override is not None:
            found = override.apply(self.dir.fd(), entry_name(origin), found)
        if found is not None and found.mode & _KIND != kind:
            raise OSError(errno.EIO, "index entry of another type than its origin")
        return found

    def read_extra(self, links: Links, upper: Stat) -> int:
        """`Links.extra` as the entry, whose stat is `upper`, has it in `overlay.nlink`; 0 where that is not to be understood."""
        value = xattr.find(self.dir.fd(), links.entry, self._prefix + "nlink") or b""
        extra = _difference(value, links.lower, upper.nlink)
        return 0 if extra is None else extra

    def write_extra(self, links: Links, upper_links: int, *, by_lower: bool = False) -> None:
        """Note the union's link count, which is that of the upper inode and `extra`, relative to the upper or the lower inode.

        By the lower one while the upper inode gets a name that the lower one has, so that a crash leaves the count right.
        """
        difference = upper_links + links.extra - links.lower if by_lower else links.extra
        value = b"%c%+d" % (b"L" if by_lower else b"U", difference)
        xattr.write(self.dir.fd(), links.entry, self._prefix + "nlink", value)

    def remove(self, origin: bytes, whiteout: int = -1, name: bytes = b"") -> None:
        """Nothing stands for the lower object any more.

        With a whiteout `name` in the directory `whiteout` that takes the entry's place, so that no handle of it opens again.
        """
        entry = entry_name(origin)
        found = stat.find(self.dir.fd(), entry)
        if found is None:
            return
        is_dir = found.mode & _KIND == modes.S_IFDIR
        if whiteout < 0:
            remove_tree(self.dir.fd(), entry)
        elif not is_dir:
            at.rename(whiteout, name, self.dir.fd(), entry)
        else:
            at.rename(whiteout, name, self.dir.fd(), entry, at.RENAME_EXCHANGE)
            remove_tree(whiteout, name)

    def close(self) -> None:
        self.dir.release()


def _difference(value: bytes, lower: int, upper: int) -> int | None:
    """What `overlay.nlink` says the union's link count has more than the upper inode's; None when it says nothing sensible."""
    if len(value) > _LINKS_MAX or value[:1] not in (b"U", b"L") or value[1:2] not in (b"+", b"-") or not value[2:].isdigit():
        return None
    total = (upper if value[:1] == b"U" else lower) + int(value[1:])
    return total - upper if total > 0 else None


def origin_of(layer: Layer, dir_fd: int, name: bytes, *, upper: bool = False) -> bytes:
    """The handle of a layer's object as overlayfs writes it; empty where it has none."""
    return marks.encode_origin(layer.uuid, handle.encode(dir_fd, name), upper=upper)


def open_index(upper: Layer, lower: Layer, lowers: tuple[Layer, ...], work: int, shown: str, export: bool) -> OriginIndex:
    """Make or open workdir/index and bring it in order.

    `lower`: the topmost lower layer, with which the upper one then belongs together.  `work`: the work directory's descriptor,
    `shown` for messages.  `export`: every copied-up object has an entry.  Raises LayerError when the upper layer was used with
    another lower one, the index with another upper one, or an entry can't be understood; what the filesystem raises.
    """
    prefix = upper.prefix
    root = upper.root.fd()
    if not _belongs(root, prefix + "origin", origin_of(lower, lower.root.fd(), b"")):
        raise LayerError(
            f"upperdir: {os.fsdecode(upper.path)} belongs to another lower layer than {os.fsdecode(lower.path)}; {_ADVICE}"
        )
    index = OriginIndex(upper, _make(work), prefix, export)
    try:
        here = index.dir.fd()
        own = origin_of(upper, root, b"", upper=True)
        older = marks.decode_origin(xattr.find(here, b"", prefix + "origin") or b"")
        if not _belongs(here, prefix + "upper", own) or (older is not None and older != marks.decode_origin(own)):
            raise LayerError(f"workdir: the index in {shown} belongs to another upperdir than this one; {_ADVICE}")
        for name in os.listdir(procfs.fd_path(here)):
            _check_entry(index, lowers, name, shown)
    except BaseException:
        index.close()
        raise
    return index


def _make(work: int) -> int:
    """A descriptor of workdir/index, made if need be."""
    if stat.find(work, INDEX) is None:
        os.mkdir(INDEX, 0, dir_fd=work)
        # Entries must inherit nothing from the work directory: no default ACL, no group.
        for attribute in (acl.DEFAULT, acl.ACCESS):
            if xattr.find(work, INDEX, attribute) is not None:
                xattr.remove(work, INDEX, attribute)
        at.chmod(work, INDEX, 0)
    return os.open(INDEX, _OPEN, dir_fd=work)


def _belongs(fd: int, attribute: str, own: bytes) -> bool:
    """Is `own` the handle in the attribute?  Written there when it holds none (ovl_verify_set_fh)."""
    value = xattr.find(fd, b"", attribute)
    if value is None or marks.decode_origin(value) is None:
        xattr.write(fd, b"", attribute, own)
        return True
    return marks.same_origin(value, own)


class _Stale(Exception):
    """An entry that stands for nothing: it goes, or with nfs_export, if `orphan`, becomes a whiteout."""

    def __init__(self, *, orphan: bool) -> None:
        super().__init__()
        self.orphan = orphan


def _check_entry(index: OriginIndex, lowers: tuple[Layer, ...], name: bytes, shown: str) -> None:
    """Keep an entry, or remove one that stands for nothing (ovl_indexdir_cleanup).  Raises LayerError for a damaged one."""
    here = index.dir.fd()
    if name.startswith(marks.TEMPORARY):
        remove_tree(here, name)
        return
    try:
        _verify(index, lowers, name)
    except _Stale as stale:
        remove_tree(here, name)
        if stale.orphan and index.everything:
            os.mknod(name, modes.S_IFCHR, 0, dir_fd=here)
    except OSError as error:
        raise LayerError(
            f"workdir: {shown}/index/{os.fsdecode(name)} is no index entry that can be used ({error.strerror}); {_ADVICE}"
        ) from None


def _verify(index: OriginIndex, lowers: tuple[Layer, ...], name: bytes) -> None:
    """Raises _Stale for an entry that stands for nothing, OSError for one that is damaged or of a newer format."""
    here, prefix = index.dir.fd(), index.dir.layer.prefix
    try:
        origin = binascii.unhexlify(name[: len(name) & ~1])
    except binascii.Error:
        raise OSError(errno.EINVAL, "its name is no handle") from None
    decoded = marks.check_origin(origin)
    found = stat.stat(here, name)
    kind = found.mode & _KIND
    if kind == modes.S_IFCHR and not found.rdev_major and not found.rdev_minor:
        return
    if kind == modes.S_IFDIR:
        if index.everything:
            _verify_directory(index, name, origin)
        return
    if not marks.same_origin(xattr.find(here, name, prefix + "origin"), origin):
        _require_origin(xattr.find(here, name, prefix + "origin"))
        raise _Stale(orphan=False)
    if found.nlink > 1:
        return
    known = find_origin(lowers, decoded)
    if known is None:
        raise _Stale(orphan=False)
    lower = known[1]
    if lower.mode & _KIND != kind:
        raise OSError(errno.EIO, "its origin is of another type")
    if lower.nlink == 1 or _difference(xattr.find(here, name, prefix + "nlink") or b"", lower.nlink, found.nlink) is None:
        raise _Stale(orphan=True)


def _require_origin(value: bytes | None) -> None:
    """Raises ENODATA for an object without a known origin, which no mount has put in the index."""
    if value is None or marks.decode_origin(value) is None:
        raise OSError(errno.ENODATA, "it has no origin")


def _verify_directory(index: OriginIndex, name: bytes, origin: bytes) -> None:
    upper = marks.decode_origin(xattr.find(index.dir.fd(), name, index.dir.layer.prefix + "upper") or b"")
    if upper is None:
        raise _Stale(orphan=False)
    try:
        fd = index.dir.layer.open_origin(upper)
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise _Stale(orphan=True) from None
        raise
    try:
        found = stat.stat(fd)
        if found.mode & _KIND != modes.S_IFDIR:
            raise OSError(errno.EIO, "it leads to no directory")
        if not found.nlink:
            raise _Stale(orphan=True)
        value = xattr.find(fd, b"", index.dir.layer.prefix + "origin")
    finally:
        os.close(fd)
    if not marks.same_origin(value, origin):
        _require_origin(value)
        raise _Stale(orphan=False)


def find_origin(lowers: tuple[Layer, ...], origin: marks.Origin) -> tuple[Layer, Stat] | None:
    """The layer and stat of the lower inode that an origin names; None when no layer has it any more."""
    for layer in lowers:
        if layer.uuid == origin.uuid and layer.handles and not layer.ambiguous:
            try:
                fd = layer.open_origin(origin)
            except OSError:
                continue
            try:
                return layer, stat.stat(fd)
            finally:
                os.close(fd)
    return None
