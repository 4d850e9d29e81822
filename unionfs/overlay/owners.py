"""Whose are the objects, to users and on the layers?  Mapped and squashed ids, at the border between the union and its users.

Everything inside the union deals with the ids of the layers.  What is shown goes through `shown`, what users say through
`creator`, `uid` and `gid`, and the ids in access control lists through `acl_shown` and `acl_stored`.  Source: fuse-overlayfs(1),
uidmapping, gidmapping, squash_to_root, squash_to_uid, squash_to_gid, static_nlink.
"""

from __future__ import annotations

import errno
import stat as modes
from typing import Final

from unionfs.linux import at
from unionfs.linux.stat import Stat
from unionfs.overlay import acl
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.creator import Creator
from unionfs.overlay.idmap import IdMap, overflow_id

#: As an id of chown(2): leave that one as it is.
KEEP: Final = -1
#: Ids that this process may not give away to, or that its user namespace does not have.
_NOT_OURS: Final = frozenset((errno.EPERM, errno.EINVAL, errno.EOVERFLOW))


class Owners:
    """Ids of the layers and ids of the users.  A union in which they are the same has none of these.

    lenient: all is shown as one owner's anyhow, so that one which can't be stored is no failure.
    """

    __slots__ = ("_gids", "_one_link", "_squash_gid", "_squash_uid", "_uids", "lenient")

    def __init__(self, config: UnionConfig) -> None:
        self._uids = IdMap(config.uid_ranges, overflow_id("uid")) if config.uid_ranges else None
        self._gids = IdMap(config.gid_ranges, overflow_id("gid")) if config.gid_ranges else None
        self._squash_uid = config.squash_uid
        self._squash_gid = config.squash_gid
        self._one_link = config.static_nlink
        self.lenient = not (config.squash_uid is None and config.squash_gid is None)

    def shown(self, found: Stat) -> Stat:
        """What users see of an object."""
        uid, gid = found.uid, found.gid
        if self._squash_uid is not None:
            uid = self._squash_uid
        elif self._uids is not None:
            uid = self._uids.shown(uid)
        if self._squash_gid is not None:
            gid = self._squash_gid
        elif self._gids is not None:
            gid = self._gids.shown(gid)
        nlink = 1 if self._one_link and found.mode & 0o170000 == modes.S_IFDIR else found.nlink
        return found._replace(uid=uid, gid=gid, nlink=nlink)

    def creator(self, who: Creator) -> Creator:
        """For whom the layers get what `who` makes."""
        return who._replace(uid=self.uid(who.uid), gid=self.gid(who.gid))

    def uid(self, shown: int) -> int:
        """The user id the layers get, or KEEP."""
        return shown if self._uids is None or shown == KEEP else self._uids.stored(shown)

    def gid(self, shown: int) -> int:
        """The group id the layers get, or KEEP."""
        return shown if self._gids is None or shown == KEEP else self._gids.stored(shown)

    def acl_shown(self, value: bytes) -> bytes:
        """An access control list with the ids that users see.  Squashing leaves them: they are no owners."""
        uids, gids = self._uids, self._gids
        return acl.with_ids(value, None if uids is None else uids.shown, None if gids is None else gids.shown)

    def acl_stored(self, value: bytes) -> bytes:
        """One that a user sets, with the ids of the layers."""
        uids, gids = self._uids, self._gids
        return acl.with_ids(value, None if uids is None else uids.stored, None if gids is None else gids.stored)


def settle(config: UnionConfig) -> Owners | None:
    """What the options ask for; None where users see what the layers have."""
    asked = (config.uid_ranges, config.gid_ranges, config.static_nlink)
    squashed = config.squash_uid is not None or config.squash_gid is not None
    return Owners(config) if squashed or any(asked) else None


def give_away(here: tuple[int, bytes], uid: int, gid: int, *, lenient: bool) -> None:
    """chown(2) of an object on the upper layer; `lenient`: it stays whose it is where that is not allowed.

    Raises EOVERFLOW for an id that the server's user namespace does not have, as the kernel's overlayfs does.
    """
    try:
        at.chown(*here, uid, gid)
    except OSError as error:
        if lenient and error.errno in _NOT_OURS:
            return
        if error.errno == errno.EINVAL:
            raise OSError(errno.EOVERFLOW, "the owner has no id in the server's user namespace") from None
        raise
