"""For whom is a new object made?  The caller's ids and umask, put on so that the upper filesystem itself applies its rules.

The filesystem then does what it does for any process: owner and group, the setgid directory's group, the default ACL of
the parent or else the umask (umask(2), acl(5), inode(7)).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from unionfs.linux import creds


class Creator(NamedTuple):
    """A caller: user and group id for new objects, and its umask."""

    uid: int
    gid: int
    umask: int


SERVER = Creator(os.geteuid(), os.getegid(), 0)


class Identity:
    """Which creator the event loop's thread stands for at present; changed lazily, since callers repeat themselves."""

    __slots__ = ("_gid", "_uid", "_umask", "able")

    def __init__(self) -> None:
        self.able = creds.has_capability(creds.CAP_CHOWN) and creds.keep_capabilities()
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._umask = 0
        os.umask(0)

    def assume(self, who: Creator) -> None:
        """From now on this thread creates objects as `who`; without the privilege only the umask follows."""
        if who.umask != self._umask:
            os.umask(who.umask)
            self._umask = who.umask
        self.assume_ids(who)

    def assume_ids(self, who: Creator) -> None:
        """The same without the umask."""
        if self.able:
            if who.uid != self._uid:
                creds.set_fsuid(who.uid)
                self._uid = who.uid
            if who.gid != self._gid:
                creds.set_fsgid(who.gid)
                self._gid = who.gid
