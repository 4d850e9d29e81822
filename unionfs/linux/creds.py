"""With whose identity does a thread create files?  Filesystem ids without losing capabilities, and what the process may do."""

import ctypes
import os
from collections.abc import Callable
from typing import Final

from unionfs.linux import libc, procfs

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FSETID: Final = 4
CAP_SYS_ADMIN: Final = 21
_PR_GET_SECUREBITS: Final = 27
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 4
#: How the names of io_uring's workers begin.
_IO_WORKER: Final = "iou-"
#: Of the initial user namespace in nsfs (linux/nsfs.h).
_USER_NS_INIT_INO: Final = 0xEFFFFFFD

_prctl: Final = libc.function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_quick_syscall: Final = libc.quick.syscall
_quick_syscall.argtypes = [ctypes.c_long, ctypes.c_long]
_quick_syscall.restype = ctypes.c_long


def keep_capabilities() -> bool:
    """Let this thread change its filesystem uid without losing capabilities (SECBIT_NO_SETUID_FIXUP, capabilities(7)).

    False when that is not allowed (no CAP_SETPCAP).
    """
    bits = _prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    return bits >= 0 and _prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0


def set_fsuid(uid: int) -> None:
    """setfsuid(2) for this thread alone; it reports no failure."""
    _quick_syscall(libc.NUMBERS["setfsuid"], uid)


def set_fsgid(gid: int) -> None:
    """setfsgid(2) for this thread alone; it reports no failure."""
    _quick_syscall(libc.NUMBERS["setfsgid"], gid)


def _status(pid: int | str) -> dict[str, str]:
    with open(procfs.path(f"{pid}/status"), "rb") as status:
        text = status.read().decode(errors="replace")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _acting(pid: int | str) -> list[dict[str, str]]:
    """The status of the thread with whose credentials a thread acts; empty when that can't be told.

    That is for pid 0, one that is gone, and the kernel's own.  A worker of io_uring acts for one of the other threads of its
    process, with what credentials that had then, which nobody shows: all of them, that must agree (io_uring_enter(2)).
    """
    if not pid:
        return []
    try:
        status = _status(pid)
        if status.get("Kthread", "0") != "0":
            return []
        if not status["Name"].startswith(_IO_WORKER):
            return [status]
        threads = map(_status, os.listdir(procfs.path(f"{pid}/task")))
        return [thread for thread in threads if not thread["Name"].startswith(_IO_WORKER)]
    except (OSError, KeyError):
        return []


def _all_agree(pid: int | str, holds: Callable[[dict[str, str]], bool]) -> bool:
    found = _acting(pid)
    return bool(found) and all(map(holds, found))


def has_capability(capability: int, pid: int | str = "self") -> bool:
    """Is the capability in the thread's effective set (in its own user namespace), by default in this process's?

    False when that can't be told.
    """
    return _all_agree(pid, lambda status: bool(int(status["CapEff"], 16) >> capability & 1))


def fsuid_of(pid: int) -> int:
    """The filesystem uid with which a thread acts; -1 when that can't be told."""
    found = {int(status["Uid"].split()[3]) for status in _acting(pid)}
    return found.pop() if len(found) == 1 else -1


def is_in_group(pid: int, gid: int) -> bool:
    """Is it the filesystem gid or a supplementary group of the thread?  False when that can't be told."""
    return _all_agree(pid, lambda status: str(gid) in (status["Gid"].split()[3], *status["Groups"].split()))


def in_initial_user_namespace() -> bool:
    """Does this process run in the initial user namespace?

    Told by the number that this namespace alone has, since another one may map all ids to themselves as well.
    """
    try:
        return os.stat(procfs.path("self/ns/user")).st_ino == _USER_NS_INIT_INO
    except OSError:
        return True


def mapped_ids() -> tuple[int, int]:
    """How many user ids and how many group ids the process's user namespace has (user_namespaces(7))."""
    counts = []
    for kind in ("uid", "gid"):
        with open(procfs.path(f"self/{kind}_map"), encoding="ascii") as mapping:
            counts.append(sum(int(line.split()[2]) for line in mapping))
    return counts[0], counts[1]


def has_no_new_privileges() -> bool:
    """Do set-user-ID programs that this process starts get no privilege (PR_SET_NO_NEW_PRIVS)?"""
    return _status("self").get("NoNewPrivs") == "1"


def is_being_killed(pid: int) -> bool:
    """Is SIGKILL, or another signal that ends it, pending for the thread?  True when it is gone; False for pid 0 (unknown).

    A fatal signal puts SIGKILL into every thread's pending set (kernel/signal.c, complete_signal).
    """
    if not pid:
        return False
    try:
        status = _status(pid)
        return bool((int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)) >> 8 & 1)
    except (OSError, KeyError, ValueError):
        return True
