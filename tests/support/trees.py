"""Trees: what exactly does a directory tree hold, and in which of it do two trees differ?"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

LARGE = 64 << 20
"""Files over this many bytes are hashed by their data extents, so that a sparse file of gigabytes costs nothing."""

BLOCK = 4096
"""Bytes; the unit in which zeros are told from data in large files."""

LONG_PATH = 3000
"""Bytes; directories with longer paths are reached through a descriptor, since a path may have no more than 4,095."""

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

ABSENT = "listed but absent"
"""The type of a name that a directory lists and lstat(2) does not find, as the kernel shows a whiteout of the lowest layer."""


@dataclass(frozen=True)
class Record:
    """What one name is. A field that was left out is None.

    `mode` is the permission bits with set-id and sticky; `size` bytes (None for directories, whose size is their filesystem's
    business); `digest` the SHA-256 of a regular file's content; `rdev` (major, minor) of a device; `same` the first name in the
    tree of the same inode, for files with several links; `holes` the data extents as (start, end) bytes.
    """

    type: str
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    digest: str | None = None
    target: str | None = None
    rdev: tuple[int, int] | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] | None = None
    nlink: int | None = None
    same: str | None = None
    holes: tuple[tuple[int, int], ...] | None = None

    def without(self, names: Collection[str]) -> Record:
        """The record with the named fields left out."""
        nothing: dict[str, Any] = dict.fromkeys(names)
        return replace(self, **nothing)


Tree = dict[str, Record]
"""Path relative to the root ("." is the root itself) -> what is there."""

DEFAULT_LEAVE_OUT = ("ctime_ns", "holes")


def snapshot(root: Path | str, leave_out: Collection[str] = DEFAULT_LEAVE_OUT) -> Tree:
    """Reads a whole tree without following symlinks; opens regular files only.

    `leave_out` names fields of Record that are neither read nor compared. Names that are not UTF-8 carry surrogate escapes.
    """
    tree: Tree = {}
    first_name: dict[tuple[int, int], str] = {}
    for relative, path in _walk(os.fspath(root)):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            tree[relative] = Record(type=ABSENT)
            continue
        record = record_of(path, status, leave_out)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) and "same" not in leave_out:
            first = first_name.setdefault((status.st_dev, status.st_ino), relative)
            record = replace(record, same=first)
        tree[relative] = record
    return tree


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """(path relative to the root, path to reach it by while the walk goes on) of everything."""
    yield ".", root
    pending = [("", root)]
    with ExitStack() as deep:
        while pending:
            prefix, directory = pending.pop()
            if len(os.fsencode(directory)) > LONG_PATH:
                fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                deep.callback(os.close, fd)
                directory = f"/proc/self/fd/{fd}"
            with os.scandir(directory) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
            for entry in listed:
                yield prefix + entry.name, entry.path
                if entry.is_dir(follow_symlinks=False):
                    pending.append((prefix + entry.name + "/", entry.path))


def record_of(path: str, status: os.stat_result, leave_out: Collection[str] = DEFAULT_LEAVE_OUT) -> Record:
    """The record of one name; `status` is its lstat result."""
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    device = kind in ("char", "block")
    return Record(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=None if kind == "dir" else status.st_size,
        digest=digest_of(path) if kind == "file" and "digest" not in leave_out else None,
        target=os.readlink(path) if kind == "symlink" else None,
        rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)) if device else None,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        xattrs=xattrs_of(path) if "xattrs" not in leave_out else None,
        nlink=status.st_nlink,
        holes=tuple(data_extents(path)) if kind == "file" and "holes" not in leave_out else None,
    ).without([name for name in leave_out if name != "type"])


def xattrs_of(path: str) -> tuple[tuple[str, bytes], ...]:
    """Every extended attribute of a name itself, sorted; empty where the filesystem has none."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))


def digest_of(path: str) -> str:
    """SHA-256 of a file's content; of a file over LARGE bytes only the blocks that are not zero, each with its offset."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= LARGE:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
        zero = bytes(BLOCK)
        for start, end in extents_of_fd(file.fileno(), size):
            for offset in range(start - start % BLOCK, end, BLOCK):
                block = os.pread(file.fileno(), BLOCK, offset)
                if block != zero[: len(block)]:
                    digest.update(b"%d:" % offset + block)
    return digest.hexdigest()


def data_extents(path: str) -> list[tuple[int, int]]:
    """Where a file has data: (start, end) byte ranges between its holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return list(extents_of_fd(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def extents_of_fd(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """As `data_extents`, for an open file of `size` bytes; moves its offset."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def diff(left: Tree, right: Tree, names: tuple[str, str] = ("left", "right")) -> list[str]:
    """Every difference as one readable line; empty when the trees are the same. `names` is what the two sides are called."""
    lines: list[str] = []
    for path in sorted(left.keys() | right.keys()):
        if path not in right:
            lines.append(f"{path}: only in {names[0]} ({left[path].type})")
        elif path not in left:
            lines.append(f"{path}: only in {names[1]} ({right[path].type})")
        else:
            lines += [
                f"{path}: {field}: {names[0]} {mine}, {names[1]} {theirs}"
                for field, mine, theirs in differing_fields(left[path], right[path])
            ]
    return lines


def differing_fields(left: Record, right: Record) -> Iterator[tuple[str, str, str]]:
    """(field, value on the left, value on the right) for every field in which two records differ, values as people read them."""
    for field in fields(Record):
        mine, theirs = getattr(left, field.name), getattr(right, field.name)
        if mine != theirs:
            yield field.name, _shown(field.name, mine), _shown(field.name, theirs)


def _shown(field: str, value: object) -> str:
    if field == "mode" and isinstance(value, int):
        return f"{value:#o}"
    if field == "digest" and isinstance(value, str):
        return value[:12]
    return repr(value)
