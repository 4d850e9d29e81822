"""Lowers: is every lower layer, after a test, exactly what it was when it was first mounted?

Whatever mounts a union for a test says so first (`watch`), and whoever unmounts it, or at the latest the end of the test, looks
again (`check`). The drivers and the fixtures do both, so a test can't leave it out; one that changes a lower itself says so
(`changes_meant`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.syscalls import view_without_atime
from tests.support.trees import Tree, diff, snapshot
from unionfs.linux.fs import statfs

READ_NAMES = 3000
READ_BYTES = 64 << 20
"""Up to so many names and bytes of files, a lower's contents, holes and xattrs are read; of larger ones only what lstat(2) says.

That is enough: whatever changes content or xattrs changes ctime, which can't be set back, and the kernel gives a file that
was looked at a fresh time stamp for its next change, however soon that is (multigrain time stamps, Linux 6.13).
"""

TMPFS_MAGIC = 0x01021994
UNREAD = ("digest", "holes", "xattrs")
SHOWN = 30
"""How many changes a message lists."""


class LowerChanged(AssertionError):
    """A lower layer is not what it was. `changes` are lines of `tests.support.trees.diff`, one list per lower."""

    def __init__(self, changes: dict[Path, list[str]]) -> None:
        lines = [f"{lower}: {line}" for lower, found in changes.items() for line in found]
        more = [f"... {len(lines)} in all"] if len(lines) > SHOWN else []
        super().__init__("\n".join(["a lower layer changed:", *lines[:SHOWN], *more]))
        self.changes = changes


@dataclass(frozen=True)
class _Lower:
    device: int
    leave_out: tuple[str, ...]
    tree: Tree


_watched: dict[Path, _Lower] = {}
"""As they were before their first mount."""

_mounted: set[Path] = set()
"""Which of them may have been mounted since they were last compared."""

_works: set[Path] = set()
"""The work directories of the unions whose lowers were watched."""


def watch(lowers: Iterable[Path], work: Path | None) -> None:
    """These lower layers are about to be mounted: from now on they must stay as they are, attributes and ctime included.

    One that is watched already keeps being compared with what it was before its first mount. What is no directory can't be
    mounted, and is left out. `work` is the union's work directory, by which `was_watched` knows it again.
    """
    if work is not None:
        _works.add(_real(work))
    for lower in map(_real, lowers):
        try:
            status = os.stat(lower)
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            continue
        before = _watched.get(lower)
        if before is None or before.device != status.st_dev:
            _watched[lower] = _look(lower, status.st_dev)
        _mounted.add(lower)


def _real(lower: Path) -> Path:
    return Path(os.path.realpath(lower))


def _look(lower: Path, device: int) -> _Lower:
    tree = _read(lower, UNREAD)
    if len(tree) > READ_NAMES or sum(record.size or 0 for record in tree.values() if record.type == "file") > READ_BYTES:
        return _Lower(device, UNREAD, tree)
    kept = ("holes",) if _is_tmpfs(lower) else ()
    return _Lower(device, kept, _read(lower, kept))


def _is_tmpfs(lower: Path) -> bool:
    """There a mapping that is only read fills holes."""
    fd = os.open(lower, os.O_PATH)
    try:
        return statfs(fd).type == TMPFS_MAGIC
    finally:
        os.close(fd)


def _read(lower: Path, leave_out: tuple[str, ...]) -> Tree:
    """The layer's own tree: without what is mounted in it, and without setting access times."""
    fd = view_without_atime(os.fspath(lower))
    try:
        return snapshot(f"/proc/self/fd/{fd}/.", leave_out)
    finally:
        os.close(fd)


def check(lowers: Iterable[Path] | None = None) -> None:
    """Compares these lowers, or all that were mounted since they were last compared, with what they were; raises LowerChanged.

    A change is reported once: what is there now counts from here on. A lower that is not there any more counts as changed.
    """
    wanted = set(_mounted) if lowers is None else {_real(lower) for lower in lowers}
    changes = {lower: found for lower in sorted(wanted) if (found := _changes(lower))}
    if changes:
        raise LowerChanged(changes)


def _changes(lower: Path) -> list[str]:
    _mounted.discard(lower)
    before = _watched.get(lower)
    if before is None:
        return []
    try:
        device = os.stat(lower).st_dev
        now = _read(lower, before.leave_out)
    except OSError as error:
        del _watched[lower]
        return [f"can't be read any more: {error.strerror}"]
    if device != before.device:
        del _watched[lower]
        return ["lies on another filesystem now"]
    changes = diff(before.tree, now, ("before", "after"))
    if changes:
        _watched[lower] = _Lower(device, before.leave_out, now)
    return changes


def changes_meant(*lowers: Path) -> None:
    """The test itself changes, or has changed, these lowers: what they were is forgotten until they are mounted next."""
    for lower in map(_real, lowers):
        _watched.pop(lower, None)
        _mounted.discard(lower)


def was_watched(work: Path) -> bool:
    """Whether the lowers of the union with this work directory were ever watched."""
    return _real(work) in _works


def forget(base: Path) -> None:
    """Everything at or below `base` is about to be removed."""
    for path in [known for known in (*_watched, *_works) if known.is_relative_to(_real(base))]:
        _watched.pop(path, None)
        _mounted.discard(path)
        _works.discard(path)


@contextmanager
def untouched(lowers: Sequence[Path], work: Path | None) -> Iterator[None]:
    """Watches a union's lowers for the time of a `with` block, and compares them when it ends."""
    watch(lowers, work)
    try:
        yield
    finally:
        check(lowers)
