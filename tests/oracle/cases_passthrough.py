"""Passthrough: does everything that can be done to an open file, beyond reading and writing it, do what it does in the kernel?

Each deed on settled files (of the upper, created, copied up before they are opened) and on lower ones that are copied up while
a descriptor opened before goes on living; then what can be done to a lower file that stays one.
"""

from __future__ import annotations

import os

from tests.oracle import ops
from tests.oracle.actor import Actor
from tests.oracle.case import Builder, Case, Steps, Suite
from tests.oracle.deeds import DATA, DEEDS, LOWER_DEEDS, PAGE, Deed, Opened

OPERATIONS = Suite("operations", lowers=2)
LOWER_OPERATIONS = Suite("lower-operations", lowers=2)

KINDS = ("upper", "created", "copied-up", "held", "held-program")
"""Held: of the lower layer, and open for reading when it is opened for writing."""

LOWER_KINDS = ("plain", "program")

BY_INODE = ("flock", "locks-of-processes", "locks-of-descriptors", "leases")
"""What belongs to the mount's inode. A program that is held gets another one when it is opened for writing (DESIGN, section 8),
so that what was taken before is not in the way of what is taken after.
"""


def doing(what: Deed, kind: str) -> Case:
    """A deed on a file of one of KINDS."""

    def build(b: Builder) -> Steps:
        mode = 0o755 if kind == "held-program" else 0o644
        if kind != "created":
            (b.upper if kind == "upper" else b.lower(1)).file("f", DATA, mode)
        b.lower(0).file("source", DATA[::-1])

        def steps(a: Actor) -> None:
            if kind == "created":
                a(ops.create, "f", DATA)
            elif kind == "copied-up":
                a(os.chmod, "f", 0o640)
            reader = a.fd("f", os.O_RDONLY)
            a(ops.read_fd, reader, PAGE, 10)
            a(ops.map_read, reader, 10)
            fd = a.fd("f", os.O_RDWR)
            opened = Opened(a, reader, fd, os.lstat("f"))
            what(opened)
            opened.look()
            a(ops.digest, "f")
            a(ops.read_fd, reader, 0, 20)

        return steps

    return build


def reading_lower(what: Deed, kind: str) -> Case:
    """A deed on a lower file that nobody opens for writing."""

    def build(b: Builder) -> Steps:
        b.lower(1).file("f", DATA, 0o755 if kind == "program" else 0o644)
        b.lower(0).file("source", DATA[::-1])

        def steps(a: Actor) -> None:
            reader, second = a.fd("f", os.O_RDONLY), a.fd("f", os.O_RDONLY)
            what(Opened(a, reader, second, os.lstat("f")))
            a(ops.digest, "f")

        return steps

    return build


for _name, _deed in DEEDS.items():
    for _kind in KINDS:
        if not (_name in BY_INODE and _kind == "held-program"):
            OPERATIONS.add(f"{_name}-{_kind}", doing(_deed, _kind))
for _name, _deed in LOWER_DEEDS.items():
    for _kind in LOWER_KINDS:
        LOWER_OPERATIONS.add(f"{_name}-{_kind}", reading_lower(_deed, _kind))
