"""Does reading change access times as the union's own mount says, whatever the mount does on which the upper layer lies?"""

from __future__ import annotations

import os
import time

import pytest

from tests.oracle.actor import Actor
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers, Options

LONG_AGO = (1_000_000_000, 1_500_000_000)
"""Access and modification: relatime notes a first access, too."""


@pytest.mark.parametrize("passthrough", ["auto", "off"])
@pytest.mark.parametrize("option", ["relatime", "noatime", "strictatime", "nodiratime"])
def test_access_times(option: str, passthrough: str, make_layers: LayersFactory, subject: Driver) -> None:
    def fill(layers: Layers, b: Builder) -> None:
        b.upper.file("d/upper", b"content")
        b.lower().file("d/lower", b"content")

    def steps(a: Actor) -> None:
        for name in ("upper", "lower"):
            a(os.utime, f"d/{name}", LONG_AGO)
            for _ in range(1 if passthrough == "off" else 2):  # what the page cache of the union holds is read unseen
                time.sleep(0.02)
                before = os.stat(f"d/{name}").st_atime_ns
                with open(f"d/{name}", "rb", buffering=0) as file:
                    file.read()
                a.note(f"reading {name} is noted", before != os.stat(f"d/{name}").st_atime_ns)
        os.utime("d", LONG_AGO)
        os.listdir("d")
        a.note("listing is noted", os.stat("d").st_atime != LONG_AGO[0])

    options: Options = {option: None}
    ours, kernel = both(make_layers, subject, fill, steps, ours={**options, "passthrough": passthrough}, theirs=options)
    assert ours == kernel
