"""Who has made a request?  The kernel says it with those that create something; of the others it may have to be looked up.

With FUSE_ALLOW_IDMAP one filesystem is mounted several times with different ids, and the header of a request that creates nothing
has no ids (fs/fuse/dev.c, fuse_get_req).
"""

from __future__ import annotations

from collections.abc import Callable

from unionfs.linux import creds
from unionfs.wire import abi
from unionfs.wire.kinds import Header

UNKNOWN = -1


def uid(header: Header) -> int:
    """The caller's filesystem uid as the server's user namespace has it; UNKNOWN when the caller can't be seen from here."""
    return header.uid if header.uid != abi.INVALID_UIDGID else creds.fsuid_of(header.pid)


def may_keep_set_ids(header: Header) -> Callable[[int], bool]:
    """Says of a group whether the caller is in it, or privileged (fs/inode.c, in_group_or_capable)."""

    def may_keep(gid: int) -> bool:
        return creds.is_in_group(header.pid, gid) or creds.has_capability(creds.CAP_FSETID, header.pid)

    return may_keep
