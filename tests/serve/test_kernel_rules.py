"""Does the fake kernel refuse what the kernel refuses?  A rule that it did not enforce could not fail a test of the server."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serve import kernel_rules
from tests.serve.kernel_rules import (
    DIRECT_IO,
    GETATTR,
    INIT_EXT,
    INIT_INODES,
    INIT_PASSTHROUGH,
    INIT_WRITEBACK,
    NOFLUSH,
    PARALLEL,
    PASSTHROUGH,
    READ,
    READDIR,
    WRITE,
    Rules,
)

REGULAR, DIRECTORY = 0o100644, 0o040755
KEEP_CACHE, CACHE_DIR, STREAM = 1 << 1, 1 << 3, 1 << 4
RELEASED = INIT_EXT | INIT_PASSTHROUGH
DRAFT = RELEASED | INIT_INODES


def rules(flags: int, depth: int = 1) -> Rules:
    """A kernel that has agreed on these flags."""
    made = Rules()
    made.flags, made.max_stack_depth = flags, depth
    return made


@contextmanager
def fails(code: int) -> Iterator[None]:
    """The block ends with that errno."""
    with pytest.raises(OSError, match=r".") as failed:
        yield
    assert failed.value.errno == code


@pytest.fixture
def open_path(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Descriptors of `one` and `two`, regular files, and of `directory`."""
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "directory").mkdir()
    opened: list[int] = []

    def path(name: str) -> int:
        opened.append(os.open(tmp_path / name, os.O_PATH))
        return opened[-1]

    yield path
    for fd in opened:
        os.close(fd)


def number(fd: int) -> int:
    return os.fstat(fd).st_ino


@pytest.mark.parametrize(
    ("flags", "depth", "passthrough", "inodes"),
    [
        (RELEASED, 1, True, False),
        (RELEASED, 2, True, False),
        (RELEASED, 0, False, False),
        (RELEASED, 3, False, False),
        (INIT_PASSTHROUGH, 1, False, False),
        (RELEASED | INIT_WRITEBACK, 1, False, False),
        (DRAFT, 1, True, True),
        (DRAFT & ~INIT_PASSTHROUGH, 1, False, False),
    ],
)
def test_what_init_gives(flags: int, depth: int, passthrough: bool, inodes: bool) -> None:
    made = rules(flags, depth)
    assert (made.passthrough, made.inode_operations) == (passthrough, inodes)


class TestRegistration:
    """FUSE_DEV_IOC_BACKING_OPEN and CLOSE."""

    def test_not_without_agreement_or_privilege(self, open_path: Callable[[str], int]) -> None:
        with fails(errno.EPERM):
            rules(0).backing_open(open_path("one"))
        with fails(errno.EPERM):
            rules(RELEASED).backing_open(open_path("one"), privileged=False)
        with fails(errno.EPERM):
            rules(0).backing_close(1)

    def test_released_kernels_know_no_operations(self, open_path: Callable[[str], int]) -> None:
        with fails(errno.EINVAL):
            rules(RELEASED).backing_open(open_path("one"), GETATTR)

    def test_unknown_operations(self, open_path: Callable[[str], int]) -> None:
        with fails(errno.EINVAL):
            rules(DRAFT).backing_open(open_path("one"), GETATTR | 1 << 60)

    @pytest.mark.parametrize("operations", [0, READ | WRITE])
    def test_types(self, operations: int, open_path: Callable[[str], int]) -> None:
        """Other files than regular ones only with an operation on the inode."""
        with fails(errno.EISDIR):
            rules(DRAFT).backing_open(open_path("directory"), operations)
        null = os.open("/dev/null", os.O_PATH)
        with fails(errno.EINVAL):
            rules(DRAFT).backing_open(null, operations)
        os.close(null)
        made = rules(DRAFT)
        assert made.backing_open(open_path("directory"), GETATTR | operations) == 1
        made.close()

    def test_stacked_too_deep(self, open_path: Callable[[str], int], monkeypatch: pytest.MonkeyPatch) -> None:
        status = os.open("/proc/self/status", os.O_PATH)
        with fails(errno.ELOOP):
            rules(RELEASED, 2).backing_open(status)
        os.close(status)
        assert kernel_rules.MOST_STACKED == 2

    def test_closing(self, open_path: Callable[[str], int]) -> None:
        made = rules(RELEASED)
        backing_id = made.backing_open(open_path("one"))
        made.backing_close(backing_id)
        with fails(errno.ENOENT):
            made.backing_close(backing_id)


