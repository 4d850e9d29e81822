"""Does the mount show at once that set-id bits are gone, however a change took them away?"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor, perform
from tests.oracle.case import Builder
from tests.oracle.pair import LayersFactory, both
from tests.support.mounts import Driver, Layers, Options
from tests.support.syscalls import statx

CHANGES: dict[str, Callable[[Actor], None]] = {
    "truncating open": lambda a: void(a(ops.write, "f", b"", os.O_WRONLY | os.O_TRUNC)),
    "truncating open for reading and writing": lambda a: void(a(ops.write, "f", b"x", os.O_RDWR | os.O_TRUNC)),
    "creating open of what is there": lambda a: void(a(ops.write, "f", b"", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
    "write": lambda a: void(a(ops.write, "f", b"x")),
    "append": lambda a: void(a(ops.write, "f", b"x", os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda a: void(a(os.truncate, "f", 1)),
}


SERVED: tuple[Options, ...] = ({}, {"passthrough": "off"}, {"passthrough": "off", "writeback": "0"})
STATX_MODE = 2
"""linux/stat.h."""


def mode(path: str) -> str:
    """The mode, and nothing else asked for: what the kernel knows already, unless it was told that it is out of date."""
    return oct(statx(path, STATX_MODE).mode)


def void(_: object) -> None:
    """A call for what it records."""


@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("ours", SERVED, ids=["passthrough", "cached writes", "written through"])
def test_set_id_bits(ours: Options, where: str, make_layers: LayersFactory, subject: Driver) -> None:
    """A user's changes take them away, those of root leave them."""
    places = [(user, name) for user in (1000, 0) for name in CHANGES]

    def fill(layers: Layers, b: Builder) -> None:
        built = b.upper if where == "upper" else b.lower()
        for number in range(len(places)):
            built.dir(str(number), 0o777)
            built.file(f"{number}/f", b"content", 0o6777)

    def steps(a: Actor) -> None:
        for number, (user, name) in enumerate(places):
            os.chdir(str(number))
            a.note("how", name)
            a(mode, "f")
            with a.user(user):
                CHANGES[name](a)
            a(mode, "f")
            os.chdir("..")

    answers, expected = both(make_layers, subject, fill, steps, ours=ours)
    assert answers == expected
    assert sum("0o106777" in line for line in answers) == len(CHANGES) * 3


ACL = bytes.fromhex("02000000 01000600ffffffff 02000600ea030000 04000600ffffffff 10000600ffffffff 20000600ffffffff")
"""user::rw- user:1002:rw- group::rw- mask::rw- other::rw-"""

MORE: dict[str, Callable[[Actor], None]] = {
    **CHANGES,
    "to the caller's own group": lambda a: void(a(os.chown, "f", -1, 1000)),
    "to nobody in particular": lambda a: void(a(os.chown, "f", -1, -1)),
    "mode": lambda a: void(a(os.chmod, "f", 0o2664)),
    "access ACL": lambda a: void(a(os.setxattr, "f", "system.posix_acl_access", ACL)),
    "times": lambda a: void(a(os.utime, "f", (1, 2))),
}


@pytest.mark.parametrize("where", ["lower", "upper"])
@pytest.mark.parametrize("ours", SERVED, ids=["passthrough", "cached writes", "written through"])
def test_set_group_id_without_execution(ours: Options, where: str, make_layers: LayersFactory, subject: Driver) -> None:
    """It stays for members of the file's group alone."""
    callers = [(1000, 1000, ()), (1000, 2000, ()), (1000, 1000, (3000, 2000)), (0, 0, ())]
    places = [(caller, name) for caller in callers for name in MORE]

    def fill(layers: Layers, b: Builder) -> None:
        built = b.upper if where == "upper" else b.lower()
        for number in range(len(places)):
            built.dir(str(number), 0o777)
            built.file(f"{number}/f", b"content", 0o6666, (1000, 2000))

    def steps(a: Actor) -> None:
        for number, ((user, group, groups), name) in enumerate(places):
            os.chdir(str(number))
            a.note("how", f"{name} by {user}, {group}, {groups}")
            a(mode, "f")
            with a.user(user, group, groups):
                MORE[name](a)
            a(mode, "f")
            os.chdir("..")

    answers, expected = both(make_layers, subject, fill, steps, ours=ours)
    assert answers == expected


def test_both_sides_agree_after_a_truncating_open(layers: Layers, subject: Driver) -> None:
    """The reply to OPEN has no attributes: the kernel has to be told that it must ask for them."""

    def steps(a: Actor) -> None:
        a(os.chmod, "f", 0o6777)
        with a.user(1000):
            a(ops.write, "f", b"", os.O_WRONLY | os.O_TRUNC)

    Builder(layers, ".").lower().file("f", b"content")
    with subject.mount(layers) as mnt:
        assert [step.outcome for step in perform(steps, mnt, mnt)] == ["ok", "ok"]
        assert [mode(str(path)) for path in (mnt / "f", layers.top / "f")] == ["0o100777"] * 2
