"""What do all handlers share?  The union, what was negotiated, and the notices to the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from unionfs.overlay.union import Union
from unionfs.serve.config import SessionConfig
from unionfs.serve.notices import Notices


@dataclass(slots=True)
class Context:
    """valid: for how long names and attributes may be cached, in seconds and nanoseconds.  device: descriptor of /dev/fuse.
    flags: what INIT agreed on.  notices: to the kernel.
    """

    union: Union
    config: SessionConfig
    valid: tuple[int, int]
    device: int
    notices: Notices
    flags: int = 0
    max_write: int = 1 << 20
