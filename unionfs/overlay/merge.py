"""Which names does a merged directory show?  The merged index: one scan for each layer, then one dictionary probe a name.

Every name has a cookie, the position a listing resumes after.  A name keeps its cookie as long as it stays, so that a
listing resumed after a change neither repeats nor leaves out a name that stayed.  New names come before all others, so
that a listing ends however many are made meanwhile; and all cookies fit in 31 bits, for programs that need that.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from sortedcontainers import SortedDict

from unionfs.linux import procfs, stat, xattr
from unionfs.linux.stat import Stat
from unionfs.overlay import marks
from unionfs.overlay.errors import ScanNeeded
from unionfs.overlay.node import DirNode
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

#: Cookies 1 and 2 are those of `.` and `..`; those of scanned names grow from the middle, those of new names fall from it.
_LOWEST: Final = 3
_MIDDLE: Final = 1 << 30
#: A listing that pauses for longer may find its index gone, if memory was short.
_LISTING_SECONDS: Final = 600.0
#: A scan costs about as much as one probe for each so many bytes of the directories' size.
_BYTES_A_PROBE: Final = 256
#: That of a directory of one block, in probes; and from how many layers on the first search is taken for one.
_PROBES_A_SCAN: Final = 16
_MANY_LAYERS: Final = 4

#: A directory with more names than this is read in slices, so that other requests go on meanwhile.
INLINE_NAMES: Final = 2048
#: What directories of most filesystems take for a name, and for none.
_BYTES_A_NAME: Final = 32
_BLOCK: Final = 4096
#: After so many layers it is guessed from what they hold whether all of them together hold too many names.
_SAMPLE: Final = 16

_S_IFDIR: Final = modes.S_IFDIR
_S_IFREG: Final = modes.S_IFREG
_TELLING: Final = frozenset((_S_IFDIR, _S_IFREG, modes.S_IFLNK))
_new: Final = tuple.__new__


class IndexEntry(NamedTuple):
    """One name: its cookie, S_IFMT bits, inode number (0: ask the node), and the real directories that hold it."""

    cookie: int
    kind: int
    ino: int
    reals: tuple[RealDir, ...]


class MergedIndex:
    """All names of one directory.

    names: what each stands for.  Those that the scan found are also in a list, by their cookies, None for one that has gone;
    those that came later are in order of theirs.  changed: a name has come or gone since a listing was last begun.
    """

    __slots__ = ("_first", "_listed", "_lowest", "_made", "_scanned", "changed", "names")

    #: All names are in it.
    ready: ClassVar[bool] = True

    def __init__(self) -> None:
        self.names: dict[bytes, IndexEntry] = {}
        self._scanned: list[bytes | None] = []
        self._made: SortedDict[int, bytes] | None = None
        self._lowest = _MIDDLE
        self._first = 0
        self._listed = 0.0
        self.changed = False

    def is_listed(self) -> bool:
        """Was it listed so short a time ago that somebody may go on from where he was?"""
        return time.monotonic() - self._listed < _LISTING_SECONDS

    def add_scanned(self, name: bytes, kind: int, ino: int, reals: tuple[RealDir, ...]) -> None:
        """Add a name found by the scan, behind those found before."""
        self.names[name] = _new(IndexEntry, (_MIDDLE + len(self._scanned), kind, ino, reals))
        self._scanned.append(name)

    def put(self, name: bytes, kind: int, ino: int, reals: tuple[RealDir, ...]) -> None:
        """Add a name, or change what it stands for; a name that is there keeps its cookie."""
        old = self.names.get(name)
        if old is not None:
            self.names[name] = IndexEntry(old.cookie, kind, ino, reals)
            return
        if self._lowest == _LOWEST:
            raise OSError(errno.ENOSPC, "a billion names were made here since the directory was first listed")
        if self._made is None:
            self._made = SortedDict()
        self._lowest -= 1
        self.changed = True
        self.names[name] = IndexEntry(self._lowest, kind, ino, reals)
        self._made[self._lowest] = name

    def discard(self, name: bytes) -> None:
        entry = self.names.pop(name, None)
        if entry is None:
            return
        self.changed = True
        if entry.cookie >= _MIDDLE:
            self._scanned[entry.cookie - _MIDDLE] = None
        else:
            assert self._made is not None
            del self._made[entry.cookie]

    def after(self, cookie: int) -> Iterator[tuple[bytes, IndexEntry]]:
        """The names behind `cookie` in order."""
        names, made, scanned = self.names, self._made, self._scanned
        self._listed = time.monotonic()
        if made and cookie < _MIDDLE:
            for key in made.irange(minimum=cookie + 1):
                name = made[key]
                yield name, names[name]
        # Who empties a directory from its start finds the gap there only once.
        while self._first < len(scanned) and scanned[self._first] is None:
            self._first += 1
        for place in range(max(self._first, cookie - _MIDDLE + 1), len(scanned)):
            there = scanned[place]
            if there is not None:
                yield there, names[there]


class PartialIndex(MergedIndex):
    """Stands for the index of a directory while that is scanned in slices: it only notes which names have changed meanwhile."""

    __slots__ = ("touched",)

    ready = False

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[bytes] = set()

    def put(self, name: bytes, kind: int, ino: int, reals: tuple[RealDir, ...]) -> None:
        self.touched.add(name)

    def discard(self, name: bytes) -> None:
        self.touched.add(name)


def index_of(union: Union, node: DirNode) -> MergedIndex:
    """The directory's index, built now if need be.

    Raises ScanNeeded, with nothing changed, when it has more names than the event loop should read at once; OSError from the
    layers.
    """
    index = node.index
    if index is not None and index.ready:
        return index
    if index is not None:
        raise ScanNeeded(node)
    index = node.index = build(union, node)
    union.note_index(node, len(index.names))
    return index


def worth_building(union: Union, node: DirNode) -> MergedIndex | None:
    """The index, if lookups by now cost what one scan of all layers would: 100,000 names are not scanned for a few.

    Asked before each search of a directory of several layers.  The first one reads all of them but the last for their `.wh.`
    files: with many layers the scan costs no more.
    """
    layers = len(node.reals)
    node.probes += layers if node.probes or layers < _MANY_LAYERS else layers * _PROBES_A_SCAN
    if node.probes < node.probe_limit:
        return None
    if node.probes * _BYTES_A_PROBE < _bytes(node):
        node.probe_limit = 2 * node.probes
        return None
    return index_of(union, node)


def shows_nothing(union: Union, node: DirNode) -> bool:
    """Is the directory empty, but for whiteouts?  Raises ScanNeeded, with nothing changed, as `index_of`."""
    try:
        return not index_of(union, node).names
    except ScanNeeded as needed:
        if needed.shows_something:
            return False
        raise


def build(union: Union, node: DirNode) -> MergedIndex:
    """Scan the directory's layers from the top.  Raises ScanNeeded when that has more than INLINE_NAMES names."""
    index = MergedIndex()
    if node.unlinked:
        return index
    if _is_large(node):
        raise ScanNeeded(node)
    closed: set[bytes] = set()
    for number, real in enumerate(node.reals, 1):
        layer = LayerScan(union, index, node, real, closed)
        with os.scandir(procfs.fd_path(real.fd())) as entries:
            layer.take(islice(entries, INLINE_NAMES))
            if max(len(closed), len(index.names)) > INLINE_NAMES or next(entries, None) is not None:
                raise ScanNeeded(node, shows_something=bool(index.names))
        layer.end()
        if number == _SAMPLE and len(index.names) * len(node.reals) > 2 * number * INLINE_NAMES:
            raise ScanNeeded(node, shows_something=True)
    settle_purity(union, node, index)
    return index


