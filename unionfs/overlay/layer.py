"""What is a layer, and can these directories be layers?  Opening, private clones, probes."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Final

from unionfs.linux import at, fs, handle, mount, procfs, stat, xattr
from unionfs.linux.fd import Fd
from unionfs.overlay import marks
from unionfs.overlay.errors import LayerError
from unionfs.overlay.override import Override, detect
from unionfs.overlay.realdir import DescriptorCache, RealDir

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: Why the mount of a layer can't be cloned: no privilege, a foreign or locked mount, a kernel before 5.12.
_NO_CLONE: Final = frozenset((errno.EPERM, errno.EINVAL, errno.ENOSYS))

#: Filesystems that may lie on others, and how deep they are at least (s_stack_depth; FUSE has one with passthrough only, and
#: procfs forbids that anything is stacked on it).
_LEAST_DEPTH: Final = {
    fs.OVERLAYFS_SUPER_MAGIC: 1, fs.ECRYPTFS_SUPER_MAGIC: 1, fs.FUSE_SUPER_MAGIC: 0, fs.PROC_SUPER_MAGIC: 2,
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Layer:
    """One directory tree of the union.

    number: 0 for the upper layer, from 1 downward for the lower ones.  path: as the user named it, for messages.
    dev: st_dev of its root.  uuid: of its filesystem, zeros if it has none; ambiguous: another lower filesystem has the same, so
    that a handle may be of either.  private: opened through a detached clone of its
    mount, so that for a lower layer the kernel itself refuses every write.  handles: its filesystem has file handles.
    ordered: its filesystem's journal never commits a name before data that were written out before it was given.
    stack_depth: how many stacking filesystems its superblock already is; where `stackable`, the least it can be, until someone
    finds out.  base: the descriptor the root was opened from.
    readable: its root opened for reading, as file handles need it.  has_flags: what statx(2) says of immutable files is meant.
    has_marks: it can take the marks of an upper layer.
    below: the layers below it that show in the union.  follow: redirects found in it are followed.
    metacopy: files in it whose data are below are followed.  data_layers: those in which such files may have their data.
    override: it has owners and modes in xattrs.  traps: (dev, ino) of what lies in it and is not entered (see `traps`).
    nobody: the ids that stand for owners without one, where it lies on an idmapped mount.
    """

    number: int
    path: bytes
    prefix: str
    descriptors: DescriptorCache
    dev: int = 0
    ino: int = 0
    uuid: bytes = bytes(16)
    ambiguous: bool = False
    private: bool = False
    handles: bool = False
    ordered: bool = False
    stack_depth: int = 0
    stackable: bool = False
    has_flags: bool = True
    has_marks: bool = True
    fs_index: int = 0
    root: RealDir = field(init=False)
    below: tuple[Layer, ...] = ()
    follow: bool = False
    metacopy: bool = False
    data_layers: tuple[Layer, ...] = ()
    override: Override | None = None
    traps: frozenset[tuple[int, int]] = frozenset()
    nobody: tuple[int, int] | None = None
    base: Fd | None = None
    readable: Fd | None = None

    @property
    def is_upper(self) -> bool:
        return self.number == 0

    def adopt_root(self, fd: int) -> None:
        """Take `fd` as the root directory and learn what its filesystem can do."""
        self.root = RealDir(self, None, b"", fd)
        found = stat.stat(fd)
        self.dev, self.ino = found.dev, found.ino
        self.override = detect(fd)
        self.handles = handle.encode(fd, b"") is not None
        self.readable = Fd(os.open(procfs.fd_path(fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        self.uuid = handle.filesystem_uuid(self.readable.fileno())
        kind = fs.statfs(fd).type
        self.ordered = kind == fs.XFS_SUPER_MAGIC or (kind == fs.EXT4_SUPER_MAGIC and _has_journal(self.dev))
        self.has_flags = kind != fs.EROFS_SUPER_MAGIC
        self.stackable = kind in _LEAST_DEPTH
        self.stack_depth = _LEAST_DEPTH.get(kind, 0)

    def open_origin(self, origin: marks.Origin) -> int:
        """An O_PATH descriptor of the inode an origin names.  Raises OSError (ESTALE, EPERM) when it can't be had."""
        assert self.readable is not None
        return handle.open_handle(self.readable.fileno(), origin.handle, os.O_PATH)

    def close(self) -> None:
        self.root.release()
        for owner in (self.base, self.readable):
            if owner is not None:
                owner.close()


def _has_journal(dev: int) -> bool:
    """Has the ext4 filesystem on the device a journal?  ext2 has the same magic number, and ext4 may be made without."""
    try:
        device = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}"))
        return any(name.startswith((f"{device}-", f"{device}:")) for name in os.listdir("/proc/fs/jbd2"))
    except OSError:
        return False


def open_directory(path: bytes, option: str) -> int:
    """An O_PATH descriptor of the directory a user named.  Raises LayerError with the option and the path."""
    shown = os.fsdecode(path)
    try:
        return os.open(path, _OPEN)
    except NotADirectoryError:
        raise LayerError(f"{option}: {shown} is not a directory") from None
    except FileNotFoundError:
        raise LayerError(f"{option}: {shown} does not exist; create it or correct the path") from None
    except OSError as error:
        raise LayerError(f"{option}: {shown} can't be opened: {error.strerror}") from None


