"""Can this machine run the benchmarks, and what is to be said of it beside the results?"""

import os
import platform
from pathlib import Path

from tests.bench.errors import BenchError


def check_machine() -> None:
    """Raises BenchError, with what to do, where the benchmarks cannot run."""
    if os.geteuid() != 0:
        raise BenchError("needs root: it mounts file systems")
    if not Path("/dev/fuse").exists():
        raise BenchError("/dev/fuse is missing: load the fuse module or hand the device to the container")


def description() -> dict[str, str | int | None]:
    """What the times depend on: kernel, processor, number of its cores, Python."""
    return {
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
