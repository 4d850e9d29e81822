"""Which upper directories hold objects that were copied up?  Those with the mark `overlay.impure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs.linux import xattr
from unionfs.overlay.node import DirNode

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def set_impure(union: Union, parent: DirNode) -> None:
    """Note on the upper directory that it holds objects with an origin."""
    upper = parent.upper_dir
    if not upper.marks().impure:
        xattr.write(upper.fd(), b"", union.prefix + "impure", b"y")
        upper.note_impure()
