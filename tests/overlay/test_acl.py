"""Does a new object get the mode and the ACL that a real filesystem gives it below a directory with a default ACL?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.syscalls import ACL_ACCESS, ACL_DEFAULT, acl
from unionfs.overlay.acl import for_new_object

fuzz = settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
RIGHTS = st.sampled_from(["---", "--x", "-w-", "-wx", "r--", "r-x", "rw-", "rwx"])
NAMED: st.SearchStrategy[dict[int, str]] = st.dictionaries(st.integers(1, 5), RIGHTS, max_size=2)


@st.composite
def default_acls(draw: st.DrawFn) -> bytes:
    """A valid ACL: the three base entries, named ones with a mask, or a mask alone; in the order that is required."""
    users, groups = draw(NAMED), draw(NAMED)
    entries = [f"u::{draw(RIGHTS)}"]
    entries += [f"user:{number}:{rights}" for number, rights in sorted(users.items())]
    entries.append(f"g::{draw(RIGHTS)}")
    entries += [f"group:{number}:{rights}" for number, rights in sorted(groups.items())]
    lone_mask: bool = draw(st.booleans())
    if users or groups or lone_mask:
        entries.append(f"mask::{draw(RIGHTS)}")
    entries.append(f"o::{draw(RIGHTS)}")
    return acl(*entries)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """One that must not count where there is a default ACL."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@fuzz
@given(default=default_acls(), mode=st.integers(0, 0o7777))
@example(default=acl("u::rwx", "g::r-x", "o::---"), mode=0o777)
@example(default=acl("u::rwx", "g::rwx", "mask::---", "o::rwx"), mode=0o666)
def test_as_the_filesystem_does(default: bytes, mode: int, scratch: Path) -> None:
    parent = scratch / "parent"
    parent.mkdir()
    try:
        os.setxattr(parent, ACL_DEFAULT, default)
        wanted, access = for_new_object(default, mode)
        os.close(os.open(parent / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
        os.mkfifo(parent / "fifo", mode & 0o777)
        os.mkdir(parent / "dir", mode)
        # mkdir(2) leaves set-id bits to the filesystem.
        for name, bits in (("file", 0o7777), ("fifo", 0o777), ("dir", 0o1777)):
            assert stat.S_IMODE(os.lstat(parent / name).st_mode) == wanted & bits, name
            assert access_acl(parent / name) == access, name
        assert os.getxattr(parent / "dir", ACL_DEFAULT) == default
    finally:
        os.system(f"rm -r {parent}")


def access_acl(path: Path) -> bytes | None:
    """The access ACL, if there is more than the mode."""
    return os.getxattr(path, ACL_ACCESS) if ACL_ACCESS in os.listxattr(path) else None


@pytest.mark.parametrize("value", [b"", b"\x02\0\0", b"\x01\0\0\0", b"\x03\0\0\0" + bytes(8)])
def test_what_is_no_acl_counts_for_nothing(value: bytes) -> None:
    assert for_new_object(value, 0o754) == (0o754, None)
