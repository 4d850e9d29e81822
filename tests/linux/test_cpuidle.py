"""Is the kernel asked for what is meant?"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from unionfs.linux import cpuidle
from unionfs.linux.cpuidle import CpuLatency


def asked_for(data: bytes) -> list[int]:
    """Microseconds."""
    return [number for (number,) in struct.iter_unpack("=i", data)]


def test_what_is_written(tmp_path: Path) -> None:
    """A file in the device's place."""
    device = tmp_path / "latency"
    device.touch()
    latency = CpuLatency(str(device))
    latency.keep_awake()
    latency.let_sleep()
    latency.close()
    latency.close()
    assert asked_for(device.read_bytes()) == [0, 2_000_000_000]


def test_the_kernel_takes_it() -> None:
    """The device says what is asked for by all together, which is no more than by one."""
    reader = os.open(cpuidle.DEVICE, os.O_RDONLY)
    latency = CpuLatency()
    try:
        latency.keep_awake()
        assert asked_for(os.read(reader, 4)) == [0]
        latency.let_sleep()
        assert asked_for(os.pread(reader, 4, 0))[0] >= 0
    finally:
        latency.close()
        os.close(reader)


def test_without_the_device(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CpuLatency(str(tmp_path / "none"))


def test_who_puts_cpus_to_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "current_driver"
    monkeypatch.setattr(cpuidle, "_DRIVER", driver)
    assert not cpuidle.sleeps_in_host()
    for name, expected in [("haltpoll", True), ("intel_idle", False), ("none", False)]:
        driver.write_text(name + "\n")
        assert cpuidle.sleeps_in_host() is expected
