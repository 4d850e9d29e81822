"""Which names are one inode, though they lie on different layers?  Hard links that survive copy-up, by the index of origins.

With the index all names of a lower inode are one node.  It is copied up to its index entry, which stays its place on the upper
layer, and from there linked to the name by which it is known; the lower inode's other names show it as well
(fs/overlayfs/copy_up.c, ovl_link_up; namei.c, ovl_lookup_index; util.c, ovl_nlink_start).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from typing import TYPE_CHECKING

from unionfs.linux import at, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import marks, protect
from unionfs.overlay.config import Fsync
from unionfs.overlay.impure import set_impure
from unionfs.overlay.metacopy import Below, Data
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.origins import Links, OriginIndex, entry_name, find_origin, origin_of

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def index_for(origins: OriginIndex, prefix: str, here: Stat) -> OriginIndex | None:
    """The index, if it is to know a lower file, whose stat is `here`, by its origin once it is copied up.

    Symlinks and special files take no user. xattrs, and so no origin, without which an entry is damaged.
    """
    if here.nlink == 1 and not origins.everything:
        return None
    return None if prefix == marks.USER and here.mode & 0o170000 != modes.S_IFREG else origins


def adopt_lower(union: Union, origins: OriginIndex, node: Node, here: Stat) -> None:
    """A new node for a lower inode, whose stat is `here`: it is on the upper layer already if the index says so.

    One without a handle stays by itself.  Raises EIO (`OriginIndex.find`).
    """
    origin = origin_of(node.layer(), *node.at())
    if not origin:
        return
    entry = origins.find(origin, node.kind)
    found = Links(origin, (here.dev, here.ino), here.nlink)
    left = None
    if entry is not None:
        left = _data_left(union, origins.dir.metacopy(found.entry, entry), node, Below(node.layer(), here.ino, here.nlink))
    _register(union, node, found)
    if entry is not None:
        _move_to_entry(union, origins, node, entry)
        node.data = left
        links = node.links
        assert links is not None
        links.extra = origins.read_extra(links, entry)
        node.protected = protect.decode(xattr.find(*node.at(), union.prefix + "protattr"))


def _data_left(union: Union, mark: bytes | None, node: Node, below: Below) -> Data | None:
    """Where the data of a lower file are whose index entry has this metacopy mark.  Raises EPERM with metacopy=off."""
    if mark is None or not node.is_regular:
        return None
    if not union.config.metacopy:
        raise OSError(errno.EPERM, "metadata-only file, and metacopy is off")
    if node.data is not None:
        return node.data.seen_from(mark, below)
    return Data(mark, below, node.real_dir, node.real_name)


def adopt_upper(union: Union, origins: OriginIndex, node: Node, here: Stat) -> None:
    """A new node for an upper file with an origin, whose stat is `here`: it may stand for the lower inode's names too.

    One that was copied up without the index does not.  Raises EIO (`OriginIndex.find`).
    """
    value = xattr.find(*node.at(), union.prefix + "origin") or b""
    origin = marks.decode_origin(value)
    entry = None if origin is None else origins.find(value, node.kind)
    if origin is None or entry is None or entry.ino != here.ino:
        return
    found = find_origin(union.lowers, origin)
    if found is None:
        return
    layer, lower = found
    links = Links(value, (lower.dev, lower.ino), lower.nlink)
    _register(union, node, links)
    _move_to_entry(union, origins, node, entry)
    links.extra = origins.read_extra(links, entry)
    node.ino = union.inodes.number(layer, lower.ino)


def _register(union: Union, node: Node, links: Links) -> None:
    node.links = links
    union.inodes.by_origin[links.key] = node


def _move_to_entry(union: Union, origins: OriginIndex, node: Node, entry: Stat) -> None:
    """The node's place is its index entry from now on, whatever becomes of its names."""
    links = node.links
    assert links is not None
    node.unpin()
    node.upper = True
    node.real_dir = origins.dir
    node.real_name = links.entry
    union.inodes.note_link(node, entry.ino)


