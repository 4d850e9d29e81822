"""Lanes: how does one process do the steps of many scripts at once, each in a directory of its own on the same mount?

Every answer means the same on both implementations: no descriptors, no inode numbers, no times of now.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

from tests.oracle import ops
from tests.oracle.actor import errno_name
from tests.oracle.intended import NAMELESS, NO_ORIGIN, UNTOUCHED
from tests.oracle.io_worker import Answer
from tests.oracle.union_script import Call
from tests.support import pyfuse3, syscalls
from tests.support.trees import DEFAULT_LEAVE_OUT, TYPES, Record, record_of

P = ParamSpec("P")
T = TypeVar("T")

RENAME_FLAGS = {"": 0, "NOREPLACE": syscalls.RENAME_NOREPLACE, "EXCHANGE": syscalls.RENAME_EXCHANGE}
FALLOCATE_MODES = {
    "": 0,
    "KEEP_SIZE": syscalls.FALLOC_FL_KEEP_SIZE,
    "PUNCH_HOLE": syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE,
    "ZERO_RANGE": syscalls.FALLOC_FL_ZERO_RANGE,
}
DT_DIR = 4
ACLS = {"access": syscalls.ACL_ACCESS, "default": syscalls.ACL_DEFAULT}
CAPABILITY = "security.capability"
NET_RAW = 1 << 13



def truncate(path: str, size: int) -> None:
    """truncate(2), but for the size that the file has already (intended.SAME_SIZE)."""
    if size != os.lstat(path).st_size:
        os.truncate(path, size)


PATH_CALLS: dict[str, Callable[..., object]] = {
    "create": ops.create, "mkdir": os.mkdir, "rmdir": os.rmdir, "unlink": os.unlink, "symlink": os.symlink,
    "truncate": truncate, "chmod": os.chmod, "chown": ops.lchown, "utime": ops.utime, "lstat": ops.lstat,
    "readlink": os.readlink, "xattrs": ops.xattrs, "setxattr": ops.setxattr, "removexattr": ops.removexattr,
    "statfs": ops.statfs,
}  # fmt: skip
FD_CALLS: dict[str, Callable[..., object]] = {
    "pread": ops.read_fd, "pwrite": ops.write_fd, "ftruncate": os.ftruncate, "fchmod": os.fchmod, "fchown": os.fchown,
    "fsync": os.fsync, "fdatasync": os.fdatasync, "fstat": ops.fstat, "map_write": ops.map_write, "map_read": ops.map_read,
    "syncfs": syscalls.syncfs,
}  # fmt: skip


class State(NamedTuple):
    """What there is to act on: path -> type, and the types of the open descriptors by slot."""

    tree: dict[str, str]
    slots: dict[int, str]


class View(NamedTuple):
    """A whole lane: each name's record, and the numbers (st_ino) by name; without names that can't be looked up (UNREACHABLE)."""

    tree: dict[str, Record]
    numbers: dict[str, int]


def flags_of(names: str) -> int:
    """Open flags from `O_RDWR|O_CREAT`."""
    flags = 0
    for name in names.split("|"):
        flags |= getattr(os, name)
    return flags


class Lane:
    """One script's directory and what it has open; its methods, PATH_CALLS and FD_CALLS are the calls of scripts."""

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fds: dict[int, tuple[int, int]] = {}
        """slot -> descriptor, flags."""
        self._listings: dict[int, tuple[int, list[str]]] = {}

    def leave(self) -> None:
        """Closes everything."""
        for fd in [self._directory, *(fd for fd, _ in self._fds.values()), *(fd for fd, _ in self._listings.values())]:
            os.close(fd)

    def enter(self) -> None:
        """Makes the directory the working directory."""
        os.fchdir(self._directory)

    def do(self, call: Call) -> object:
        """One call; KeyError for a slot that is empty."""
        if call.name in PATH_CALLS:
            return PATH_CALLS[call.name](*call.args)
        if pyfuse3.lacks_call(call.name, call.args):
            return None
        if call.name in FD_CALLS:
            slot, *rest = call.args
            assert isinstance(slot, int)
            return FD_CALLS[call.name](self._fds[slot][0], *rest)
        method: Callable[..., object] = getattr(self, call.name)
        return method(*call.args)

    # ------------------------------------------------------------------------------------------------------------ by name

    def open(self, slot: int, path: str, flags: str, mode: int) -> None:
        """open(2) into a slot, which is closed first."""
        if slot in self._fds:
            self.close(slot)
        number = flags_of(flags)
        self._fds[slot] = os.open(path, number | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, mode), number

    def tmpfile(self, slot: int, directory: str, mode: int) -> None:
        """open(2) with O_TMPFILE."""
        if slot in self._fds:
            self.close(slot)
        self._fds[slot] = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode), os.O_RDWR

    def write(self, path: str, data: bytes, flags: str) -> int:
        """Writes to what exists, by path."""
        return ops.write(path, data, flags_of(flags))

    def read(self, path: str) -> bytes:
        """The content of a regular file."""
        return ops.read(path) if stat.S_ISREG(os.stat(path).st_mode) else b"no file"

    def mapped(self, path: str) -> bytes:
        """The content of a file through a mapping."""
        size = os.stat(path).st_size
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return ops.map_read(fd, size) if stat.S_ISREG(os.fstat(fd).st_mode) and size else b""
        finally:
            os.close(fd)

    def mknod(self, path: str, kind: str, mode: int) -> None:
        """A FIFO, socket or device (1:3)."""
        kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "char": stat.S_IFCHR, "block": stat.S_IFBLK}
        os.mknod(path, kinds[kind] | mode, os.makedev(1, 3) if kind in ("char", "block") else 0)

    def link(self, source: str, target: str) -> None:
        """link(2) of the name itself."""
        os.link(source, target, follow_symlinks=False)

    def rename(self, source: str, target: str, flags: str) -> None:
        """renameat2(2)."""
        syscalls.renameat2(source, target, RENAME_FLAGS[flags])

    def setacl(self, path: str, which: str, entries: str) -> None:
        """Sets an ACL."""
        ops.setxattr(path, ACLS[which], syscalls.acl(*entries.split()))

    def removeacl(self, path: str, which: str) -> None:
        """Removes an ACL."""
        ops.removexattr(path, ACLS[which])

    def setcap(self, path: str) -> None:
        """Gives a file a capability."""
        ops.setxattr(path, CAPABILITY, syscalls.capability(NET_RAW))

    def positions(self, path: str) -> bool:
        """Whether a listing read on from every position gives what comes behind it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return patiently(ops.ls_from_every_position, fd)
        finally:
            os.close(fd)

    def pieces(self, path: str) -> list[str]:
        """A listing in small pieces."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return [name for name in patiently(ops.ls_in_pieces, fd, 64) if self._shows(path, name)]
        finally:
            os.close(fd)

    def listing(self, path: str) -> ops.Listing:
        """As tests.oracle.ops.listing; what can't be looked up counts as absent (UNREACHABLE)."""
        shown = [entry for entry in _entries(path) if self._shows(path, entry.name)]
        unequal = [entry.name for entry in shown if entry.name != ".." and entry.ino != os.lstat(f"{path}/{entry.name}").st_ino]
        return ops.Listing(
            entries=sorted((entry.name, entry.type) for entry in shown),
            unequal=sorted(unequal),
            absent=[],
        )

    def _shows(self, directory: str, name: str) -> bool:
        """The kernel lists needless whiteouts (tests.oracle.test_own), ours what can't be looked up (UNREACHABLE)."""
        return os.path.lexists(os.path.join(directory, name))

    # ------------------------------------------------------------------------------------------------------ by descriptor

    def close(self, slot: int) -> None:
        """Closes a slot."""
        os.close(self._fds.pop(slot)[0])

    def linkat(self, slot: int, target: str) -> None:
        """Gives what is open a name."""
        syscalls.link_fd(self._fds[slot][0], target)

    def fallocate(self, slot: int, mode: str, offset: int, size: int) -> None:
        """fallocate(2)."""
        syscalls.fallocate(self._fds[slot][0], FALLOCATE_MODES[mode], offset, size)

    def futime(self, slot: int, mtime_ns: int) -> None:
        """futimens(2)."""
        os.utime(self._fds[slot][0], ns=(1, mtime_ns))

    def fsetxattr(self, slot: int, name: str, value: bytes) -> None:
        """fsetxattr(2)."""
        os.setxattr(self._fds[slot][0], name, value)

    def copy(self, source: int, target: int, size: int, offset: int) -> int:
        """copy_file_range(2)."""
        return ops.copy_range(self._fds[source][0], self._fds[target][0], size, 0, offset)

    def reopen(self, slot: int) -> bytes:
        """Opens an open file again by /proc, and reads it."""
        return ops.reopen_read(self._fds[slot][0])

    def list_begin(self, slot: int, path: str) -> None:
        """Opens a directory and reads its first entries."""
        if slot in self._listings:
            os.close(self._listings.pop(slot)[0])
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listings[slot] = fd, [entry.name for entry in patiently(syscalls.getdents, fd, 48)]

    def list_end(self, slot: int, stayed: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Reads on to the end; of the names that were there all the time those that were not listed, and listed twice."""
        fd, names = self._listings.pop(slot)
        try:
            while entries := patiently(syscalls.getdents, fd, 64):
                names += [entry.name for entry in entries]
        finally:
            os.close(fd)
        return sorted(set(stayed) - set(names)), sorted(name for name in stayed if names.count(name) > 1)

    # ------------------------------------------------------------------------------------------------------------ to look

    def state(self) -> State:
        """What there is, for the next calls to be chosen."""
        tree: dict[str, str] = {}
        for path in _walk():
            try:
                tree[path] = TYPES[stat.S_IFMT(os.lstat(path).st_mode)]
            except OSError:
                continue
        slots = {slot: TYPES[stat.S_IFMT(os.fstat(fd).st_mode)] for slot, (fd, _) in self._fds.items()}
        return State(tree, slots)

    def view(self) -> View:
        """Everything that shows."""
        tree: dict[str, Record] = {}
        numbers: dict[str, int] = {}
        first: dict[tuple[int, int], str] = {}
        for path in [".", *_walk()]:
            try:
                status = os.lstat(path)
            except OSError:
                continue
            try:
                record = record_of(path, status, DEFAULT_LEAVE_OUT)
            except OSError as error:
                tree[path] = Record(type=errno_name(error))
                continue
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                record = Record(**{**record.__dict__, "same": first.setdefault((status.st_dev, status.st_ino), path)})
            tree[path], numbers[path] = record, status.st_ino
        return View(tree, numbers)

    def reason_against(self, call: Call) -> str:
        """Why a call is none that both should answer alike, or nothing; asked of the oracle."""
        if call.name == "rename":
            source, target, flags = map(str, call.args)
            if _are_special_links(source, target):
                return NO_ORIGIN
            return UNTOUCHED if not flags and _is_dir(source) and _is_dir(target) and len(_entries(target)) > 2 else ""
        slots = [self._fds[slot] for slot in call.args[: 2 if call.name == "copy" else 1] if slot in self._fds]
        by_descriptor = call.name in FD_CALLS or call.name in ("futime", "fsetxattr", "fallocate", "copy", "reopen", "linkat")
        if by_descriptor and call.name != "pread":
            nameless = any(not _was_copied_up(fd, flags) and (_is_removed(fd) or not self._is_named(fd)) for fd, flags in slots)
            return NAMELESS if nameless else ""
        return ""

    def _is_named(self, fd: int) -> bool:
        status = os.fstat(fd)
        for path in _walk():
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
                return True
        return False


def _was_copied_up(fd: int, flags: int) -> bool:
    """Whether opening it put it on the upper layer for certain."""
    return flags & os.O_ACCMODE != os.O_RDONLY and stat.S_ISREG(os.fstat(fd).st_mode)


def _is_removed(fd: int) -> bool:
    """Whether the name by which it was opened is gone; others of a lower file have the same number, with or without it."""
    return os.readlink(f"/proc/self/fd/{fd}").endswith(" (deleted)")


def _are_special_links(source: str, target: str) -> bool:
    """Whether both are of one type, no directories and no regular files, and have further names: each other's, maybe."""
    try:
        both = [os.lstat(path) for path in (source, target)]
    except OSError:
        return False
    kinds = {stat.S_IFMT(status.st_mode) for status in both}
    return len(kinds) == 1 and kinds.isdisjoint((stat.S_IFDIR, stat.S_IFREG)) and all(status.st_nlink > 1 for status in both)


def patiently(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Makes a call again where it fails with EPERM: the kernel's listing does so once for every name that is UNREACHABLE."""
    for _ in range(20):
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
    return call(*args, **kwargs)


def _entries(directory: str) -> list[syscalls.DirectoryEntry]:
    """All entries of a directory, read from one descriptor to the end, however often that fails with EPERM."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found: list[syscalls.DirectoryEntry] = []
        while entries := patiently(syscalls.getdents, fd):
            found += entries
        return found
    finally:
        os.close(fd)


def _is_dir(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _walk() -> list[str]:
    """Every path below the working directory."""
    found: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            entries = [entry for entry in _entries(prefix or ".") if entry.name not in (".", "..")]
        except OSError:
            continue
        found += [prefix + entry.name for entry in entries]
        pending += [f"{prefix}{entry.name}/" for entry in entries if entry.type == DT_DIR]
    return sorted(found)


class LaneHands:
    """What a worker of the machine can do; each public method is a command of tests.oracle.io_worker.Worker."""

    def __init__(self, progress: mmap.mmap) -> None:
        self._lanes: dict[int, Lane] = {}
        self._progress = progress
        """Its first bytes: the number of the lane that is at it, for the time when no answer comes."""

    def enter(self, directories: dict[int, str]) -> None:
        """Begins lanes in these directories."""
        os.umask(pyfuse3.usual_umask())
        self._lanes = {number: Lane(directory) for number, directory in directories.items()}

    def let_go(self) -> None:
        """Ends all lanes."""
        os.chdir("/")
        for lane in self._lanes.values():
            lane.leave()
        self._lanes = {}

    def act(self, calls: Sequence[tuple[int, Call]]) -> list[Answer]:
        """One call in each of some lanes."""
        return [self._act(number, call) for number, call in calls]

    def _act(self, number: int, call: Call) -> Answer:
        lane = self._at(number)
        user = call.uid
        if user:
            os.setgroups([])
            os.setegid(user)
            os.seteuid(user)
        try:
            return Answer("ok", lane.do(call))
        except OSError as error:
            return Answer(errno_name(error))
        except KeyError:
            return Answer("empty slot")
        except ValueError:  # Python maps no empty file
            return Answer("EINVAL")
        finally:
            if user:
                os.seteuid(0)
                os.setegid(0)

    def reasons_against(self, calls: Sequence[tuple[int, Call]]) -> list[str]:
        """Lane.reason_against each."""
        return [self._at(number).reason_against(call) for number, call in calls]

    def states(self, numbers: Sequence[int]) -> dict[int, State]:
        """Lane.state of each."""
        return {number: self._at(number).state() for number in numbers}

    def views(self, numbers: Sequence[int]) -> dict[int, View]:
        """Lane.view of each."""
        return {number: self._at(number).view() for number in numbers}

    def _at(self, number: int) -> Lane:
        self._progress[:4] = number.to_bytes(4, "little")
        lane = self._lanes[number]
        lane.enter()
        return lane
