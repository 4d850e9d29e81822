"""Operations: what can a sequence do and see, with results that mean the same on every implementation?"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat as modes
import subprocess
from collections.abc import Callable
from typing import NamedTuple, ParamSpec

from tests.support import syscalls
from tests.support.trees import TYPES, digest_of, extents_of_fd

P = ParamSpec("P")

FICLONE = 0x40049409
"""ioctl number of linux/fs.h."""


class Seen(NamedTuple):
    """The part of struct stat that is defined by the operations alone. Sizes in bytes; a directory's size is its filesystem's
    business.
    """

    type: str
    mode: str
    uid: int
    gid: int
    nlink: int
    size: int | None
    rdev: int


def seen(status: os.stat_result) -> Seen:
    """The comparable part of a stat result."""
    kind = TYPES[modes.S_IFMT(status.st_mode)]
    size = None if kind == "dir" else status.st_size
    return Seen(kind, oct(modes.S_IMODE(status.st_mode)), status.st_uid, status.st_gid, status.st_nlink, size, status.st_rdev)


def lstat(path: str) -> Seen:
    """lstat(2), comparable part."""
    return seen(os.lstat(path))


def fstat(fd: int) -> Seen:
    """fstat(2), comparable part."""
    return seen(os.fstat(fd))


def times(path: str) -> tuple[int, int]:
    """(atime, mtime) in nanoseconds: only for names whose times were set explicitly."""
    status = os.lstat(path)
    return status.st_atime_ns, status.st_mtime_ns


def mtime(path: str) -> int:
    """mtime in nanoseconds: only where it was set explicitly, or must not have changed since the layer was built."""
    return os.lstat(path).st_mtime_ns


def read(path: str) -> bytes:
    """A whole file by path."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_fd(fd)
    finally:
        os.close(fd)


def read_fd(fd: int, offset: int = 0, size: int = 1 << 20) -> bytes:
    """Up to `size` bytes at `offset` of an open file."""
    return os.pread(fd, size, offset)


def write(path: str, data: bytes, flags: int = os.O_WRONLY) -> int:
    """Opens an existing file (with `flags`; a FIFO without waiting) and writes at its start, or its end with O_APPEND; the
    number of bytes written.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def write_fd(fd: int, data: bytes, offset: int = 0) -> int:
    """pwrite(2)."""
    return os.pwrite(fd, data, offset)


def create(path: str, data: bytes = b"", mode: int = 0o644) -> int:
    """Makes a new file (O_EXCL) and writes `data`."""
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    try:
        return os.write(fd, data) if data else 0
    finally:
        os.close(fd)


def ls(path: str = ".") -> list[str]:
    """The names of a directory, sorted, a name that lists twice twice."""
    return sorted(os.listdir(path))


class Listing(NamedTuple):
    """A directory as getdents64(2) shows it: (name, d_type) sorted; the names whose d_ino is not the st_ino of lstat(2); those
    that lstat(2) does not find.

    The kernel's overlayfs gives other numbers for merged directories of lower layers, and shows needless whiteouts in
    directories of one layer. Ours may have neither (tests.oracle.test_own).
    """

    entries: list[tuple[str, int]]
    unequal: list[str]
    absent: list[str]


def listing(path: str = ".") -> Listing:
    """Every entry of a directory; of `..` only name and type."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found: list[syscalls.DirectoryEntry] = []
        while entries := syscalls.getdents(fd):
            found += entries
    finally:
        os.close(fd)
    numbers = {entry.name: entry.ino if entry.name == ".." else _ino(path, entry.name) for entry in found}
    return Listing(
        entries=sorted((entry.name, entry.type) for entry in found if numbers[entry.name] is not None),
        unequal=sorted(entry.name for entry in found if numbers[entry.name] not in (None, entry.ino)),
        absent=sorted(name for name, number in numbers.items() if number is None),
    )


def _ino(directory: str, name: str) -> int | None:
    try:
        return os.lstat(os.path.join(directory, name)).st_ino
    except FileNotFoundError:
        return None


def xattrs(path: str) -> list[tuple[str, bytes]]:
    """Every xattr that lists, with its value; a symlink's own."""
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(os.listxattr(path, follow_symlinks=False))]


def setxattr(path: str, name: str, value: bytes, flags: int = 0) -> None:
    """lsetxattr(2)."""
    os.setxattr(path, name, value, flags, follow_symlinks=False)


def getxattr(path: str, name: str) -> bytes:
    """lgetxattr(2)."""
    return os.getxattr(path, name, follow_symlinks=False)


def removexattr(path: str, name: str) -> None:
    """lremovexattr(2)."""
    os.removexattr(path, name, follow_symlinks=False)


def lchown(path: str, uid: int, gid: int) -> None:
    """lchown(2)."""
    os.lchown(path, uid, gid)


def utime(path: str, atime_ns: int, mtime_ns: int) -> None:
    """utimensat(2) without following a symlink."""
    os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)


