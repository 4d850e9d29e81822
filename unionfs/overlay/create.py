"""How does a name come into being?  Files, directories, devices, symlinks and links, over nothing or over a whiteout.

Over nothing the object is made straight in the upper directory.  Over a whiteout it is made in the work directory and
renamed onto it, so that the lower object of that name never shows; a directory is marked opaque first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, procfs, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import acl, marks, opaque, protect, redirect
from unionfs.overlay.config import RedirectDir, Xino
from unionfs.overlay.copyup import ensure_metadata, ensure_upper
from unionfs.overlay.creator import SERVER, Creator
from unionfs.overlay.impure import set_impure
from unionfs.overlay.links import note_count
from unionfs.overlay.lookup import NAME_MAX, adopt_name
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.override import Override, real_stat
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def create_file(union: Union, parent: DirNode, name: bytes, mode: int, who: Creator) -> tuple[Node, Stat, int]:
    """A new regular file: (node, stat, descriptor open for reading and writing).  Raises EEXIST, ENAMETOOLONG, EROFS, ..."""
    opened = -1

    def make(dir_fd: int, at_name: bytes) -> None:
        nonlocal opened
        opened = os.open(at_name, _CREATE, mode & 0o7777, dir_fd=dir_fd)

    try:
        node, found = _make(union, parent, name, modes.S_IFREG | mode & 0o7777, make, who)
    except OSError:
        if opened >= 0:
            os.close(opened)
        raise
    return node, found, opened


def make_node(union: Union, parent: DirNode, name: bytes, mode: int, rdev: int, who: Creator) -> tuple[Node, Stat]:
    """mknod(2).  Raises EPERM for a device that would be a whiteout."""
    if mode & 0o170000 == modes.S_IFCHR and rdev == 0:
        raise OSError(errno.EPERM, "a character device 0:0 is a whiteout")
    kind = mode if mode & 0o170000 else mode | modes.S_IFREG
    keeper = _keeper(union)
    if keeper is not None:
        return _make(union, parent, name, kind, lambda fd, at_name: keeper.make_special(fd, at_name, kind, rdev), who, rdev)
    return _make(union, parent, name, kind, lambda fd, at_name: os.mknod(at_name, kind, rdev, dir_fd=fd), who)


def make_directory(union: Union, parent: DirNode, name: bytes, mode: int, who: Creator) -> tuple[Node, Stat]:
    """mkdir(2)."""
    kind = modes.S_IFDIR | mode & 0o7777
    return _make(union, parent, name, kind, lambda fd, at_name: os.mkdir(at_name, mode & 0o7777, dir_fd=fd), who)


def make_symlink(union: Union, parent: DirNode, name: bytes, target: bytes, who: Creator) -> tuple[Node, Stat]:
    """symlink(2)."""
    kind = modes.S_IFLNK | 0o777
    return _make(union, parent, name, kind, lambda fd, at_name: os.symlink(target, at_name, dir_fd=fd), who)


def make_tmpfile(union: Union, parent: DirNode, mode: int, who: Creator) -> tuple[Node, Stat, int]:
    """open(2) with O_TMPFILE: (node without a name, stat, descriptor).  Raises EOPNOTSUPP where the upper layer has none."""
    _check_writable(parent)
    ensure_upper(union, parent)
    keeper = _keeper(union)
    if union.owners is not None:
        who = union.owners.creator(who)
    union.identity.assume(who if keeper is None else SERVER)
    fd = os.open(procfs.fd_path(parent.upper_dir.fd()), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode & 0o7777)
    upper = parent.upper_dir
    if keeper is not None:
        try:
            _inherit(upper, (fd, b""), modes.S_IFREG | mode & 0o7777, who)
        except OSError:
            os.close(fd)
            raise
    found = stat.stat(fd) if keeper is None else keeper.apply(fd, b"", stat.stat(fd))
    node = Node(modes.S_IFREG, union.inodes.number(upper.layer, found.ino), None, b"", upper, True)
    node.unlinked = True
    node.fd = os.dup(fd)
    union.inodes.enroll(node)
    return node, found, fd


def link(union: Union, node: Node, parent: DirNode, name: bytes) -> Stat:
    """link(2): `name` in `parent` becomes another name of the node, a lower file being copied up first."""
    check_name(name)
    protect.check_change(node)
    _check_writable(parent)
    ensure_metadata(union, node)
    ensure_upper(union, parent)
    upper = parent.upper_dir
    if node.data is not None:
        if node.parent is None:
            raise OSError(errno.ESTALE, "the directory of the only known name was forgotten")
        redirect.write_for_file(union, node, node.parent, node.name, same_parent=False)
    if note_count(union, node).ino != node.ino:
        # It has an origin: marked before the link is made, so that a failure leaves all as it was.
        set_impure(union, parent)
    try:
        at.link(*node.at(), upper.fd(), name)
    except FileExistsError:
        if not union.staging_area().is_whiteout(upper, name):
            raise
        staging = union.staging_area()
        staged = staging.temporary()
        at.link(*node.at(), staging.work, staged)
        try:
            staging.publish(staged, upper, name)
        except OSError:
            staging.discard(staged)
            raise
    union.staging_area().unmark(upper, name)
    node.unlinked = False
    adopt_name(node, parent, name)
    found = real_stat(node)
    if found.nlink > 1:
        union.inodes.note_link(node, found.ino)
    if parent.index is not None:
        parent.index.put(name, node.kind, node.ino, (upper,))
    return found


def check_name(name: bytes) -> None:
    """Raises ENAMETOOLONG, and EINVAL for a name that would be read as a mark."""
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "name is longer than 255 bytes")
    if name.startswith(marks.MARKER):
        raise OSError(errno.EINVAL, "names that begin with .wh. are reserved for whiteouts")


def _check_writable(parent: DirNode) -> None:
    if parent.unlinked:
        raise OSError(errno.ENOENT, "the directory was removed")
    protect.check_entry(parent, adding=True)


def _keeper(union: Union) -> Override | None:
    """What has owner and mode on the upper layer, if that is not the object itself."""
    return None if union.upper is None else union.upper.override


def _make(
    union: Union, parent: DirNode, name: bytes, mode: int, make: Callable[[int, bytes], None], who: Creator, rdev: int = 0
) -> tuple[Node, Stat]:
    """Make an object of `mode` (with its S_IFMT bits) by `make` and give it a node."""
    check_name(name)
    _check_writable(parent)
    ensure_upper(union, parent)
    upper = parent.upper_dir
    is_dir = mode & 0o170000 == modes.S_IFDIR
    marked = parent.is_merged and upper.has_marker(name)
    if union.owners is not None:
        who = union.owners.creator(who)
    if upper.layer.override is not None:
        _make_kept(union, parent, name, mode, make, who, rdev)
    elif marked and is_dir:
        union.identity.assume(who)
        _make_staged(union, upper, name, mode, make, who, over=False)
    else:
        union.identity.assume(who)
        try:
            make(upper.fd(), name)
        except FileExistsError:
            if not union.staging_area().is_whiteout(upper, name):
                raise
            _make_staged(union, upper, name, mode, make, who, over=True)
        else:
            if is_dir and parent.is_merged and _lowers_stay(union):
                # Nothing of that name lies below: said here, it need not be looked for again (fs/overlayfs/dir.c).
                with contextlib.suppress(OSError):
                    xattr.write(upper.fd(), name, union.prefix + "opaque", b"y")
    if marked:
        union.staging_area().unmark(upper, name)
    return _enroll(union, parent, name, upper)


def _make_kept(
    union: Union, parent: DirNode, name: bytes, mode: int, make: Callable[[int, bytes], None], who: Creator, rdev: int
) -> None:
    """The same where owner and mode are kept beside the object: both are there when it shows."""
    staging, upper = union.staging_area(), parent.upper_dir
    union.identity.assume(SERVER)
    over = staging.is_whiteout(upper, name)
    hides = over or (parent.is_merged and (upper.has_marker(name) or _lowers_stay(union)))
    _make_staged(union, upper, name, mode, make, who, over=over, hides=hides, rdev=rdev, flags=at.RENAME_NOREPLACE)


def _lowers_stay(union: Union) -> bool:
    """Whether the lower layers may not be changed between mounts either, given what the upper one says of them
    (fs/overlayfs/overlayfs.h, ovl_allow_offline_changes; overlayfs.rst, "Changes to underlying filesystems").
    """
    return union.redirects is RedirectDir.ON or union.config.xino is Xino.ON or union.origins is not None


def _enroll(union: Union, parent: DirNode, name: bytes, upper: RealDir) -> tuple[Node, Stat]:
    found = stat.stat(upper.fd(), name)
    if upper.layer.override is not None:
        found = upper.layer.override.apply(upper.fd(), name, found)
    kind = found.mode & 0o170000
    ino = union.inodes.number(upper.layer, found.ino)
    node: Node
    if kind == modes.S_IFDIR:
        directory = DirNode(ino, parent, name, (RealDir(upper.layer, upper, name),), True)
        directory.reals[0].note_new()
        node = directory
    else:
        node = Node(kind, ino, parent, name, upper, True)
    union.inodes.enroll(node)
    parent.children[name] = node
    if parent.index is not None:
        parent.index.put(name, kind, ino, (upper,))
    return node, found


def _make_staged(
    union: Union, upper: RealDir, name: bytes, mode: int, make: Callable[[int, bytes], None], who: Creator, *,
    over: bool, hides: bool = True, rdev: int = 0, flags: int = 0,
) -> None:  # fmt: skip
    """Make it in the work directory as if in `upper`.

    over: a whiteout of that name is there to be replaced; otherwise it gets its place with those `flags` of renameat2(2).
    hides: a directory hides what lies below.
    """
    staging = union.staging_area()
    staged = staging.temporary()
    make(staging.work, staged)
    try:
        _inherit(upper, (staging.work, staged), mode, who, rdev)
        is_dir = mode & 0o170000 == modes.S_IFDIR
        if is_dir and hides:
            opaque.mark(union, staging.work, staged)
        if over:
            flags = at.RENAME_EXCHANGE if is_dir else 0
        staging.publish(staged, upper, name, flags)
    except OSError:
        staging.discard(staged)
        raise
    if is_dir and over:
        staging.discard(staged)


def _inherit(upper: RealDir, here: tuple[int, bytes], mode: int, who: Creator, rdev: int = 0) -> None:
    """What the upper directory would have given the object: its group if setgid, its default ACL instead of the umask."""
    kind = mode & 0o170000
    keeper = upper.layer.override
    parent = stat.stat(upper.fd())
    wanted = mode & 0o7777 & ~who.umask
    default = None if kind == modes.S_IFLNK or keeper is not None else xattr.find(upper.fd(), b"", acl.DEFAULT)
    access = None
    if default is not None:
        wanted, access = acl.for_new_object(default, mode & 0o7777)
    if keeper is not None:
        parent = keeper.apply(upper.fd(), b"", parent)
        in_group = bool(parent.mode & modes.S_ISGID)
        wanted |= modes.S_ISGID if in_group and kind == modes.S_IFDIR else 0
        keeper.keep(here, kind | wanted, who.uid, parent.gid if in_group else who.gid, rdev)
        return
    if parent.mode & modes.S_ISGID:
        at.chown(*here, -1, parent.gid)
        if kind == modes.S_IFDIR:
            wanted |= modes.S_ISGID
    if kind == modes.S_IFLNK:
        return
    at.chmod(*here, wanted)
    if access is not None:
        xattr.write(*here, acl.ACCESS, access)
    if default is not None and kind == modes.S_IFDIR:
        xattr.write(*here, acl.DEFAULT, default)
