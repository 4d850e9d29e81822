"""Which upper directory is the lower one by now?  Origins of merged directories, and with nfs_export their index entries.

A merged directory knows its topmost lower part by `overlay.origin`.  With nfs_export it merges with nothing else, and the index
says of every lower directory where on the upper layer it is (fs/overlayfs/namei.c, ovl_fix_origin, ovl_lookup_index;
copy_up.c, ovl_create_index).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as modes
from typing import TYPE_CHECKING

from unionfs.linux import at, xattr
from unionfs.overlay.creator import SERVER
from unionfs.overlay.impure import set_impure
from unionfs.overlay.node import DirNode, Node
from unionfs.overlay.origins import OriginIndex, entry_name, origin_of
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def merging(union: Union, parent: DirNode, reals: tuple[RealDir, ...]) -> tuple[RealDir, ...]:
    """Of the real directories found under a name in `parent` those that merge; one without an origin gets it.

    Raises EIO when the index knows the lower directory under another name (nfs_export).
    """
    origins = union.origins
    everything = origins is not None and origins.everything
    upper = reals[0] if reals[0].layer.is_upper else None
    if not everything and (upper is None or len(reals) == 1 or upper.marks().origin):
        return reals
    lower = reals[0] if upper is None else reals[1] if len(reals) > 1 else None
    if lower is None:
        return reals
    own = origin_of(lower.layer, lower.fd(), b"")
    if upper is not None:
        if not upper.marks().origin:
            _write_origin(union, parent, upper, own)
        elif everything and xattr.find(upper.fd(), b"", union.prefix + "origin") != own:
            return reals[:1]
    if everything and origins is not None:
        _check_entry(origins, upper, own)
    return reals


def _write_origin(union: Union, parent: DirNode, upper: RealDir, own: bytes) -> None:
    """Best effort: what can't be marked has a number of its own after the next copy-up of its lower part."""
    if union.read_only:
        return
    with contextlib.suppress(OSError):
        xattr.write(upper.fd(), b"", union.prefix + "origin", own)
        upper.note_origin()
        set_impure(union, parent)


def _check_entry(origins: OriginIndex, upper: RealDir | None, own: bytes) -> None:
    if origins.find(own, modes.S_IFDIR) is None:
        return
    if upper is None:
        raise OSError(errno.EIO, "the lower directory is on the upper layer, under another name")
    value = xattr.find(origins.dir.fd(), entry_name(own), upper.layer.prefix + "upper")
    if value != origin_of(upper.layer, upper.fd(), b"", upper=True):
        raise OSError(errno.EIO, "the lower directory is on the upper layer in another place")


def add(union: Union, staged: bytes) -> bytes:
    """Before a directory that was copied up is published: put it in the index, if directories are there.

    `staged`: its name in the work directory.  Its origin, or nothing.
    """
    origins = union.origins
    if origins is None or not origins.everything:
        return b""
    staging = union.staging_area()
    origin = xattr.find(staging.work, staged, union.prefix + "origin")
    if not origin:
        return b""
    union.identity.assume(SERVER)
    name = staging.temporary()
    os.mkdir(name, 0, dir_fd=staging.work)
    try:
        own = origin_of(origins.dir.layer, staging.work, staged, upper=True)
        xattr.write(staging.work, name, union.prefix + "upper", own)
        at.rename(staging.work, name, origins.dir.fd(), entry_name(origin))
    except OSError:
        staging.discard(name)
        raise
    return origin


def origin_in_index(union: Union, node: Node | None) -> bytes:
    """By which origin the index knows a directory that is about to go; empty for all else."""
    if union.origins is None or not union.origins.everything or not isinstance(node, DirNode) or not node.upper:
        return b""
    return xattr.find(*node.at(), union.prefix + "origin") or b""