class TestOpen:
    """fuse_file_io_open."""

    @pytest.fixture
    def made(self) -> Iterator[Rules]:
        made = rules(RELEASED)
        made.entry(2, 100, REGULAR)
        yield made
        made.close()

    def test_an_id_that_is_not_there(self, made: Rules) -> None:
        for backing_id in (0, -1, 1, 77):
            with fails(errno.EIO):
                made.open(2, 0, PASSTHROUGH, backing_id)

    def test_without_agreement(self, open_path: Callable[[str], int]) -> None:
        made = rules(0)
        made.entry(2, 100, REGULAR)
        with fails(errno.EIO):
            made.open(2, 0, PASSTHROUGH, 1)

    @pytest.mark.parametrize("flag", [KEEP_CACHE, CACHE_DIR, STREAM])
    def test_flags_that_may_not_accompany(self, flag: int, made: Rules, open_path: Callable[[str], int]) -> None:
        backing_id = made.backing_open(open_path("one"))
        with fails(errno.EIO):
            made.open(2, 0, PASSTHROUGH | flag, backing_id)
        for harmless in (DIRECT_IO, NOFLUSH, PARALLEL):
            assert made.open(2, 0, PASSTHROUGH | harmless, backing_id).backing is not None

    def test_another_file(self, made: Rules, open_path: Callable[[str], int]) -> None:
        """Even the same file registered a second time; after the last close it may be another."""
        fd = open_path("one")
        first, again, other = made.backing_open(fd), made.backing_open(fd), made.backing_open(open_path("two"))
        made.open(2, 7, PASSTHROUGH, first)
        for backing_id in (again, other):
            with fails(errno.EIO):
                made.open(2, 8, PASSTHROUGH, backing_id)
        made.release(2, 7)
        made.open(2, 9, PASSTHROUGH, other)

    def test_beside_cached_opens(self, made: Rules, open_path: Callable[[str], int]) -> None:
        backing_id = made.backing_open(open_path("one"))
        made.open(2, 7, 0, 0)
        with fails(errno.EIO):
            made.open(2, 8, PASSTHROUGH, backing_id)
        made.release(2, 7)
        made.open(2, 8, PASSTHROUGH, backing_id)

    def test_cached_or_direct_beside_passthrough(self, made: Rules, open_path: Callable[[str], int]) -> None:
        made.open(2, 7, PASSTHROUGH, made.backing_open(open_path("one")))
        for flags in (0, KEEP_CACHE, DIRECT_IO):
            with fails(errno.EIO):
                made.open(2, 8, flags, 0)

    def test_direct_opens_hold_no_mode_till_they_are_mapped(self, made: Rules, open_path: Callable[[str], int]) -> None:
        backing_id = made.backing_open(open_path("one"))
        direct = made.open(2, 7, DIRECT_IO, 0)
        made.open(2, 8, PASSTHROUGH, backing_id)
        with fails(errno.ENODEV):
            made.map_shared(direct)
        made.release(2, 8)
        made.map_shared(direct)
        with fails(errno.EIO):
            made.open(2, 8, PASSTHROUGH, backing_id)

    def test_an_open_outlives_its_id(self, made: Rules, open_path: Callable[[str], int]) -> None:
        backing_id = made.backing_open(open_path("one"))
        opened = made.open(2, 7, PASSTHROUGH, backing_id)
        made.backing_close(backing_id)
        assert opened.backing is not None
        assert number(opened.backing.fd) == opened.backing.ino
        with fails(errno.EIO):
            made.open(2, 8, PASSTHROUGH, backing_id)
        made.release(2, 7)


class TestDraft:
    """Attaching, and what it means for opens."""

    @pytest.fixture
    def made(self) -> Iterator[Rules]:
        made = rules(DRAFT)
        yield made
        made.close()

    def test_getattr_is_the_minimum(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        with fails(errno.EOPNOTSUPP):
            made.entry(2, number(fd), REGULAR, made.backing_open(fd, READ | WRITE))

    def test_unknown_id(self, made: Rules) -> None:
        with fails(errno.EIO):
            made.entry(2, 100, REGULAR, 3)

    def test_types_have_to_match(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("directory")
        with fails(errno.EIO):
            made.entry(2, number(fd), REGULAR, made.backing_open(fd, GETATTR))
        with fails(errno.EIO):
            made.entry(3, number(fd), REGULAR, made.backing_open(open_path("one"), GETATTR | READDIR))
        made.entry(4, number(fd), DIRECTORY, made.backing_open(fd, GETATTR | READDIR))

    def test_numbers_have_to_match(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        backing_id = made.backing_open(fd, GETATTR)
        with fails(errno.EIO):
            made.entry(2, number(fd) + 1, REGULAR, backing_id)
        with fails(errno.EIO):
            made.open(2, 0, PASSTHROUGH, backing_id)

    def test_a_nodeid_keeps_its_number(self, made: Rules) -> None:
        made.entry(2, 100, REGULAR)
        with fails(errno.EIO):
            made.entry(2, 101, REGULAR)

    def test_a_second_attach_is_ignored(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        inode = made.entry(2, number(fd), REGULAR, made.backing_open(fd, GETATTR))
        first = inode.attached
        made.entry(2, number(fd), REGULAR, made.backing_open(fd, GETATTR))
        assert inode.attached is first is not None

    def test_cached_io_or_another_file_in_the_way(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        backing_id, other = made.backing_open(fd, GETATTR), made.backing_open(fd, GETATTR)
        made.entry(2, number(fd), REGULAR)
        made.open(2, 7, 0, 0)
        with fails(errno.EBUSY):
            made.entry(2, number(fd), REGULAR, backing_id)
        made.release(2, 7)
        made.open(2, 8, PASSTHROUGH, other)
        with fails(errno.EBUSY):
            made.entry(2, number(fd), REGULAR, backing_id)
        assert made.entry(2, number(fd), REGULAR, other).attached is made.backings[other]

    def test_all_opens_of_an_attached_inode(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        backing_id = made.backing_open(fd, GETATTR)
        inode = made.entry(2, number(fd), REGULAR, backing_id)
        made.backing_close(backing_id)
        assert made.open(2, 7, PASSTHROUGH, 0).backing is inode.attached
        with fails(errno.EIO):
            made.open(2, 8, 0, 0)
        with fails(errno.EIO):
            made.open(2, 8, PASSTHROUGH, made.backing_open(fd, GETATTR))
        made.release(2, 7)
        assert inode.attached is not None

    def test_forgotten(self, made: Rules, open_path: Callable[[str], int]) -> None:
        fd = open_path("one")
        backing_id = made.backing_open(fd, GETATTR)
        made.entry(2, number(fd), REGULAR, backing_id)
        made.entry(2, number(fd), REGULAR)
        made.forget(2, 1)
        assert 2 in made.inodes
        made.forget(2, 1)
        assert 2 not in made.inodes
        assert made.backings[backing_id].users == 1
