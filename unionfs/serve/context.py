"""What do all handlers share?  The union, what was negotiated, and the way to notify the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unionfs.overlay.union import Union
from unionfs.serve.config import SessionConfig


@dataclass(slots=True)
class Context:
    """valid: for how long names and attributes may be cached, in seconds and nanoseconds.  device: descriptor of /dev/fuse.
    flags: what INIT agreed on.  notify: sends a complete notification, whose failure does not matter.
    """

    union: Union
    config: SessionConfig
    valid: tuple[int, int]
    device: int
    notify: Callable[[list[bytes]], None]
    flags: int = 0
    max_write: int = 1 << 20
