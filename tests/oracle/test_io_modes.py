"""Do files work as on the kernel's overlayfs however they are served, whatever moves them while they are open?

Every `lower_io` mode, and no passthrough at all. For a long run:
`UNIONFS_ORACLE_IO_SECONDS=600 UNIONFS_TEST_SEED=random python -m pytest tests/oracle/test_io_modes.py -k auto`.
"""

from __future__ import annotations

import os
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.oracle.io_machine import Enough, IoMachine, Search
from tests.oracle.io_mapping import Mapping
from tests.oracle.io_pair import BUILT_NS, Pair
from tests.oracle.io_worker import PAGE
from tests.support import seeds
from tests.support.mounts import Driver, Layers, Options

SECONDS = float(os.environ.get("UNIONFS_ORACLE_IO_SECONDS", "4"))
"""How long rounds of random sequences are drawn for each mode, after the fixed ones."""

FIXED_EXAMPLES = 40
ROUND = 20
"""Random examples between two looks at the clock."""

MODES: dict[str, tuple[Options, str | None]] = {
    "auto": ({}, "auto"),
    "cached": ({"lower_io": "cached"}, "cached"),
    "lower-passthrough": ({"lower_io": "passthrough"}, "passthrough"),
    "off": ({"passthrough": "off"}, None),
}


def rounds(examples: int, fixed: bool) -> settings:
    """How hypothesis draws: no example is too slow, and nothing is kept between runs."""
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=fixed,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("mode", MODES)
def test_io(mode: str, scratch: Path, subject: Driver) -> None:
    options, served = MODES[mode]
    pair = Pair(scratch, subject, {} if subject.name == "kernel" else options)

    class Machine(IoMachine):
        lower_io = served

    Machine.pair, Machine.search = pair, Search()
    try:
        run_state_machine_as_test(Machine, settings=rounds(FIXED_EXAMPLES, fixed=True))
        deadline = time.monotonic() + SECONDS
        number = seeds.FIRST
        while time.monotonic() < deadline or number == seeds.FIRST:
            print(f"UNIONFS_TEST_SEED={number} repeats this round")
            run_state_machine_as_test(seed(number)(_fresh(Machine)), settings=rounds(ROUND, fixed=False))
            number += 1
    except (Exception, Enough):
        pytest.fail("\n".join(Machine.search.shortest or [traceback.format_exc()]))
    finally:
        pair.stop()


def _fresh(machine: type[IoMachine]) -> type[IoMachine]:
    """The machine, to be given a seed of its own."""
    return type("SeededMachine", (machine,), {})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_time_after_a_store_to_a_mapping(mode: str, layer: str, layers: Layers, subject: Driver) -> None:
    """What stat(2) said just before is out of date at once: the file's time was long ago, and is now."""
    options = {} if subject.name == "kernel" else MODES[mode][0]
    ((layers.top if layer == "upper" else layers.lowers[0]) / "file").write_bytes(bytes(PAGE))
    with subject.mount(layers, options) as mnt, open(mnt / "file", "r+b") as file:
        mapping = Mapping(file.fileno(), PAGE, writable=True)
        try:
            for _ in range(20):
                os.utime(mnt / "file", ns=(BUILT_NS, BUILT_NS))
                assert os.stat(mnt / "file").st_mtime_ns == BUILT_NS
                mapping.write(0, b"stored")
                assert os.stat(mnt / "file").st_mtime_ns > BUILT_NS
                assert os.fstat(file.fileno()).st_mtime_ns > BUILT_NS
        finally:
            mapping.close()
