"""Where are a regular file's data, and how are they opened?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionfs.linux import at
from unionfs.overlay import metacopy, protect
from unionfs.overlay.attrs import MayKeep, kill_privileges
from unionfs.overlay.copyup import ensure_upper
from unionfs.overlay.node import Node

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


def is_settled(union: Union, node: Node) -> bool:
    """Can the place of the file's data no longer change while mounted?"""
    return node.data_upper or union.read_only


def prepare_open(union: Union, node: Node, flags: int, may_keep: MayKeep | None) -> None:
    """Before an open: copy up for writing, truncate for O_TRUNC, and drop privileges then unless `may_keep` is None.

    Raises EPERM where chattr(1) forbids the open, EROFS, CopyUpNeeded, and what a copy-up raises; ENOENT and EIO for data
    that are not there or not the right ones.
    """
    if node.data is not None:
        metacopy.check(union, node)
    writing = flags & os.O_ACCMODE != os.O_RDONLY
    truncating = bool(flags & os.O_TRUNC)
    if not writing and not truncating:
        return
    protect.check_open(node, appending=bool(flags & os.O_APPEND) and not truncating)
    ensure_upper(union, node, 0 if truncating else None)
    if truncating:
        fd = at.open_at(*node.at(), os.O_WRONLY | os.O_TRUNC)
        os.close(fd)
        if may_keep is not None:
            kill_privileges(union, node, may_keep)
            union.changed.append(node)


def open_path(node: Node) -> int:
    """An O_PATH descriptor of the real file, enough to register it with the kernel; the caller closes it."""
    return at.open_at(*metacopy.place(node), os.O_PATH)


def open_data(node: Node, writing: bool) -> int:
    """A descriptor for the file's data; the caller closes it."""
    return at.open_at(*metacopy.place(node), (os.O_RDWR if writing else os.O_RDONLY) | os.O_NONBLOCK)


def read_small(node: Node, limit: int, *, unseen: bool = False) -> bytes | None:
    """All data of a file of at most `limit` bytes, else None; `unseen`: without touching its access time, or None as well."""
    try:
        fd = at.open_at(*metacopy.place(node), os.O_RDONLY | os.O_NONBLOCK | (os.O_NOATIME if unseen else 0))
    except PermissionError:
        if unseen:
            return None
        raise
    try:
        data = os.pread(fd, limit + 1, 0) if os.fstat(fd).st_size <= limit else None
    finally:
        os.close(fd)
    return data if data is not None and len(data) <= limit else None


def read_start(node: Node, size: int) -> bytes:
    """The first `size` bytes of the file."""
    fd = open_data(node, False)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
