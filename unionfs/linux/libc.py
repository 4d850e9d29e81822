"""How is a C library function or a raw system call reached?  The one binding all of linux/ shares.

Two handles on the C library: `quick` keeps the interpreter lock during the call (cheaper, for calls that answer from the
kernel's caches), `slow` releases it (for calls that may wait for a device).
"""

import ctypes
import os
import platform
from collections.abc import Callable
from typing import Any, Final

quick: Final = ctypes.PyDLL(None, use_errno=True)
slow: Final = ctypes.CDLL(None, use_errno=True)

_COMMON: Final = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "openat2": 437, "mount_setattr": 442,
    "fchmodat2": 452,
}  # fmt: skip
_BY_MACHINE: Final = {
    "x86_64": {"renameat2": 316, "name_to_handle_at": 303, "open_by_handle_at": 304, "setfsuid": 122, "setfsgid": 123},
    "aarch64": {"renameat2": 276, "name_to_handle_at": 264, "open_by_handle_at": 265, "setfsuid": 151, "setfsgid": 152},
    "riscv64": {"renameat2": 276, "name_to_handle_at": 264, "open_by_handle_at": 265, "setfsuid": 151, "setfsgid": 152},
}
#: System call numbers (asm/unistd.h); those of 2019 and later are the same on every architecture.
NUMBERS: Final = {**_COMMON, **_BY_MACHINE.get(platform.machine(), _BY_MACHINE["x86_64"])}

_syscall = slow.syscall
_syscall.restype = ctypes.c_long


def failed() -> OSError:
    """The exception for the C library call that has just failed in this thread."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def syscall(name: str, *args: Any) -> int:
    """Make the system call `name`; integers are passed as C long, bytes as pointers.  Raises OSError with its errno."""
    result: int = _syscall(ctypes.c_long(NUMBERS[name]), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result < 0:
        raise failed()
    return result


def function(name: str, *argtypes: Any, blocking: bool = False) -> Callable[..., int]:
    """The C library's function `name`, returning int, as a plain callable without error check."""
    found = (slow if blocking else quick)[name]
    found.argtypes = argtypes
    found.restype = ctypes.c_int
    return found
