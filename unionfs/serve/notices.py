"""What does the server tell the kernel unasked?  That something it keeps is out of date, or a file's data ahead of a read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from unionfs.wire import notify

if TYPE_CHECKING:
    from unionfs.overlay.union import Union


class Notices(Protocol):
    """The notices that handlers give, by nodeid.  None of them fails: a kernel that knows nothing of the node needs none."""

    def attributes_changed(self, nodeid: int) -> None:
        """The kernel has to ask for the node's attributes again."""

    def contents_changed(self, nodeid: int) -> None:
        """Also for its data, or for a directory's listing."""

    def store(self, nodeid: int, offset: int, data: bytes) -> None:
        """Put a file's data into the page cache, beginning at byte `offset`."""


class DeviceNotices:
    """Notices as messages.  send: writes a complete one to the device, whatever becomes of it."""

    __slots__ = ("_send",)

    def __init__(self, send: Callable[[list[bytes]], None]) -> None:
        self._send = send

    def attributes_changed(self, nodeid: int) -> None:
        self._send([notify.inval_inode(nodeid, -1, 0)])

    def contents_changed(self, nodeid: int) -> None:
        self._send([notify.inval_inode(nodeid, 0, 0)])

    def data_changed(self, nodeid: int, offset: int) -> None:
        """It has to ask for the node's attributes again, and for its data from byte `offset` on.

        What it holds back of those it writes first, and waits for the answers: so never from the loop.
        """
        self._send([notify.inval_inode(nodeid, offset, 0)])

    def store(self, nodeid: int, offset: int, data: bytes) -> None:
        self._send([notify.store_header(nodeid, offset, len(data)), data])

    def name_changed(self, parent: int, name: bytes, flags: int) -> None:
        """The name has to be looked up again.

        The kernel takes the directory's lock for that, which a caller may hold while it waits for our answer: so never from
        the loop.  flags: EXPIRE_ONLY where the kernel has it.
        """
        self._send([notify.inval_entry(parent, name, flags)])


def tell_changes(union: Union, notices: Notices) -> None:
    """The kernel's attributes of copied-up objects are out of date; said before the reply, whose own are newer."""
    for node in union.changed:
        notices.attributes_changed(node.nodeid)
    union.changed.clear()
    for directory in union.relisted:
        notices.contents_changed(directory.nodeid)
    union.relisted.clear()
