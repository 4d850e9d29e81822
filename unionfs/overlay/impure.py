"""Which upper directories hold objects that were copied up?  Those with the mark `overlay.impure`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionfs.overlay import asowner
from unionfs.overlay.node import DirNode

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def set_impure(union: Union, parent: DirNode) -> None:
    """Note on the upper directory that it holds objects with an origin; nothing where there are no marks."""
    upper = parent.upper_dir
    if union.has_marks and not upper.marks().impure:
        asowner.write(upper.fd(), b"", union.prefix + "impure", b"y")
        upper.note_impure()