def publish(union: Union, node: Node, staged: tuple[int, bytes]) -> None:
    """The last step of a copy-up: `staged` (descriptor, empty name; or work directory, name) goes to the index, then to its name.

    What fails after the first of these does not undo it: the node is on the upper layer then.
    """
    links, origins = node.links, union.origins
    assert links is not None
    assert origins is not None
    at_entry = (origins.dir.fd(), links.entry)
    if staged[1]:
        at.rename(*staged, *at_entry, at.RENAME_NOREPLACE)
    else:
        at.link(*staged, *at_entry)
    entry = stat.stat(*at_entry)
    links.extra = links.lower - entry.nlink
    origins.write_extra(links, entry.nlink)
    _move_to_entry(union, origins, node, entry)
    union.changed.append(node)
    if union.config.fsync is Fsync.STRICT:
        union.sync_directory(origins.dir)
    if node.parent is not None and node.parent.upper:
        # It may be known by another name than when the copy-up began; the next change shows that one.
        link_up(union, node, node.parent, node.name)


def link_up(union: Union, node: Node, parent: DirNode, name: bytes) -> None:
    """Give a node in the index one of its names, which the lower inode has, on the upper layer too, where `parent` is."""
    links, origins = node.links, union.origins
    assert links is not None
    assert origins is not None
    upper = parent.upper_dir
    if stat.find(upper.fd(), name) is not None:
        links.shown = links.shown or (node.parent, node.name) == (parent, name)
        return
    set_impure(union, parent)
    before, count = stat.stat(upper.fd()), stat.stat(*node.at()).nlink
    origins.write_extra(links, count, by_lower=True)
    at.link(*node.at(), upper.fd(), name)
    links.extra -= 1
    links.shown = links.shown or (node.parent, node.name) == (parent, name)
    if parent.index is not None:
        parent.index.put(name, node.kind, node.ino, (upper,))
    # What fails from here on does not undo the copy-up, which users can see by now.
    with contextlib.suppress(OSError):
        at.utimens(upper.fd(), b"", (before.atime, before.atime_nsec), (before.mtime, before.mtime_nsec))
    origins.write_extra(links, count + 1)
    if union.config.fsync is Fsync.STRICT:
        union.sync_directory(upper)


def note_count(union: Union, node: Node) -> Stat:
    """Note the union's link count of a node in the index, as it is before a name comes or goes; the node's stat."""
    found = stat.stat(*node.at())
    if node.links is not None and union.origins is not None:
        union.origins.write_extra(node.links, found.nlink)
    return found


def keep_count(union: Union, node: Node) -> None:
    """A name has gone, but others are known: they count, though the lower inode may have got names that were never counted
    (fs/overlayfs/dir.c, ovl_drop_nlink).
    """
    if node.links is None or not node.upper:
        return
    least = 1 - stat.stat(*node.at()).nlink
    if node.links.extra < least:
        node.links.extra = least
        # The kernel has counted by itself.
        union.changed.append(node)


def is_gone(union: Union, node: Node) -> bool:
    """The last name of the node that was counted has gone: so does its index entry.

    False when the upper inode has more names, the lower one having got some while it was mounted: they are counted from now on
    (fs/overlayfs/util.c, ovl_cleanup_index).
    """
    links, origins = node.links, union.origins
    if links is None or origins is None:
        return True
    found = stat.find(origins.dir.fd(), links.entry)
    if found is not None and found.nlink > 1:
        links.extra = -1
        origins.write_extra(links, found.nlink)
        return False
    drop_entry(union, links.origin)
    return True


def drop_entry(union: Union, origin: bytes) -> None:
    """Remove an index entry; with nfs_export a whiteout takes its place.  What fails is left for the next mount."""
    origins = union.origins
    assert origins is not None
    try:
        if origins.everything and not union.staging_area().files:
            if stat.find(origins.dir.fd(), entry_name(origin)) is not None:
                staging = union.staging_area()
                origins.remove(origin, staging.work, staging.staged_whiteout())
        else:
            origins.remove(origin)
    except OSError as error:
        union.log.warning("index: %s could not be removed: %s", os.fsdecode(entry_name(origin)), error.strerror)
