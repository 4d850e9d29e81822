"""Who lists directories for the names alone?  Then the attributes of files need not be fetched with every listing.

READDIRPLUS gives each name with its node and attributes, which costs a system call for each and spares the client that asks
for them a LOOKUP each; `ls -l`, tar and cp do, `find -name` and the shell do not.  The kernel does not say what becomes of
the entries.  So from each of the first directories a thread lists one file's attributes are left out: if nobody looks that
name up, the thread wants names, and from then on gets files without attributes, directories still with them.  If names that
were given so are looked up after all, by whomever, that was wrong: then the listings that the kernel keeps are dropped, too,
since who lists from those is not seen here.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from unionfs.serve.notices import Notices

#: Directories from which one name is left out without being missed, before all are.
_TRIALS: Final = 4
#: Threads, and listings given without attributes, that are remembered; the oldest are forgotten first.
_THREADS: Final = 256
_LISTINGS: Final = 2048
#: So many names looked up after all, and every other one of the directories concerned, are a change of mind.
_MISSED: Final = 32


class Wish(enum.Enum):
    """What goes with the names of files in a part of a listing: all attributes; those of all but the first; none."""

    ALL = enum.auto()
    ALL_BUT_ONE = enum.auto()
    NONE = enum.auto()


class _Thread:
    """A thread that lists.  wish: what it gets.  trials: directories in which a name was left out."""

    __slots__ = ("trials", "wish")

    def __init__(self) -> None:
        self.wish = Wish.ALL_BUT_ONE
        self.trials = 0


class _Listing:
    """A directory some of whose names were given without attributes: for which thread, how many, and whether one was missed."""

    __slots__ = ("bare", "is_missed", "thread")

    def __init__(self, thread: _Thread) -> None:
        self.thread = thread
        self.bare = 0
        self.is_missed = False


class Listers:
    """What the threads want that list directories, by the thread ids in their requests.

    watching: listings in which a name may be missed, by the directory's nodeid.
    """

    __slots__ = ("_bare", "_missed", "_notices", "_threads", "watching")

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._threads: dict[int, _Thread] = {}
        self.watching: dict[int, _Listing] = {}
        self._missed = 0
        self._bare = 0

    def wish(self, pid: int, offset: int) -> Wish:
        """What the thread gets with the part of a listing behind `offset`.

        One that is not visible from here (pid 0) may be any.
        """
        if not pid:
            return Wish.ALL
        thread = self._threads.get(pid)
        if thread is None:
            if len(self._threads) >= _THREADS:
                del self._threads[next(iter(self._threads))]
            thread = self._threads[pid] = _Thread()
        if thread.wish is Wish.ALL_BUT_ONE:
            if offset:
                return Wish.ALL
            if thread.trials >= _TRIALS:
                thread.wish = Wish.NONE
        return thread.wish

    def gave(self, pid: int, nodeid: int, bare: int) -> None:
        """A part of the directory's listing was given to the thread, with so many names without attributes."""
        thread = self._threads.get(pid)
        if not bare or thread is None:
            return
        listing = self.watching.get(nodeid)
        if listing is None or listing.thread is not thread:
            if len(self.watching) >= _LISTINGS:
                del self.watching[next(iter(self.watching))]
            listing = self.watching[nodeid] = _Listing(thread)
        listing.bare += bare
        if thread.wish is Wish.ALL_BUT_ONE:
            thread.trials += 1

    def looked_up(self, nodeid: int) -> None:
        """A file was looked up in the directory, which the kernel does only if it has not got its attributes."""
        listing = self.watching.get(nodeid)
        if listing is None:
            return
        thread = listing.thread
        if thread.wish is not Wish.NONE:
            thread.wish = Wish.ALL
            del self.watching[nodeid]
            return
        self._missed += 1
        if not listing.is_missed:
            listing.is_missed = True
            self._bare += listing.bare
        if self._missed >= _MISSED and self._missed * 2 >= self._bare:
            thread.wish = Wish.ALL
            self._change_minds()

    def _change_minds(self) -> None:
        """The kernel's listings without attributes are of no use any more."""
        for nodeid in self.watching:
            self._notices.contents_changed(nodeid)
        self.watching.clear()
        self._missed = self._bare = 0
