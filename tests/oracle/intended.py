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


FAILED_RENAME = "a rename that fails with ENOTEMPTY leaves no mark; the kernel marks the source opaque first"

INTENDED: list[Intended] = [
    Intended("rename-plain", "upper-dir-to-upper-full-dir", "upper", "upper-dir-to-upper-full-dir/new/t xattrs", "()", FAILED_RENAME),
    Intended("rename-plain", "upper-dir-to-upper-full-dir", "upper", "upper-dir-to-upper-full-dir/old/s xattrs", "()", FAILED_RENAME),
    Intended("rename-plain", "opaque-dir-to-upper-full-dir", "upper", "opaque-dir-to-upper-full-dir/new/t xattrs", "()", FAILED_RENAME),
]
