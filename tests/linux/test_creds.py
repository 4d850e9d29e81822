"""Who creates a file when a thread has put on other filesystem ids, and what may the thread still do?"""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unionfs.linux import creds


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
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(creds.has_capability(creds.CAP_SYS_ADMIN) or creds.has_capability(creds.CAP_FSETID))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not creds.has_capability(creds.CAP_SYS_ADMIN, pid), "the process is gone"


def test_initial_user_namespace() -> None:
    with open("/proc/self/uid_map", encoding="ascii") as mapping:
        whole = mapping.read().split() == ["0", "0", "4294967295"]
    assert creds.in_initial_user_namespace() == whole
    pid = os.fork()
    if pid == 0:
        os._exit(_in_namespace_of_its_own())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _in_namespace_of_its_own() -> int:
    """0 if a process in a new user namespace knows that it is."""
    from unionfs.linux import libc

    if libc.quick.unshare(0x10000000):
        return errno.EPERM
    with open("/proc/self/uid_map", "w", encoding="ascii") as mapping:
        mapping.write("0 0 1\n")
    return int(creds.in_initial_user_namespace() or not creds.has_capability(creds.CAP_SYS_ADMIN))


def test_keep_capabilities_without_the_right() -> None:
    """Without CAP_SETPCAP the answer is no."""
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(creds.keep_capabilities())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_process_that_waits_for_an_answer_and_was_killed(device: int, scratch: Path) -> None:
    """It can't end before the server has answered, which is why the server asks."""
    pid = os.fork()
    if pid == 0:
        os.stat(scratch / "mnt" / "name")
        os._exit(0)
    select.select([device], [], [])
    message = os.read(device, 1 << 17)
    assert not creds.is_being_killed(pid)
    os.kill(pid, signal.SIGUSR2)
    assert until(lambda: creds.is_being_killed(pid)), "a fatal signal whatever its number"
    os.kill(pid, signal.SIGKILL)
    assert creds.is_being_killed(pid)
    os.write(device, (16).to_bytes(4, "little") + (-errno.ENOENT).to_bytes(4, "little", signed=True) + message[8:16])
    assert os.waitpid(pid, 0)[0] == pid
    assert creds.is_being_killed(pid), "it is gone"


def until(condition: Callable[[], bool]) -> bool:
    """Wait up to 10 s for the condition."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_who_is_not_being_killed() -> None:
    assert not creds.is_being_killed(os.getpid())
    assert not creds.is_being_killed(0), "unknown: the kernel names no process of another namespace"