def extents(path: str) -> list[tuple[int, int]]:
    """Data extents (SEEK_DATA, SEEK_HOLE) in bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return list(extents_of_fd(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def blocks(path: str) -> int:
    """Kibibytes allocated, in steps of 4, so that a sparse copy can be told from a dense one."""
    return os.lstat(path).st_blocks // 8 * 4


def seek(fd: int, offset: int, whence: int) -> int:
    """lseek(2)."""
    return os.lseek(fd, offset, whence)


def copy_range(source: int, target: int, count: int, source_offset: int = 0, target_offset: int = 0) -> int:
    """copy_file_range(2), repeated until `count` bytes or the end; the number of bytes copied."""
    done = 0
    while done < count:
        step = os.copy_file_range(source, target, count - done, source_offset + done, target_offset + done)
        if step == 0:
            break
        done += step
    return done


def clone(source: int, target: int) -> None:
    """ioctl FICLONE."""
    fcntl.ioctl(target, FICLONE, source)


def map_read(fd: int, size: int) -> bytes:
    """The first `size` bytes through a private read-only mapping."""
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
        return mapping[:size]


def map_write(fd: int, data: bytes, offset: int = 0) -> None:
    """Writes through a shared mapping and msyncs it."""
    with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        mapping[offset : offset + len(data)] = data
        mapping.flush()


def has_btime(path: str) -> bool:
    """Whether statx(2) gives a birth time."""
    answer = syscalls.statx(path)
    return bool(answer.mask & syscalls.STATX_BTIME) and answer.btime[0] > 0


def same_inode(left: str, right: str) -> bool:
    """Whether two names are one inode."""
    first, second = os.lstat(left), os.lstat(right)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def ls_in_pieces(fd: int, size: int) -> list[str]:
    """The names of an open directory from its start, read with a buffer of `size` bytes; sorted, repeated ones twice."""
    os.lseek(fd, 0, os.SEEK_SET)
    names: list[str] = []
    while entries := syscalls.getdents(fd, size):
        names += [entry.name for entry in entries]
    return sorted(names)


def ls_from_every_position(fd: int) -> bool:
    """Whether reading on from each entry's cookie gives exactly the entries behind it, in the same order."""
    os.lseek(fd, 0, os.SEEK_SET)
    whole = []
    while entries := syscalls.getdents(fd):
        whole += entries
    for number, entry in enumerate(whole):
        os.lseek(fd, entry.offset, os.SEEK_SET)
        rest = []
        while entries := syscalls.getdents(fd):
            rest += [found.name for found in entries]
        if rest != [found.name for found in whole[number + 1 :]]:
            return False
    return True


def remove_while_listing(path: str, size: int) -> int:
    """Unlinks every entry as soon as it is listed (buffer of `size` bytes), and says how many there were: none may be lost on
    the way.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        removed = 0
        while entries := syscalls.getdents(fd, size):
            for entry in entries:
                if entry.name not in (".", ".."):
                    os.unlink(f"{path}/{entry.name}")
                    removed += 1
        return removed
    finally:
        os.close(fd)


def create_while_listing(path: str, size: int) -> list[str]:
    """Creates and removes names while a directory is listed; what was there all the time, sorted, with repetitions. Removes
    what it made.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listed: list[str] = []
    made: list[str] = []
    try:
        # A listing that shows every name made behind its position would never end: stop it.
        while len(listed) < 20_000 and (entries := syscalls.getdents(fd, size)):
            listed += [entry.name for entry in entries]
            made.append(f"{path}/new-{len(listed)}")
            create(made[-1])
            create(f"{path}/brief")
            os.unlink(f"{path}/brief")
    finally:
        os.close(fd)
    for name in made:
        os.unlink(name)
    if len(listed) >= 20_000:
        raise OSError(errno.ELOOP, "the listing does not end")
    return sorted(name for name in listed if not name.startswith(("new-", "brief")))


def statfs(path: str) -> tuple[int, int, bool]:
    """(block size, longest name in bytes, whether there is free space) of statvfs(3)."""
    answer = os.statvfs(path)
    return answer.f_bsize, answer.f_namemax, answer.f_bavail > 0


def digest(path: str) -> str:
    """SHA-256 of a file's content."""
    return digest_of(path)


def run(*command: str) -> tuple[int, bytes]:
    """Runs a program: its exit status and what it printed."""
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode, done.stdout + done.stderr


def reopen_read(fd: int) -> bytes:
    """Opens an open file again through /proc/self/fd and reads it."""
    return read(f"/proc/self/fd/{fd}")


def reopen_write(fd: int, data: bytes) -> int:
    """Opens an open file again through /proc/self/fd, for writing, and writes at its start."""
    return write(f"/proc/self/fd/{fd}", data)


def create_at(directory: int, name: str) -> None:
    """Makes an empty file in an open directory."""
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=directory))


def sendfile(source: int, target: int, count: int) -> int:
    """sendfile(2) from the start of `source` to the offset of `target`."""
    return os.sendfile(target, source, 0, count)


def direct_write(fd: int, letter: bytes, offset: int) -> int:
    """Writes one page of a letter from an aligned buffer."""
    with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
        buffer[:] = letter * mmap.PAGESIZE
        return os.pwritev(fd, [buffer], offset)


def direct_read(fd: int, offset: int) -> bytes:
    """Reads one page into an aligned buffer."""
    with mmap.mmap(-1, mmap.PAGESIZE) as buffer:
        count = os.preadv(fd, [buffer], offset)
        return bytes(buffer[:count])


def fails_or_not(call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> int | None:
    """The errno a call fails with, or None."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        return error.errno
    return None


def flock(fd: int, exclusive: bool) -> None:
    """flock(2) without waiting."""
    fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)


def lockf(fd: int) -> None:
    """A POSIX write lock on the whole file, without waiting."""
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def talk_over_socket(path: str) -> bytes:
    """Binds a socket to a new name, connects to it, and passes a message."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"hello")
            return accepted.recv(5)


def fails_or_value(path: str, name: str) -> bytes | None:
    """An xattr of the name itself, or None where it has none."""
    try:
        return getxattr(path, name)
    except OSError:
        return None


def punch(fd: int, offset: int, length: int) -> None:
    """Makes a hole with fallocate(2)."""
    syscalls.fallocate(fd, syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE, offset, length)
