"""What does a name in a merged directory stand for?  Resolution through the layers, from the top.

The search ends at a whiteout, at an opaque directory and at anything that is not a directory; directories merge
(overlayfs.rst, "Directories", "whiteouts and opaque directories").
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs.linux import stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import dirindex, links, marks, merge, metacopy, redirect, traps
from unionfs.overlay.merge import IndexEntry
from unionfs.overlay.metacopy import Data
from unionfs.overlay.node import UNKNOWN, DirNode, Node
from unionfs.overlay.override import real_stat
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

_S_IFDIR: Final = modes.S_IFDIR
_S_IFREG: Final = modes.S_IFREG
_KINDS: Final = tuple([kind << 12 for kind in range(16)])
_new: Final = tuple.__new__
NAME_MAX: Final = 255


class Found(NamedTuple):
    """What the layers hold under a name, and the topmost's stat.

    reals: of a directory the real directories that it is made of, the topmost first; of anything else the one it lies in.
    data: where a file's data are, if not there.
    """

    reals: tuple[RealDir, ...]
    stat: Stat
    data: Data | None = None


def lookup(union: Union, parent: DirNode, name: bytes) -> tuple[Node, Stat] | None:
    """The node of `name` in `parent` and its stat as the layer has it; None when nothing shows.

    Raises ENAMETOOLONG; ENOENT in a directory that was removed; EPERM and the like from the layers.
    """
    known = parent.children.get(name)
    if known is not None:
        return known, real_stat(known)
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "name is longer than 255 bytes")
    if parent.unlinked or name.startswith(marks.MARKER):
        return None
    found = find(union, parent, name)
    if found is None:
        return None
    node = instantiate(union, parent, name, found)
    return node, stat_of(node, found)


def stat_of(node: Node, found: Found) -> Stat:
    """The stat of the node's object, which of several names' is not always that of the name."""
    return found.stat if node.links is None else real_stat(node)


def find(union: Union, parent: DirNode, name: bytes) -> Found | None:
    """Search all of the directory's layers, by its index where there is one."""
    index = parent.index
    if index is None and parent.is_merged:
        index = merge.worth_building(union, parent)
    if index is not None and index.ready:
        entry = index.names.get(name)
        if entry is None:
            return None
        return found_by(parent, entry, name)
    return search(parent.reals, name)


def found_by(parent: DirNode, entry: IndexEntry, name: bytes) -> Found | None:
    """What an entry of the parent's index stands for: one stat for what is no directory, whose layer the index has settled."""
    reals = entry.reals
    if entry.kind == _S_IFDIR:
        return search(reals, name, parent.reals)
    real = reals[0]
    here = stat.find(real.fd(), name)
    if here is None:
        return None
    layer = real.layer
    if layer.override is not None:
        return _overridden(real, name, here, parent.reals)
    if entry.kind == _S_IFREG and (not here.blocks or layer.metacopy or layer.data_layers or real.marks().impure):
        return _new(Found, (reals, here, metacopy.find(real, name, here, parent.reals)))
    return _new(Found, (reals, here, None))


def _overridden(real: RealDir, name: bytes, here: Stat, parents: Sequence[RealDir]) -> Found:
    """What is no directory, in a layer that has owners, modes and some types in xattrs."""
    assert real.layer.override is not None
    data = metacopy.find(real, name, here, parents) if here.mode & 0o170000 == _S_IFREG else None
    return Found((real,), real.layer.override.apply(real.fd(), name, here), data)


def find_below(union: Union, parent: DirNode, name: bytes) -> bool:
    """Would `name` show in `parent` if the upper layer had nothing of that name?"""
    lowers = parent.lower_dirs
    last = len(lowers) - 1
    for depth, real in enumerate(lowers):
        found = stat.find(real.fd(), name)
        if found is not None:
            return not real.is_whiteout(name, found)
        if depth != last and real.has_marker(name):
            return False
    return False


def search(reals: Sequence[RealDir], name: bytes, parents: Sequence[RealDir] | None = None) -> Found | None:
    """Walk real directories from the top.

    `parents`: all those the name's directory is made of, if `reals` are only those that hold the name.
    """
    found: list[RealDir] = []
    top: Stat | None = None
    last = len(reals) - 1
    for depth, real in enumerate(reals):
        here = stat.find(real.fd(), name)
        if here is not None:
            if here.mode & 0o170000 == _S_IFDIR:
                if real.layer.traps:
                    traps.check(real.layer, here)
                directory = RealDir(real.layer, real, name)
                found.append(directory)
                if top is None:
                    top = here if real.layer.override is None else real.layer.override.apply(real.fd(), name, here)
                if not real.layer.below:
                    break
                mark = marks.read_dir_marks(real.fd(), name, real.layer.prefix)
                directory.note_marks(mark)
                if mark.opaque or (depth == last and mark.redirect is None):
                    break
                if not real.layer.follow and real is (reals if parents is None else parents)[-1]:
                    # Below its directory there is nothing it could merge with: then overlayfs reads no redirect either.
                    break
                if stat.find(real.fd(), name + b"/" + marks.OPAQUE_MARKER) is not None:
                    break
                if mark.redirect is not None:
                    found.extend(_redirected(real, mark.redirect, reals if parents is None else parents))
                    break
            else:
                if top is None and not real.is_whiteout(name, here):
                    if real.layer.override is not None:
                        return _overridden(real, name, here, reals if parents is None else parents)
                    if here.mode & 0o170000 == _S_IFREG:
                        return Found((real,), here, metacopy.find(real, name, here, reals if parents is None else parents))
                    return Found((real,), here)
                break
        if depth != last and real.has_marker(name):
            break
    return Found(tuple(found), top) if top is not None else None


