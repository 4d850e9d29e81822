"""How does a layer keep owner, mode and type of what its filesystem can't?  An xattr beside the object, `override_stat`.

The value is `UID:GID:MODE` or `UID:GID:MODE:TYPE`, ids decimal, the mode octal.  TYPE is `dir`, `file`, `pipe`, `socket`,
`block-MAJOR-MINOR` or `char-MAJOR-MINOR`; some write `blockMAJOR:MINOR`.  It counts for directories and regular files, and a
regular file may stand for a device, FIFO or socket; all else is what it is (fuse-overlayfs(1), xattr_permissions;
containers-storage.conf(5), force_mask).  A layer has such marks if its root has one.
"""

from __future__ import annotations

import errno
import os
import re
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import at, creds, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay.config import UnionConfig, XattrPermissions
from unionfs.overlay.errors import LayerError
from unionfs.overlay.owners import give_away

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.node import Node

PRIVILEGED: Final = "security.fuseoverlayfs.override_stat"
CONTAINERS: Final = "user.containers.override_stat"
#: What fuse-overlayfs wrote up to version 1.10 with xattr_permissions=2.
USER: Final = "user.fuseoverlayfs.override_stat"
_IN_ORDER: Final = (PRIVILEGED, CONTAINERS, USER)
_ATTRIBUTES: Final = {XattrPermissions.SECURITY: (PRIVILEGED,), XattrPermissions.USER: (CONTAINERS, USER)}

#: The real mode of an object whose mode is in its mark: whoever may reach the layer past the union is kept out of it.
_REAL_MODE: Final = 0o700
_VALUE: Final = re.compile(rb"(-?\d{1,10}):(-?\d{1,10}):([0-7]{1,7})(?::([a-z]+)(?:-?(\d{1,10})[-:](\d{1,10}))?)?\0?")
_WORDS: Final = {
    modes.S_IFDIR: "dir", modes.S_IFREG: "file", modes.S_IFLNK: "symlink", modes.S_IFIFO: "pipe", modes.S_IFSOCK: "socket",
    modes.S_IFBLK: "block", modes.S_IFCHR: "char",
}  # fmt: skip
_KINDS: Final = {word.encode(): kind for kind, word in _WORDS.items()}
_DEVICES: Final = (modes.S_IFBLK, modes.S_IFCHR)
#: A regular file may stand for one of these.
_STOOD_FOR: Final = (modes.S_IFIFO, modes.S_IFSOCK, *_DEVICES)


def decode(value: bytes, found: Stat) -> Stat:
    """The stat of an object that really has `found` and the mark `value`.  Raises EINVAL for a value without sense."""
    parts = _VALUE.fullmatch(value)
    if parts is None:
        raise OSError(errno.EINVAL, "damaged override_stat")
    kind, rdev = found.mode & 0o170000, (found.rdev_major, found.rdev_minor)
    if parts[4] is not None:
        meant = _KINDS.get(parts[4])
        if meant is None or (meant in _DEVICES) != (parts[5] is not None):
            raise OSError(errno.EINVAL, "damaged override_stat")
        if kind == modes.S_IFREG and meant in _STOOD_FOR:
            kind = meant
            rdev = (int(parts[5]), int(parts[6])) if meant in _DEVICES else (0, 0)
    # fuse-overlayfs writes ids as signed numbers of 32 bits.
    uid, gid = int(parts[1]) & 0xFFFFFFFF, int(parts[2]) & 0xFFFFFFFF
    return found._replace(
        uid=uid, gid=gid, mode=kind | int(parts[3], 8) & 0o7777, rdev_major=rdev[0], rdev_minor=rdev[1]
    )


def encode(mode: int, uid: int, gid: int, rdev: int) -> bytes:
    """The mark for an object with that st_mode, owner and, if it is a device, number."""
    kind = mode & 0o170000
    device = f"-{os.major(rdev)}-{os.minor(rdev)}" if kind in _DEVICES else ""
    return f"{uid}:{gid}:{mode & 0o7777:04o}:{_WORDS[kind]}{device}".encode()


