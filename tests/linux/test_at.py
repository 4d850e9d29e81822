"""Do the *at calls change the object they are told to, by name and by an O_PATH descriptor, and never one behind a symlink?"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unionfs.linux import at, libc


@contextmanager
def refused(code: int) -> Iterator[None]:
    """The block has to fail with this errno."""
    with pytest.raises(OSError, match="Errno") as failed:
        yield
    assert failed.value.errno == code, failed.value


@pytest.fixture
def file(scratch: Path) -> Path:
    """A file, and a symlink to it."""
    (scratch / "file").write_bytes(b"data")
    (scratch / "file").chmod(0o644)
    (scratch / "symlink").symlink_to("file")
    return scratch / "file"


Place = tuple[int, bytes]


@pytest.fixture(params=["by name", "by O_PATH descriptor"])
def place(request: pytest.FixtureRequest, directory: int) -> Iterator[Callable[[str], Place]]:
    """`place(name)` addresses an object of `scratch` in one of the two ways."""
    opened = []

    def address(name: str) -> Place:
        if request.param == "by name":
            return directory, name.encode()
        opened.append(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory))
        return opened[-1], b""

    yield address
    for fd in opened:
        os.close(fd)


def test_chmod(file: Path, place: Callable[[str], Place]) -> None:
    at.chmod(*place("file"), 0o6501)
    assert modes.S_IMODE(file.stat().st_mode) == 0o6501
    with refused(errno.EOPNOTSUPP):
        at.chmod(*place("symlink"), 0o600)
    assert modes.S_IMODE(file.stat().st_mode) == 0o6501


def test_chmod_of_an_older_kernel(file: Path, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libc.NUMBERS, "fchmodat2", 100_000)
    at.chmod(*place("file"), 0o6501)
    assert modes.S_IMODE(file.stat().st_mode) == 0o6501
    with refused(errno.EOPNOTSUPP):
        at.chmod(*place("symlink"), 0o600)


def test_chown(file: Path, place: Callable[[str], Place]) -> None:
    at.chown(*place("file"), 4_000_000_000, 5)
    assert (file.stat().st_uid, file.stat().st_gid) == (4_000_000_000, 5)
    at.chown(*place("file"), -1, 6)
    at.chown(*place("file"), 7, 0xFFFFFFFF)
    assert (file.stat().st_uid, file.stat().st_gid) == (7, 6)
    at.chown(*place("symlink"), 8, 9)
    symlink = (file.parent / "symlink").lstat()
    assert (symlink.st_uid, symlink.st_gid, file.stat().st_uid) == (8, 9, 7)


def test_utimens(file: Path, place: Callable[[str], Place]) -> None:
    at.utimens(*place("file"), (1, 999_999_999), (-5, 3))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (1_999_999_999, -4_999_999_997)
    at.utimens(*place("file"), (0, at.UTIME_OMIT), (7, 8))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (1_999_999_999, 7_000_000_008)
    at.utimens(*place("file"), (0, at.UTIME_NOW), (0, at.UTIME_OMIT))
    assert file.stat().st_atime_ns > 1_500_000_000_000_000_000
    assert file.stat().st_mtime_ns == 7_000_000_008
    at.utimens(*place("symlink"), (11, 12), (13, 14))
    symlink = (file.parent / "symlink").lstat()
    assert (symlink.st_atime_ns, symlink.st_mtime_ns) == (11_000_000_012, 13_000_000_014)
    assert file.stat().st_mtime_ns == 7_000_000_008


def test_link(file: Path, directory: int, place: Callable[[str], Place]) -> None:
    at.link(*place("file"), directory, b"second")
    assert (file.parent / "second").stat().st_ino == file.stat().st_ino
    at.link(*place("symlink"), directory, b"second symlink")
    assert os.readlink(file.parent / "second symlink") == "file"
    with refused(errno.EEXIST):
        at.link(*place("file"), directory, b"second")


def test_link_gives_an_unnamed_file_a_name(scratch: Path, directory: int) -> None:
    fd = os.open(scratch, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"data")
    at.link(fd, b"", directory, b"named")
    os.close(fd)
    assert (scratch / "named").read_bytes() == b"data"


def test_readlink(file: Path, place: Callable[[str], Place]) -> None:
    assert at.readlink(*place("symlink")) == b"file"
    with refused(errno.ENOENT if place("file")[1] == b"" else errno.EINVAL):
        at.readlink(*place("file"))


def test_open_at(file: Path, directory: int) -> None:
    fd = at.open_at(directory, b"file", os.O_RDONLY)
    assert os.read(fd, 9) == b"data"
    assert not os.get_inheritable(fd)
    os.close(fd)
    with refused(errno.ELOOP):
        at.open_at(directory, b"symlink", os.O_RDONLY)
    fd = at.open_at(directory, b"new", os.O_CREAT | os.O_WRONLY, 0o640)
    assert modes.S_IMODE(os.fstat(fd).st_mode) & 0o700 == 0o600
    os.close(fd)


def test_open_at_reopens(file: Path, directory: int) -> None:
    path_fd = at.open_at(directory, b"file", os.O_PATH)
    file.rename(file.with_name("moved"))
    fd = at.open_at(path_fd, b"", os.O_RDWR | os.O_NOFOLLOW)
    os.pwrite(fd, b"DATA", 0)
    assert not os.get_inheritable(fd)
    os.close(fd)
    os.close(path_fd)
    assert file.with_name("moved").read_bytes() == b"DATA"


class TestOpenBeneath:
    """A path below a directory, and no way out of it."""

    @pytest.fixture(autouse=True)
    def tree(self, scratch: Path) -> None:
        (scratch / "outside").write_bytes(b"outside")
        inner = scratch / "base" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"inside")
        (scratch / "base" / "shortcut").symlink_to("inner")
        (scratch / "base" / "last").symlink_to("inner/file")
        (scratch / "base" / "mount").mkdir()

    @pytest.fixture
    def base(self, scratch: Path) -> Iterator[int]:
        fd = os.open(scratch / "base", os.O_PATH)
        yield fd
        os.close(fd)

    def test_a_path(self, base: int) -> None:
        fd = at.open_beneath(base, b"inner/file", os.O_RDONLY)
        assert os.read(fd, 9) == b"inside"
        assert not os.get_inheritable(fd)
        os.close(fd)
        fd = at.open_beneath(base, b"inner/../inner/./file", os.O_PATH)
        os.close(fd)

    @pytest.mark.parametrize("path", [b"shortcut/file", b"last", b"inner/../shortcut"])
    def test_no_symlink(self, base: int, path: bytes) -> None:
        with refused(errno.ELOOP):
            at.open_beneath(base, path, os.O_RDONLY)

    @pytest.mark.parametrize("path", [b"../outside", b"inner/../../outside", b"/etc/passwd", b".."])
    def test_no_escape(self, base: int, path: bytes) -> None:
        with refused(errno.EXDEV):
            at.open_beneath(base, path, os.O_RDONLY)

    def test_no_mount(self, base: int, scratch: Path) -> None:
        point = scratch / "base" / "mount"
        assert os.system(f"mount -t tmpfs tmpfs {point}") == 0
        try:
            with refused(errno.EXDEV):
                at.open_beneath(base, b"mount", os.O_PATH)
        finally:
            assert os.system(f"umount {point}") == 0

    def test_absent(self, base: int) -> None:
        with refused(errno.ENOENT):
            at.open_beneath(base, b"inner/absent", os.O_RDONLY)


class TestRename:
    """renameat2(2) and its flags."""

    @pytest.fixture(autouse=True)
    def files(self, scratch: Path) -> None:
        (scratch / "a").write_bytes(b"a")
        (scratch / "b").write_bytes(b"b")

    def test_replace(self, scratch: Path, directory: int) -> None:
        at.rename(directory, b"a", directory, b"b")
        assert os.listdir(scratch) == ["b"]
        assert (scratch / "b").read_bytes() == b"a"

    def test_noreplace(self, scratch: Path, directory: int) -> None:
        with refused(errno.EEXIST):
            at.rename(directory, b"a", directory, b"b", at.RENAME_NOREPLACE)
        at.rename(directory, b"a", directory, b"c", at.RENAME_NOREPLACE)
        assert sorted(os.listdir(scratch)) == ["b", "c"]

    def test_exchange(self, scratch: Path, directory: int) -> None:
        at.rename(directory, b"a", directory, b"b", at.RENAME_EXCHANGE)
        assert (scratch / "a").read_bytes() + (scratch / "b").read_bytes() == b"ba"
        with refused(errno.ENOENT):
            at.rename(directory, b"a", directory, b"absent", at.RENAME_EXCHANGE)

    def test_whiteout(self, scratch: Path, directory: int) -> None:
        at.rename(directory, b"a", directory, b"c", at.RENAME_WHITEOUT)
        left = (scratch / "a").stat()
        assert stat_kind(left) == (modes.S_IFCHR, 0)
        assert (scratch / "c").read_bytes() == b"a"

    def test_unknown_flags(self, directory: int) -> None:
        with refused(errno.EINVAL):
            at.rename(directory, b"a", directory, b"b", 0x80)


def stat_kind(found: os.stat_result) -> tuple[int, int]:
    """Type and device number."""
    return modes.S_IFMT(found.st_mode), found.st_rdev


def test_path(directory: int) -> None:
    assert at.path(directory, b"name") == b"/proc/self/fd/%d/name" % directory
    assert at.path(directory, b"") == b"/proc/self/fd/%d" % directory
