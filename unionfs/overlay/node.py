"""What is an inode of the union?  `Node` and `DirNode`: identity, place in the layers, names.

A node is addressed on disk as (directory descriptor, name), or by a descriptor of its own once it has no name left.
"""

from __future__ import annotations

import os
import stat as modes
from typing import TYPE_CHECKING, Any, Final

from unionfs.linux import at

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.merge import MergedIndex
    from unionfs.overlay.metacopy import Data
    from unionfs.overlay.origins import Links
    from unionfs.overlay.realdir import RealDir

#: What is kept of an upper object's protections has not been read yet.
UNKNOWN: Final = -1
#: So many system calls a directory's lookups may take before an index is thought of.
FEW_PROBES: Final = 16


class Node:
    """An object that is not a directory, known to the kernel by its nodeid.

    nodeid: the kernel's name for it, never used twice in the life of a mount.  lookups: how often the kernel was told of it.
    kind: its S_IFMT bits.  ino: the inode number users see.  parent, name: one of its names in the union.
    aliases: its other known names.  real_dir, real_name: the place of that name's object on its layer.
    upper: that object is on the upper layer.  unlinked: no name is left in the union.
    fd: an O_PATH descriptor of the object, instead of a place, when it has no known name on its layer.
    link_ino: the upper inode's number while the node is in the table of those with several names, else 0.
    data: where its data are, if not in that object.
    links: what it has if it stands for all names of a lower inode (index=on); its place is then none of its names', but that
    of the lower object or the index entry.
    protected: statx(2) bits of immutable and append-only kept for it on the upper layer, or UNKNOWN (see `protect`).
    attachment: whatever the server keeps with a node (open files, backing file).
    former_ids: nodeids it had before it was split (`Inodes.split`), by which the kernel still knows it.
    """

    __slots__ = (
        "aliases", "attachment", "data", "fd", "former_ids", "ino", "kind", "link_ino", "links", "lookups", "name", "nodeid",
        "parent", "protected", "real_dir", "real_name", "unlinked", "upper",
    )  # fmt: skip

    def __init__(self, kind: int, ino: int, parent: DirNode | None, name: bytes, real_dir: RealDir | None, upper: bool) -> None:
        self.nodeid = 0
        self.lookups = 0
        self.kind = kind
        self.ino = ino
        self.parent = parent
        self.name = name
        self.aliases: list[tuple[DirNode, bytes]] | None = None
        self.real_dir = real_dir
        self.real_name = name
        self.upper = upper
        self.unlinked = False
        self.fd = -1
        self.link_ino = 0
        self.links: Links | None = None
        self.protected = 0
        self.data: Data | None = None
        self.attachment: Any = None
        self.former_ids: tuple[int, ...] = ()

    @property
    def is_dir(self) -> bool:
        return self.kind == modes.S_IFDIR

    @property
    def is_regular(self) -> bool:
        return self.kind == modes.S_IFREG

    @property
    def is_symlink(self) -> bool:
        return self.kind == modes.S_IFLNK

    @property
    def data_upper(self) -> bool:
        """Are a file's data on the upper layer?  Their place can change no more then."""
        return self.upper and self.data is None

    def at(self) -> tuple[int, bytes]:
        """(descriptor, name) for the *at system calls; an empty name means the descriptor's own object."""
        if self.fd >= 0:
            return self.fd, b""
        assert self.real_dir is not None
        return self.real_dir.fd(), self.real_name

    def layer(self) -> Layer:
        """The layer that holds the object, of a directory's objects the topmost."""
        assert self.real_dir is not None
        return self.real_dir.layer

    def pin(self) -> None:
        """Hold the object by a descriptor, before its name goes."""
        if self.fd < 0:
            self.fd = at.open_at(*self.at(), os.O_PATH)

    def unpin(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def hold(self, fd: int) -> None:
        """Take over `fd` as the object's descriptor."""
        self.unpin()
        self.fd = fd

    def place(self, parent: DirNode, name: bytes) -> None:
        """Name the object's place: `name` in `parent`, which is on the upper layer unless the node has `links`."""
        self.unpin()
        self.parent = parent
        self.name = name
        if self.links is None:
            self.real_dir = parent.upper_dir
            self.real_name = name
        else:
            self.links.shown = False


class DirNode(Node):
    """A directory: the real directories that merge into it, the topmost first.

    reals[0] is on the upper layer exactly when `upper` is set.  children: the nodes the kernel knows in it, by name.
    index: all its names, once it was listed.
    probes: system calls spent on lookups through several layers; at probe_limit it is asked whether the index would pay.
    size: bytes of the real directories when they were last asked for it, -1 when they were not.
    """

    __slots__ = ("children", "index", "probe_limit", "probes", "reals", "size")

    def __init__(self, ino: int, parent: DirNode | None, name: bytes, reals: tuple[RealDir, ...], upper: bool) -> None:
        super().__init__(modes.S_IFDIR, ino, parent, name, reals[0].parent, upper)
        self.reals = reals
        self.children: dict[bytes, Node] = {}
        self.index: MergedIndex | None = None
        self.probes = 0
        self.probe_limit = FEW_PROBES
        self.size = -1

    def at(self) -> tuple[int, bytes]:
        """(descriptor of the topmost real directory, empty name)."""
        return (self.fd if self.fd >= 0 else self.reals[0].fd()), b""

    def layer(self) -> Layer:
        return self.reals[0].layer

    @property
    def upper_dir(self) -> RealDir:
        """The real directory on the upper layer, which must exist."""
        assert self.upper
        return self.reals[0]

    @property
    def lower_dirs(self) -> tuple[RealDir, ...]:
        """The real directories below the upper layer."""
        return self.reals[1:] if self.upper else self.reals

    @property
    def is_merged(self) -> bool:
        return len(self.reals) > 1

    def place(self, parent: DirNode, name: bytes) -> None:
        real_dir = parent.upper_dir
        self.parent = parent
        self.name = name
        self.real_dir = real_dir
        self.real_name = name
        moved = self.reals[0]
        moved.parent = real_dir
        moved.name = name
