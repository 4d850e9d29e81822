"""Which lower layers lie on an idmapped mount?  An owner whom its mapping leaves out looks there like the kernel's `nobody`.

Such an object can't be copied up, or it would be given away to that user (fs/overlayfs/copy_up.c, ovl_copy_up_one: EOVERFLOW).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from unionfs.linux import mountinfo, stat
from unionfs.linux.stat import Stat
from unionfs.overlay.idmap import overflow_id
from unionfs.overlay.layer import Layer


def note(opened: Iterable[Layer]) -> None:
    """Have such layers know the ids of `nobody`."""
    idmapped = {int(entry.mount_id) for entry in mountinfo.entries() if b"idmapped" in entry.options}
    if not idmapped:
        return
    for layer in opened:
        if not layer.is_upper and _mount_of(layer.path) in idmapped:
            layer.nobody = overflow_id("uid"), overflow_id("gid")


def _mount_of(path: bytes) -> int:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return stat.stat(fd).mnt_id
    finally:
        os.close(fd)


def check(layer: Layer, found: Stat) -> None:
    """Raises EOVERFLOW for an object of the layer whose owner or group can't be known."""
    nobody = layer.nobody
    if nobody is not None and (found.uid == nobody[0] or found.gid == nobody[1]):
        raise OSError(errno.EOVERFLOW, "the owner has no id on the layer's idmapped mount")
