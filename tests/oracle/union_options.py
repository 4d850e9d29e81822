"""Options: with which mount options are random scripts run, and which go together?

A feature that is new in unionfs is one line in SHARED (or OURS, if the kernel's overlayfs has no such option).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Chosen = dict[str, str | None]


@dataclass(frozen=True)
class Choice:
    """One option. `values`: drawn evenly; "" leaves the option out, "flag" writes it without a value. `fixed`: a remount keeps
    it, since the layers' marks are of it.
    """

    name: str
    values: tuple[str, ...]
    fixed: bool = False


SHARED: list[Choice] = [
    Choice("redirect_dir", ("on", "on", "on", "follow", "nofollow", "off")),
    Choice("xino", ("off", "off", "on", "auto")),
    Choice("userxattr", ("", "", "", "flag"), fixed=True),
    Choice("fsync", ("", "", "strict", "volatile")),
    Choice("volatile", ("", "", "", "", "flag")),
    Choice("index", ("", "on", "on", "off"), fixed=True),
    Choice("uuid", ("", "on", "null", "auto", "off"), fixed=True),
    Choice("metacopy", ("", "on", "on", "off"), fixed=True),
]
"""Of both implementations.  A remount keeps metacopy: without it the kernel can't list an impure directory of such files (EPERM).
"""

OURS: list[Choice] = [
    Choice("lower_io", ("", "", "cached")),
    Choice("passthrough", ("", "", "", "off")),
    Choice("writeback", ("", "", "0")),
]
"""lower_io=passthrough is left out: descriptors opened before a copy-up then go on showing the lower data, as documented."""

RULES: list[Callable[[Chosen], bool]] = [
    lambda chosen: ("userxattr" in chosen) == (chosen.get("redirect_dir") == "nofollow"),
    lambda chosen: "userxattr" not in chosen or chosen.get("metacopy", "off") == "off",
    lambda chosen: chosen.get("metacopy", "off") == "off" or chosen.get("redirect_dir") == "on",
    lambda chosen: chosen.get("nfs_export", "off") == "off" or chosen.get("index") == "on",
    lambda chosen: chosen.get("nfs_export", "off") == "off" or chosen.get("metacopy", "off") == "off",
    lambda chosen: "volatile" not in chosen or "fsync" not in chosen,
]
"""What the kernel's overlayfs accepts together; and where redirects are not followed no layer has any, since of a directory with
names that can't be looked up the kernel lists now more, now less (intended.UNREACHABLE).
"""


def draw(rng: random.Random, choices: list[Choice], before: Mapping[str, str | None] | None = None) -> Chosen:
    """Options that go together; those of a remount if `before` are the ones of the mount until now."""
    while True:
        chosen: Chosen = {}
        for choice in choices:
            value = rng.choice(choice.values)
            if before is not None and choice.fixed:
                if choice.name in before:
                    chosen[choice.name] = before[choice.name]
            elif value:
                chosen[choice.name] = None if value == "flag" else value
        if all(rule(chosen) for rule in RULES):
            return chosen
