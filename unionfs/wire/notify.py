"""What does the server tell the kernel unasked? Notifications, each ready for one write to the device.

The header is that of a reply with id 0 and the code in place of the error. Writing one fails with ENOENT when the
kernel has nothing cached of the node or name, which is no fault; EINVAL when the kernel does not know the code.
"""

import struct
from collections.abc import Collection
from typing import Final

from unionfs.wire.abi import NotifyCode

_OUT = "=IiQ"
_HEADER: Final = struct.Struct(_OUT)
_POLL: Final = struct.Struct(_OUT + "Q")
_INVAL_INODE: Final = struct.Struct(_OUT + "Qqq")
_INVAL_ENTRY: Final = struct.Struct(_OUT + "QII")
_DELETE: Final = struct.Struct(_OUT + "QQI4x")
_STORE: Final = struct.Struct(_OUT + "QQI4x")
_RETRIEVE: Final = struct.Struct(_OUT + "QQQI4x")
_PRUNE: Final = struct.Struct(_OUT + "I12x")

_CODE_POLL: Final = int(NotifyCode.POLL)
_CODE_INVAL_INODE: Final = int(NotifyCode.INVAL_INODE)
_CODE_INVAL_ENTRY: Final = int(NotifyCode.INVAL_ENTRY)
_CODE_STORE: Final = int(NotifyCode.STORE)
_CODE_RETRIEVE: Final = int(NotifyCode.RETRIEVE)
_CODE_DELETE: Final = int(NotifyCode.DELETE)
_CODE_RESEND: Final = int(NotifyCode.RESEND)
_CODE_INC_EPOCH: Final = int(NotifyCode.INC_EPOCH)
_CODE_PRUNE: Final = int(NotifyCode.PRUNE)


def poll(kh: int) -> bytes:
    """POLL: wakes those who poll; `kh` from the POLL request."""
    return _POLL.pack(_POLL.size, _CODE_POLL, 0, kh)


def inval_inode(nodeid: int, off: int, length: int) -> bytes:
    """INVAL_INODE: forget attributes, ACLs, and cached data from `off`, `length` bytes of it (<= 0: to the end).

    A negative `off` leaves the data alone.
    """
    return _INVAL_INODE.pack(_INVAL_INODE.size, _CODE_INVAL_INODE, 0, nodeid, off, length)


def inval_entry(parent: int, name: bytes, flags: int = 0) -> bytes:
    """INVAL_ENTRY: drop the name from the directory's cache; with EXPIRE_ONLY in `flags`, ask again at its next use.

    The kernel takes the lock of the directory: never to be written from the thread that answers operations in it.
    """
    length = len(name)
    return _INVAL_ENTRY.pack(_INVAL_ENTRY.size + length + 1, _CODE_INVAL_ENTRY, 0, parent, length, flags) + name + b"\0"


def delete(parent: int, child: int, name: bytes) -> bytes:
    """DELETE: the name, if it still leads to the node `child`, is gone, as if unlinked through the mount."""
    length = len(name)
    return _DELETE.pack(_DELETE.size + length + 1, _CODE_DELETE, 0, parent, child, length) + name + b"\0"


def store_header(nodeid: int, offset: int, size: int) -> bytes:
    """STORE: `size` bytes, following in the same writev(2), go into the page cache at `offset`; the file may grow."""
    return _STORE.pack(_STORE.size + size, _CODE_STORE, 0, nodeid, offset, size)


def retrieve(notify_unique: int, nodeid: int, offset: int, size: int) -> bytes:
    """RETRIEVE: send cached data back in a NOTIFY_REPLY whose id is `notify_unique`."""
    return _RETRIEVE.pack(_RETRIEVE.size, _CODE_RETRIEVE, 0, notify_unique, nodeid, offset, size)


def resend() -> bytes:
    """RESEND: send every request again that was read but not answered, with UNIQUE_RESEND in its id (7.40)."""
    return _HEADER.pack(_HEADER.size, _CODE_RESEND, 0)


def inc_epoch() -> bytes:
    """INC_EPOCH: ask again for every cached name at its next use (7.44)."""
    return _HEADER.pack(_HEADER.size, _CODE_INC_EPOCH, 0)


def prune(nodeids: Collection[int]) -> bytes:
    """PRUNE: drop the unused names of these nodes, so that FORGETs follow (7.45)."""
    count = len(nodeids)
    header = _PRUNE.pack(_PRUNE.size + 8 * count, _CODE_PRUNE, 0, count)
    return header + struct.pack(f"={count}Q", *nodeids)
