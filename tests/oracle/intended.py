"""Intended differences: in what does unionfs answer otherwise than the kernel's overlayfs on purpose, and why?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intended:
    """One difference that is meant: which finding of which case it is (`where`, `key` as in compare.Finding), what ours must answer, and why."""

    suite: str
    case: str
    where: str
    key: str
    ours: str
    reason: str


INTENDED: list[Intended] = []