class Override:
    """The marks of one layer, all of one name.

    Where one is written, the caller has the object on the upper layer.
    """

    __slots__ = ("_able", "attribute")

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute
        self._able: bool | None = None

    @property
    def isolates(self) -> bool:
        """Are xattrs that mean something to the system kept under other names, too (see `isolation`)?"""
        return self.attribute == CONTAINERS

    def apply(self, dir_fd: int, name: bytes, found: Stat) -> Stat:
        """The stat that is meant by an object which really has `found`, or is known to be meant by that already.

        Raises EINVAL for a damaged mark.
        """
        if found.mode & 0o170000 not in (modes.S_IFREG, modes.S_IFDIR):
            return found
        value = xattr.find(dir_fd, name, self.attribute)
        return found if value is None else decode(value, found)

    def keep(self, here: tuple[int, bytes], mode: int, uid: int, gid: int, rdev: int = 0) -> None:
        """Give a new object, which nobody sees yet, its owner and st_mode.

        What can carry no mark gets them as far as this process may give them.
        """
        if is_markable(stat.stat(*here)):
            self._write(here, mode, uid, gid, rdev)
            at.chmod(*here, _REAL_MODE)
            return
        give_away(here, uid, gid, lenient=True)
        if mode & 0o170000 != modes.S_IFLNK:
            at.chmod(*here, mode & 0o7777)

    def make_special(self, dir_fd: int, name: bytes, mode: int, rdev: int) -> None:
        """A new device, FIFO or socket, or where this process may not make or give away one, a regular file to stand for it."""
        if self._able is None:
            # Who may make devices and give away files needs no regular files that stand for them, which not everybody reads.
            self._able = creds.has_capability(creds.CAP_CHOWN) and creds.in_initial_user_namespace()
        if self._able:
            try:
                os.mknod(name, mode, rdev, dir_fd=dir_fd)
                return
            except PermissionError:
                self._able = False
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=dir_fd))

    def chmod(self, here: tuple[int, bytes], mode: int) -> None:
        """chmod(2)."""
        real = stat.stat(*here)
        if not is_markable(real):
            at.chmod(*here, mode)
            return
        meant = self.apply(*here, real)
        self._write(here, meant.mode & 0o170000 | mode & 0o7777, meant.uid, meant.gid, meant.rdev)

    def chown(self, here: tuple[int, bytes], uid: int, gid: int) -> None:
        """chown(2), with what it does to set-id bits and capabilities of a file; -1 keeps an id."""
        real = stat.stat(*here)
        if not is_markable(real):
            give_away(here, uid, gid, lenient=True)
            return
        meant = self.apply(*here, real)
        mode = meant.mode
        if mode & 0o170000 != modes.S_IFDIR:
            mode &= ~modes.S_ISUID
            if mode & modes.S_IXGRP:
                mode &= ~modes.S_ISGID
        self._write(here, mode, meant.uid if uid == -1 else uid, meant.gid if gid == -1 else gid, meant.rdev)

    def _write(self, here: tuple[int, bytes], mode: int, uid: int, gid: int, rdev: int) -> None:
        xattr.write(*here, self.attribute, encode(mode, uid, gid, rdev))


def is_markable(real: Stat) -> bool:
    """Can the object carry a mark?  Others have no `user.` xattrs, and in them nobody looks for one (xattr(7))."""
    return real.mode & 0o170000 in (modes.S_IFREG, modes.S_IFDIR)


def real_stat(node: Node) -> Stat:
    """The stat of the node's object, as its layer means it; `ino` and `nlink` are the layer's own."""
    here = node.at()
    found = stat.stat(*here)
    override = node.layer().override
    return found if override is None else override.apply(*here, found)


def detect(root: int) -> Override | None:
    """What the root directory of a layer says of the others in it."""
    names = xattr.names(root, b"")
    for attribute in _IN_ORDER if names else ():
        if attribute in names:
            return Override(attribute)
    return None


def check_roots(layers: list[Layer]) -> None:
    """Raises LayerError for a layer whose root says that it has marks, by one without sense."""
    for layer in layers:
        if layer.override is not None:
            try:
                _root_stat(layer, layer.override)
            except OSError:
                where = f"{os.fsdecode(layer.path)}: the xattr {layer.override.attribute} of the layer's root"
                raise LayerError(f"{where} is damaged; set it to UID:GID:MODE:dir, or remove it") from None


def _root_stat(layer: Layer, override: Override) -> Stat:
    root = layer.root.fd()
    return override.apply(root, b"", stat.stat(root))


def settle(config: UnionConfig, upper: Layer, lowers: list[Layer]) -> None:
    """What `xattr_permissions` asks of the upper layer, whose root is marked if it is not yet.

    An upper layer with marks goes on having them.  Raises LayerError where they are others than those asked for, or can't be.
    """
    if config.xattr_permissions is XattrPermissions.OFF:
        return
    attributes = _ATTRIBUTES[config.xattr_permissions]
    shown = os.fsdecode(upper.path)
    asked = f"xattr_permissions={config.xattr_permissions.value}"
    if upper.override is not None:
        if upper.override.attribute not in attributes:
            raise LayerError(f"{asked}: {shown} was written with another value ({upper.override.attribute}); leave it out")
        return
    root = (upper.root.fd(), b"")
    like = next((layer for layer in lowers if layer.override is not None), None)
    meant = stat.stat(*root) if like is None or like.override is None else _root_stat(like, like.override)
    try:
        xattr.write(*root, attributes[0], encode(meant.mode, meant.uid, meant.gid, 0))
    except OSError as error:
        advice = "use xattr_permissions=2" if error.errno == errno.EPERM and attributes[0] == PRIVILEGED else "leave it out"
        raise LayerError(f"{asked}: {shown} takes no xattr {attributes[0]} ({error.strerror}); {advice}") from None
    upper.override = Override(attributes[0])
