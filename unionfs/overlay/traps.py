"""Which directories of a lower layer are not entered?  The upper layer and the work directory, where they lie in it.

Podman has them in the storage of the user whose home directory is a volume with `O`.  They show as names that can't be looked
up, so that no change is taken for something of a lower layer (fs/overlayfs/super.c, ovl_setup_trap: ELOOP).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from unionfs.linux.stat import Stat

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer


def check(layer: Layer, found: Stat) -> None:
    """Raises ELOOP for a directory of the layer that is one of those.  Only called where `layer.traps` has any."""
    if (found.dev, found.ino) in layer.traps:
        raise OSError(errno.ELOOP, "the upper layer or the work directory of this union")
