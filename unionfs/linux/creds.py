"""With whose identity does a thread create files?  Filesystem ids without losing capabilities, and what the process may do."""

import ctypes
from typing import Final

from unionfs.linux import libc

CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_FSETID: Final = 4
CAP_SYS_ADMIN: Final = 21
_PR_GET_SECUREBITS: Final = 27
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 4

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
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in status)}


def has_capability(capability: int, pid: int | str = "self") -> bool:
    """Is the capability in the process's effective set (in its own user namespace)?  False when the process is gone."""
    try:
        return bool(int(_status(pid)["CapEff"], 16) >> capability & 1)
    except (OSError, KeyError, ValueError):
        return False


def in_initial_user_namespace() -> bool:
    """Does this process run in the initial user namespace?  Told by its identity mapping over all ids."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as mapping:
            return mapping.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return True


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
