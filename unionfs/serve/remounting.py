"""How are the flags of a live union changed?  What `mount -o remount` asks for.

The kernel keeps the flags and enforces them before it asks the server, which is not told and need not be: a union with an
upper layer is always ready for changes.  Options other than the flags stay as they were mounted, as in overlayfs.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from unionfs.linux import mount, mountinfo
from unionfs.serve.errors import MountError
from unionfs.serve.mounting import TYPE

_WHY: Final = {
    errno.EPERM: "only root may do that",
    errno.EBUSY: "a file in it is open for writing; `fuser -vm {shown}` says by whom",
}


def remount(mountpoint: bytes, flags: int, *, read_only: bool) -> None:
    """Give the union on that path, absolute and without symlinks, these MS_* bits; when access times are written stays if
    none says so.

    Raises MountError when there is no union, or it can't have them; it then has the former ones.
    """
    before = mountinfo.topmost(mountpoint)
    if before is None or before.kind != TYPE:
        raise MountError(f"remount: no union is mounted on {os.fsdecode(mountpoint)}; mount it without this option")
    _change(mountpoint, flags | (mount.MS_RDONLY if read_only else 0))
    if read_only:
        return
    try:
        # Changes nothing; but a union without an upper layer refuses even that.
        os.chown(mountpoint, -1, -1)
    except OSError as error:
        if error.errno != errno.EROFS:
            return
        _change(mountpoint, before.flags())
        raise MountError(f"remount: {os.fsdecode(mountpoint)} has no upper layer and stays read-only") from None


def _change(mountpoint: bytes, flags: int) -> None:
    try:
        mount.mount(b"none", mountpoint, b"none", flags | mount.MS_REMOUNT, b"")
    except OSError as error:
        shown = os.fsdecode(mountpoint)
        why = _WHY.get(error.errno or 0, (error.strerror or str(error)).lower()).format(shown=shown)
        raise MountError(f"remount: {shown} can't be changed: {why}") from None
