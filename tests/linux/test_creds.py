"""Who creates a file when a thread has put on other filesystem ids, and what may the thread still do?"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.oracle.child import in_child
from unionfs.linux import creds, libc, mount

SECONDS = 20.0
CLONE_NEWUSER = 0x10000000
MNT_FORCE = 1
"""umount2(2): abort what is under way."""


def in_thread(act: Callable[[], None]) -> None:
    """Credentials belong to threads: whatever `act` changes ends with its thread.  Its exception is raised here."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def capabilities() -> int:
    """The effective set of this thread."""
    with open("/proc/thread-self/status", encoding="ascii") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def test_new_files_get_the_ids_and_capabilities_stay(scratch: Path) -> None:
    foreign = scratch / "foreign"
    foreign.write_bytes(b"")
    foreign.chmod(0)

    def act() -> None:
        assert creds.keep_capabilities()
        before = capabilities()
        creds.set_fsgid(1001)
        creds.set_fsuid(1000)
        (scratch / "made").write_bytes(b"")
        assert capabilities() == before
        os.chown(foreign, 5, 5)
        foreign.write_bytes(b"CAP_DAC_OVERRIDE is still there")
        creds.set_fsuid(0)
        (scratch / "after").write_bytes(b"")

    in_thread(act)
    made, after = (scratch / "made").stat(), (scratch / "after").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1001)
    assert (after.st_uid, after.st_gid) == (0, 1001)


def test_without_it_capabilities_go(scratch: Path) -> None:
    """What `keep_capabilities` is for: setfsuid(2) alone takes away what it takes to write anybody's file."""
    (scratch / "foreign").write_bytes(b"")
    (scratch / "foreign").chmod(0)

    def act() -> None:
        creds.set_fsuid(1000)
        with pytest.raises(PermissionError):
            (scratch / "foreign").write_bytes(b"")

    in_thread(act)


def test_other_threads_keep_theirs(scratch: Path) -> None:
    def act() -> None:
        creds.keep_capabilities()
        creds.set_fsuid(1000)

    in_thread(act)
    (scratch / "file").write_bytes(b"")
    assert (scratch / "file").stat().st_uid == 0


def test_has_capability() -> None:
    assert creds.has_capability(creds.CAP_SYS_ADMIN)
    assert creds.has_capability(creds.CAP_CHOWN, os.getpid())
    assert in_child(_as_nobody, SECONDS, nothing) == (False, False, False)
    process = subprocess.Popen(["true"])
    process.wait()
    assert not creds.has_capability(creds.CAP_SYS_ADMIN, process.pid), "the process is gone"


def _as_nobody() -> tuple[bool, bool, bool]:
    """What nobody has: two capabilities, and the right to keep them."""
    os.setresuid(65534, 65534, 65534)
    return creds.has_capability(creds.CAP_SYS_ADMIN), creds.has_capability(creds.CAP_FSETID), creds.keep_capabilities()


def test_is_in_group() -> None:
    assert in_child(_in_groups, SECONDS, nothing) == [True, True, False]
    assert not creds.is_in_group(0, 0), "nobody that can be seen from here"


def _in_groups() -> list[bool]:
    """Is a process in its group, in a supplementary one, and in another?"""
    os.setgroups([5, 7])
    os.setresgid(3, 3, 3)
    return [creds.is_in_group(os.getpid(), gid) for gid in (3, 7, 0)]


def test_initial_user_namespace() -> None:
    with open("/proc/self/uid_map", encoding="ascii") as mapping:
        whole = mapping.read().split() == ["0", "0", "4294967295"]
    assert creds.in_initial_user_namespace() == whole
    assert in_child(_in_namespace_of_its_own, SECONDS, nothing) == (False, True)


def _in_namespace_of_its_own() -> tuple[bool, bool]:
    """What a process in a new user namespace takes it for, and whether it has all capabilities there."""
    assert libc.quick.unshare(CLONE_NEWUSER) == 0
    with open("/proc/self/uid_map", "w", encoding="ascii") as mapping:
        mapping.write("0 0 1\n")
    return creds.in_initial_user_namespace(), creds.has_capability(creds.CAP_SYS_ADMIN)


def nothing() -> None:
    """A child that hangs holds up nobody."""


def test_a_process_that_waits_for_an_answer_and_was_killed(device: int, scratch: Path) -> None:
    """It can't end before the server has answered, which is why the server asks."""
    looker = subprocess.Popen(["ls", scratch / "mnt"], stderr=subprocess.DEVNULL)
    try:
        select.select([device], [], [])
        message = os.read(device, 1 << 21)
        assert not creds.is_being_killed(looker.pid)
        looker.send_signal(signal.SIGUSR2)
        assert until(lambda: creds.is_being_killed(looker.pid)), "a fatal signal, whatever its number"
        looker.kill()
        assert creds.is_being_killed(looker.pid)
        assert looker.poll() is None
        os.write(device, (16).to_bytes(4, "little") + (-errno.EACCES).to_bytes(4, "little", signed=True) + message[8:16])
        assert until(lambda: looker.poll() is not None)
    finally:
        # Whatever is still under way, nobody else will answer it.
        mount.unmount(os.fsencode(scratch / "mnt"), MNT_FORCE)
        looker.wait()
    assert creds.is_being_killed(looker.pid), "it is gone"


def until(condition: Callable[[], bool]) -> bool:
    """Wait up to 10 s for the condition."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_who_is_not_being_killed() -> None:
    assert not creds.is_being_killed(os.getpid())
    assert not creds.is_being_killed(0), "unknown: the kernel names no process of another namespace"
