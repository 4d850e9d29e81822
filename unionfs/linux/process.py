"""What is this process to the whole system?  One that was started before there is a root filesystem is treated in its own way."""

import ctypes
import os
import signal
from typing import Final

from unionfs.linux import procfs

#: The signals by which a user or the system ends a program.
ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: There as long as the system runs from its initramfs (os-release(5)).
_INITRD_RELEASE: Final = "/etc/initrd-release"
#: Where the address of the arguments is in /proc/self/stat, behind the name of the program (proc(5), field 48).
_ARG_START: Final = 45


def in_initramfs() -> bool:
    """Was this process started from the initramfs?  What it mounts may become the root of the system."""
    return os.path.exists(_INITRD_RELEASE)


def keep_through_shutdown() -> None:
    """Have systemd spare this process until the root filesystem is gone: its command line begins with `@` from now on.

    (systemd.io/ROOT_STORAGE_DAEMONS, for programs of the initramfs that serve the root filesystem.)
    """
    with open(procfs.path("self/stat"), encoding="ascii", errors="replace") as stat:
        address = int(stat.read().rpartition(")")[2].split()[_ARG_START])
    if address:
        ctypes.memmove(address, b"@", 1)
