"""How do idle CPUs wait?  The kernel's request for their latency, and what it does about it.

An idle CPU sleeps, and waking it takes some ten microseconds; in a virtual machine, where sleeping is left to the host, several
tens.  Whoever holds /dev/cpu_dma_latency open may ask for less; with zero, idle CPUs wait awake, all of them
(Documentation/admin-guide/pm/cpuidle.rst, "Power Management Quality of Service for CPUs").  The request ends with its descriptor.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

DEVICE: Final = "/dev/cpu_dma_latency"
_DRIVER: Final = Path("/sys/devices/system/cpu/cpuidle/current_driver")
#: Microseconds as a 32-bit number: none; and what is no request, PM_QOS_CPU_LATENCY_DEFAULT_VALUE (include/linux/pm_qos.h).
_NONE: Final = struct.pack("=i", 0)
_ANY: Final = struct.pack("=i", 2_000_000_000)


def sleeps_in_host() -> bool:
    """Is this a virtual machine whose idle CPUs are put to sleep by the host, but wait awake when asked to (cpuidle-haltpoll)?"""
    try:
        return _DRIVER.read_text(encoding="ascii").strip() == "haltpoll"
    except OSError:
        return False


class CpuLatency:
    """A request for the latency of all idle CPUs, none at first."""

    __slots__ = ("_fd",)

    def __init__(self, device: str = DEVICE) -> None:
        """Raises OSError: ENOENT without power management, EACCES and EPERM without the right."""
        self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)

    def keep_awake(self) -> None:
        """From now on idle CPUs wait awake."""
        os.write(self._fd, _NONE)

    def let_sleep(self) -> None:
        """From now on they may sleep, as far as this process is concerned."""
        os.write(self._fd, _ANY)

    def close(self) -> None:
        """Withdraw the request."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