def _redirected(real: RealDir, value: bytes, parents: Sequence[RealDir]) -> Sequence[RealDir]:
    """What a redirect on a directory in `real` leads to in the layers below."""
    value = redirect.allowed(real.layer, value)
    if value.startswith(b"/"):
        return redirect.follow(real.layer, value)
    below = [parent for parent in parents if parent.layer.number > real.layer.number]
    further = search(below, value)
    return further.reals if further is not None and further.stat.mode & 0o170000 == _S_IFDIR else ()


def instantiate(union: Union, parent: DirNode, name: bytes, found: Found) -> Node:
    """The node for what was found: the one that already stands for that upper inode, or a new one."""
    real, here = found.reals[0], found.stat
    upper = real.layer.is_upper
    # Shared numbers: what is kept with every node is to take little memory.
    kind = _KINDS[here.mode >> 12]
    if kind == _S_IFDIR:
        return _directory(union, parent, name, found)
    if upper and union.inodes.hardlinks:
        # Even if it is the last name: the other one may be gone, and the file open by it.
        known = union.inodes.hardlinks.get(here.ino)
        if known is not None:
            adopt_name(known, parent, name)
            return known
    origins = None if upper or union.origins is None else links.index_for(union.origins, union.prefix, here)
    if origins is not None:
        known = union.inodes.by_origin.get((here.dev, here.ino))
        if known is not None:
            adopt_name(known, parent, name)
            return known
    node = Node(kind, union.inodes.number(real.layer, here.ino), parent, name, real, upper)
    node.protected = UNKNOWN if upper else 0
    if upper and parent.upper_dir.marks().impure:
        _recall_origin(union, node, here)
    if found.data is not None:
        node.data = found.data
        if upper and found.data.below.nlink == 1:
            node.ino = union.inodes.number(found.data.below.layer, found.data.below.ino)
    if upper and here.nlink > 1:
        union.inodes.note_link(node, here.ino)
    if origins is not None:
        links.adopt_lower(union, origins, node, here)
    union.inodes.enroll(node)
    parent.children[name] = node
    return node


def _directory(union: Union, parent: DirNode, name: bytes, found: Found) -> DirNode:
    reals = dirindex.merging(union, parent, found.reals)
    upper = reals[0].layer.is_upper
    node = DirNode(union.inodes.number(reals[0].layer, found.stat.ino), parent, name, reals, upper)
    if upper and len(reals) > 1:
        # A merged directory is known by its topmost lower part, so that its number outlives the copy-up.
        lower = reals[1]
        above = lower.parent
        here = stat.stat(above.fd(), lower.name) if above is not None else stat.stat(lower.fd())
        union.inodes.claim(node, union.inodes.number(lower.layer, here.ino))
    if len(reals) == 1:
        node.size = found.stat.size
    node.protected = UNKNOWN if upper else 0
    if upper and parent.upper_dir.marks().impure:
        _recall_origin(union, node, found.stat)
    union.inodes.enroll(node)
    parent.children[name] = node
    return node


def instantiate_unnamed(union: Union, fd: int, here: Stat) -> Node:
    """The node for an upper object that is no directory and none of whose names is known, open as `fd`, which it takes over."""
    upper = union.upper
    assert upper is not None
    if upper.override is not None:
        here = upper.override.apply(fd, b"", here)
    known = union.inodes.hardlinks.get(here.ino)
    if known is not None or here.mode & 0o170000 == _S_IFDIR:
        if known is None or not here.nlink:
            raise OSError(errno.ESTALE, "no such object any more")
        os.close(fd)
        return known
    node = Node(here.mode & 0o170000, union.inodes.number(upper, here.ino), None, b"", upper.root, True)
    node.fd = fd
    node.protected = UNKNOWN
    _recall_origin(union, node, here)
    union.inodes.note_link(node, here.ino)
    union.inodes.enroll(node)
    return node


def _recall_origin(union: Union, node: Node, found: Stat) -> None:
    """What the marks of a copied-up object say: the number of the lower one it was, its other names, what protects it."""
    here = node.at()
    names = xattr.names(*here)
    if union.prefix + "origin" in names and not (isinstance(node, DirNode) and node.is_merged):
        ino = union.inodes.origin_number(*here, union.prefix, node.kind)
        if ino is not None:
            union.inodes.claim(node, ino)
        if union.origins is not None and not node.is_dir:
            links.adopt_upper(union, union.origins, node, found)
    if union.prefix + "protattr" not in names:
        node.protected = 0


def adopt_name(node: Node, parent: DirNode, name: bytes) -> None:
    """Another name of a node became known."""
    parent.children[name] = node
    if node.fd >= 0 or node.parent is None:
        node.unlinked = False
        node.place(parent, name)
    elif (node.parent, node.name) != (parent, name):
        if node.aliases is None:
            node.aliases = []
        node.aliases.append((parent, name))