def _bytes(node: DirNode) -> int:
    """The size of its directories, as it was when first asked for: enough for a guess."""
    if node.size < 0:
        node.size = sum([stat.stat(real.fd()).size for real in node.reals])
    return node.size


def _is_large(node: DirNode) -> bool:
    """Does it hold too many names, to guess by its size?  Then none of them is read in vain."""
    return _bytes(node) - len(node.reals) * _BLOCK > INLINE_NAMES * _BYTES_A_NAME


def settle_purity(union: Union, node: DirNode, index: MergedIndex) -> None:
    """Take the impure mark off an upper directory with nothing left in it that came from below (ovl_cache_get_impure).

    In one of very many names it stays: that would take too long.
    """
    if not node.upper or node.is_merged or union.read_only or not node.upper_dir.marks().impure:
        return
    if len(index.names) > INLINE_NAMES:
        return
    upper = node.upper_dir
    telling = {union.prefix + mark for mark in ("origin", "metacopy", "redirect")}
    with suppress(OSError):
        if all(telling.isdisjoint(xattr.names(upper.fd(), name)) for name in index.names):
            xattr.remove(upper.fd(), b"", union.prefix + "impure")
            upper.note_pure()


class LayerScan:
    """The scan of one layer's part of the directory `node`; `closed` are the names nothing further below can add to."""

    __slots__ = ("_closed", "_index", "_is_last", "_is_merged", "_is_open", "_markers", "_number", "_real", "_telling")

    def __init__(self, union: Union, index: MergedIndex, node: DirNode, real: RealDir, closed: set[bytes]) -> None:
        merged = node.is_merged
        self._index = index
        self._real = real
        self._closed = closed
        self._is_merged = merged
        self._is_last = real is node.reals[-1]
        self._number = union.inodes.number
        self._markers: list[bytes] = []
        # An upper object's number is its origin's, if it has one, or a merged directory's the lower part's: left open then.
        self._is_open = real.layer.is_upper and (merged or real.marks().impure)
        # Whether an object is a whiteout its type alone tells, but for regular files where xattrs may make them so, or devices.
        doubtful = real.layer.override is not None or real.marks().xwhiteouts
        self._telling = _TELLING - {modes.S_IFREG} if doubtful else _TELLING

    def take(self, entries: Iterable[os.DirEntry[bytes]]) -> None:
        """Add some of the layer's names."""
        index, real, closed = self._index, self._real, self._closed
        names, layer, number, is_last = index.names, real.layer, self._number, self._is_last
        marker, telling, is_open = marks.MARKER, self._telling, self._is_open
        only_here = (real,)
        for entry in entries:
            name: bytes = entry.name
            if name.startswith(marker):
                self._markers.append(name[len(marker) :])
                continue
            if name in closed:
                continue
            kind = _kind(entry)
            if kind not in telling:
                hidden, kind = _examine(real, name)
                if hidden:
                    closed.add(name)
                    continue
            old = names.get(name)
            if old is None:
                index.add_scanned(name, kind, 0 if is_open else number(layer, entry.inode()), only_here)
                if kind != _S_IFDIR and not is_last:
                    closed.add(name)
            elif kind == _S_IFDIR:
                ino = old.ino or number(layer, entry.inode())
                names[name] = IndexEntry(old.cookie, kind, ino, (*old.reals, real))
            else:
                closed.add(name)

    def end(self) -> None:
        """The layer's names are all there: its `.wh.` files count for the layers below."""
        self._closed.update(self._markers)
        if self._is_merged and not self._real.layer.is_upper:
            self._real.know_markers(self._markers)


