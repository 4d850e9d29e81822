"""Is the union over pyfuse3 the same: do sequences of operations come out as on the kernel's overlayfs there too?

A subset of the suites, for the time they take; all of them run over pyfuse3 with UNIONFS_TEST_BINDING=pyfuse3.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.clients.command import unionfs
from tests.oracle import ops
from tests.oracle.case import Suite
from tests.oracle.cases_change import REMOVE, ROOT
from tests.oracle.cases_files import FILES, UNLINKED
from tests.oracle.cases_lookup import LOOKUP
from tests.oracle.cases_mistakes import MISTAKES, MISTAKES_AT_ROOT
from tests.oracle.cases_redirect import REDIRECT
from tests.oracle.conftest import RunCase
from tests.oracle.suites import SUITES
from tests.oracle.test_differential import check, every_case
from tests.oracle.union_worker import Lane
from tests.support import pyfuse3, syscalls
from tests.support.mounts import BINDING, Driver, Layers, Unionfs, option_string, unmount
from unionfs.linux import fs

OPTIONS = {"binding": "pyfuse3"}
FS_IOC_GETFLAGS = 0x80086601


def without_what_is_lacking(suite: Suite) -> Suite:
    """The suite without the cases that are known to come out otherwise."""
    return replace(suite, cases={name: case for name, case in suite.cases.items() if not pyfuse3.lacking(suite.name, name)})


CHOSEN = (MISTAKES, MISTAKES_AT_ROOT, LOOKUP, REMOVE, ROOT, FILES, UNLINKED, REDIRECT)
SUBSET = [without_what_is_lacking(suite) for suite in CHOSEN]


@pytest.mark.parametrize(("suite", "name"), list(every_case(SUBSET, "-pyfuse3")))
def test_as_the_kernel(
    suite: Suite, name: str, run_case: RunCase, subject: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINDING, "pyfuse3")
    check(suite, name, run_case(suite, name, OPTIONS), subject)


def test_the_list_of_what_is_lacking_names_cases() -> None:
    names = [f"{suite.name}-{case}" for suite in SUITES for case in suite.cases]
    for pattern in pyfuse3.CASES:
        assert [name for name in names if fnmatchcase(name, pattern)], pattern
    for call in pyfuse3.CALLS:
        assert any(hasattr(place, call) for place in (ops, syscalls, Lane)), call


# ---------------------------------------------------------------------------------------------------------- what is lacking

@pytest.fixture
def mnt(layers: Layers) -> Iterator[Path]:
    """A union over pyfuse3 with a lower and an upper file, and a lower one of two names."""
    (layers.lowers[0] / "lower").write_bytes(b"below" * 1000)
    (layers.top / "upper").write_bytes(b"above" * 1000)
    (layers.lowers[0] / "twice").write_text("two names")
    os.link(layers.lowers[0] / "twice", layers.lowers[0] / "again")
    with Unionfs().mount(layers, OPTIONS) as mounted:
        yield mounted


def refused(number: int) -> AbstractContextManager[object]:
    """The block fails with this errno."""
    return pytest.raises(OSError, match=rf"Errno {number}\]")


def test_what_libfuse_does_not_hand_on_is_refused(mnt: Path) -> None:
    with open(mnt / "upper", "r+b") as file:
        with refused(errno.EOPNOTSUPP):
            fs.fallocate(file.fileno(), 0, 0, 1 << 20)
        with refused(errno.ENOTTY):
            fcntl.ioctl(file.fileno(), FS_IOC_GETFLAGS, struct.pack("=q", 0))
    with refused(errno.EOPNOTSUPP):
        os.open(mnt, os.O_RDWR | os.O_TMPFILE)
    assert (mnt / "upper").read_bytes() == b"above" * 1000


def test_a_copied_range_holds_the_data(mnt: Path) -> None:
    with open(mnt / "lower", "rb") as source, open(mnt / "copy", "wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 5000, 0, 0) == 5000
    assert (mnt / "copy").read_bytes() == b"below" * 1000


def test_holes_are_data(mnt: Path, layers: Layers) -> None:
    with open(mnt / "sparse", "w+b") as file:
        file.truncate(1 << 20)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 1 << 20
    assert (layers.top / "sparse").stat().st_blocks == 0


def test_listings_agree_with_stat(mnt: Path, layers: Layers) -> None:
    """pyfuse3 has one number for an inode and its nodeid: users see that of the inode, also where two nodes have the same."""
    (mnt / "lower").write_bytes(b"copied up")
    (mnt / "new").mkdir()
    found = ops.listing(os.fspath(mnt))
    assert (found.unequal, found.absent) == ([], [])
    with os.scandir(mnt) as entries:
        assert all(entry.inode() == os.stat(entry.path).st_ino for entry in entries)


def test_names_of_one_lower_file(mnt: Path, layers: Layers) -> None:
    """Without index they are several files of one number. Listing one doesn't make the kernel lose hold of another."""
    with open(mnt / "twice") as first:
        for _ in range(3):
            with os.scandir(mnt) as entries:
                numbers = {entry.name: entry.inode() for entry in entries}
            assert numbers["twice"] == numbers["again"] == os.fstat(first.fileno()).st_ino
            Path("/proc/sys/vm/drop_caches").write_text("2\n")
        (mnt / "again").write_text("changed")
        assert first.read() == "two names"
    assert [(mnt / name).read_text() for name in ("twice", "again")] == ["two names", "changed"]


def test_it_says_why_there_is_no_passthrough(layers: Layers) -> None:
    done = unionfs("-v", "-o", option_string(layers, OPTIONS), layers.mnt)
    try:
        assert done.stdout == "passthrough: off (binding=pyfuse3 has none)\n"
    finally:
        unmount(layers.mnt)


def test_set_id_bits_go_with_a_truncating_open(mnt: Path) -> None:
    """By somebody who may not keep them: the kernel tells pyfuse3 nothing of that."""
    (mnt / "lower").chmod(0o6777)
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run([*stranger, "sh", "-c", ": > lower"], cwd=mnt, check=True)
    assert (mnt / "lower").stat().st_mode & 0o7777 == 0o777


def test_a_changed_mapping_takes_no_capability(mnt: Path) -> None:
    """Its pages are written by the server as any other data, and those take the capability away."""
    value = syscalls.capability(1 << 13)
    os.setxattr(mnt / "upper", "security.capability", value)
    with open(mnt / "upper", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        os.setxattr(mnt / "upper", "security.capability", value)
        mapping[:3] = b"map"
        mapping.flush()
    assert os.getxattr(mnt / "upper", "security.capability") == value
    (mnt / "upper").write_bytes(b"written")
    assert "security.capability" not in os.listxattr(mnt / "upper")


@pytest.mark.parametrize(("group", "kept"), [(1000, 0), (2000, 0o2000)])
def test_set_group_id_without_execution(group: int, kept: int, mnt: Path) -> None:
    """It stays for members of the file's group alone, which the kernel says by flags that pyfuse3 does not hand on."""
    caller = ["setpriv", "--reuid=1000", f"--regid={group}", "--clear-groups", "sh", "-ec"]
    for change in ("echo more >> lower", "truncate -s 3 lower", ": > lower"):
        for mode in (0o6666, 0o2666):
            os.chown(mnt / "lower", 1000, 2000)
            (mnt / "lower").chmod(mode)
            subprocess.run([*caller, change], cwd=mnt, check=True)
            assert (mnt / "lower").stat().st_mode & 0o7777 == 0o666 | kept, (change, oct(mode))