def open_lower(number: int, path: bytes, prefix: str, descriptors: DescriptorCache, option: str = "lowerdir") -> Layer:
    """Open a lower layer through a read-only clone of its mount, or as it is where no clone can be had."""
    layer = Layer(number, path, prefix, descriptors)
    fd = open_directory(path, option)
    try:
        os.close(os.open(procfs.fd_path(fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        os.close(fd)
        raise LayerError(f"{option}: {os.fsdecode(path)} can't be read: {error.strerror}") from None
    try:
        clone = mount.private_clone(fd, read_only=True)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            os.close(fd)
            raise LayerError(f"{option}: the mount of {os.fsdecode(path)} can't be cloned: {error.strerror}") from None
        layer.adopt_root(fd)
        return layer
    os.close(fd)
    layer.private = True
    layer.adopt_root(clone)
    return layer


def open_upper(upper: bytes, work: bytes, prefix: str, descriptors: DescriptorCache, atime: int) -> tuple[Layer, int]:
    """Open the upper layer and its work directory through one private clone; the layer and the work directory's descriptor.

    Both have to lie on one mount, or no rename between them could be made.  `atime`: what reading does to their access times.
    """
    upper_fd = open_directory(upper, "upperdir")
    try:
        work_fd = open_directory(work, "workdir")
        try:
            _check_pair(upper_fd, upper, work_fd, work)
            layer = Layer(0, upper, prefix, descriptors)
            upper_clone, work_clone = _clone_pair(layer, upper_fd, work_fd, atime)
        finally:
            os.close(work_fd)
    finally:
        os.close(upper_fd)
    layer.adopt_root(upper_clone)
    return layer, work_clone


def _check_pair(upper_fd: int, upper: bytes, work_fd: int, work: bytes) -> None:
    upper_stat, work_stat = stat.stat(upper_fd), stat.stat(work_fd)
    shown_upper, shown_work = os.fsdecode(upper), os.fsdecode(work)
    if upper_stat.dev != work_stat.dev:
        raise LayerError(
            f"workdir: {shown_work} is on another filesystem than upperdir {shown_upper}; put both on the same one"
        )
    if upper_stat.mnt_id != work_stat.mnt_id:
        raise LayerError(f"workdir: {shown_work} is on another mount than upperdir {shown_upper}; put both on the same one")
    if os.fstatvfs(upper_fd).f_flag & os.ST_RDONLY:
        raise LayerError(f"upperdir: {shown_upper} is on a read-only mount; leave upperdir and workdir out for a read-only union")
    inner, outer = real_path(work_fd), real_path(upper_fd)
    if is_within(inner, outer) or is_within(outer, inner):
        raise LayerError(f"workdir: {shown_work} and upperdir {shown_upper} overlap; use two directories side by side")


def _clone_pair(layer: Layer, upper_fd: int, work_fd: int, atime: int) -> tuple[int, int]:
    upper_path, work_path = real_path(upper_fd), real_path(work_fd)
    common = os.path.commonpath([upper_path, work_path])
    base = os.open(common, _OPEN)
    try:
        if stat.stat(base).mnt_id != stat.stat(upper_fd).mnt_id:
            raise OSError(errno.EINVAL, "covered by another mount")
        clone = mount.private_clone(base, read_only=False, atime=atime)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise LayerError(f"upperdir: its mount can't be cloned: {error.strerror}") from None
        return os.dup(upper_fd), os.dup(work_fd)
    finally:
        os.close(base)
    layer.private = True
    layer.base = Fd(clone)
    below = [os.path.relpath(path, common) for path in (upper_path, work_path)]
    flags = os.O_PATH | os.O_DIRECTORY
    return at.open_beneath(clone, below[0], flags), at.open_beneath(clone, below[1], flags)


def real_path(fd: int) -> bytes:
    """The path of an open directory with every symlink resolved."""
    return os.readlink(procfs.fd_path(fd))


def is_within(inner: bytes, outer: bytes) -> bool:
    """Is `inner` the directory `outer` or below it?  Both resolved."""
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")


def takes_marks(dir_fd: int, name: bytes, prefix: str, shown: str) -> bool:
    """Can the marks be written where `name` lies?  False where the filesystem has no such xattrs.

    Raises LayerError that says what would help.
    """
    try:
        xattr.write(dir_fd, name, prefix + "opaque", b"0")
        xattr.remove(dir_fd, name, prefix + "opaque")
    except OSError as error:
        if error.errno == errno.EPERM and prefix == marks.TRUSTED:
            raise LayerError(
                f"upperdir: {shown}: no permission for xattrs {prefix}*; mount with -o userxattr to use user.overlay.*"
            ) from None
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise LayerError(f"upperdir: {shown}: xattrs {prefix}* can't be written: {error.strerror}") from None
    return True