def entry_now(union: Union, node: DirNode, name: bytes) -> tuple[int, int, tuple[RealDir, ...]] | None:
    """What a scan of the directory would find under one name at this moment: (S_IFMT bits, number, real directories).

    None when the name does not show.
    """
    reals: list[RealDir] = []
    kind = ino = 0
    last = node.reals[-1]
    for real in node.reals:
        found = stat.find(real.fd(), name)
        if found is not None:
            if real.is_whiteout(name, found) or (reals and found.mode & 0o170000 != _S_IFDIR):
                break
            kind = _kind_of(real, name, found)
            if not (real.layer.is_upper and (node.is_merged or real.marks().impure)):
                ino = ino or union.inodes.number(real.layer, found.ino)
            reals.append(real)
            if kind != _S_IFDIR:
                break
        if real is not last and real.has_marker(name):
            break
    return (kind, ino, tuple(reals)) if reals else None


def _kind(entry: os.DirEntry[bytes]) -> int:
    """S_IFMT bits as far as the directory entry itself says them; 0 for devices, FIFOs, sockets and the unknown."""
    if entry.is_file(follow_symlinks=False):
        return _S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return _S_IFDIR
    return modes.S_IFLNK if entry.is_symlink() else 0


def _examine(real: RealDir, name: bytes) -> tuple[bool, int]:
    """(is it a whiteout, its S_IFMT bits) for an entry whose type alone does not tell."""
    found = stat.find(real.fd(), name)
    if found is None:
        return True, 0
    return real.is_whiteout(name, found), _kind_of(real, name, found)


def _kind_of(real: RealDir, name: bytes, found: Stat) -> int:
    """S_IFMT bits of the object, for which in some layers an empty file stands; its LOOKUP says it if the mark is damaged."""
    override = real.layer.override
    if override is not None and found.mode & 0o170000 == _S_IFREG and not found.size:
        with suppress(OSError):
            found = override.apply(real.fd(), name, found)
    return found.mode & 0o170000
