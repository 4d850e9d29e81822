"""Intended differences: in what does unionfs answer otherwise than the kernel's overlayfs on purpose, and why?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Intended:
    """One difference that is meant: which finding of which case it is (`where`, `key` as in compare.Finding), what ours must
    answer, and why.
    """

    suite: str
    case: str
    where: str
    key: str
    ours: str
    reason: str


FAILED_RENAME = "a rename that fails with ENOTEMPTY leaves no mark; the kernel marks the source opaque first"
TAKEN_BACK = "a rename that fails changes no times; the kernel's attempt makes ext4 write a whiteout and take it back"

SEEMS_A_TRUNCATE = (
    "the kernel's FUSE client removes the capability before it says what for; from somebody who may write the file this "
    "cannot be told from a truncation, which has to remove it"
)


def _failed(case: str, where: str, field: str, ours: str, reason: str) -> Intended:
    return Intended("rename-plain", case, where, f"{case}/{field}", ours, reason)


def _stripped(where: str, key: str, ours: str) -> Intended:
    return Intended("set-ids", "chown-nothing-6777-upper-by-1001", where, key, ours, SEEMS_A_TRUNCATE)


COUNTS_THE_ENTRY = "after a remount the kernel counts the index entry of a file with one name in the lower layer; ours does not"


def _counted(where: str, field: str, ours: str) -> Intended:
    key = f"mounted by kernel: everything-is-indexed/file: {field}"
    return Intended("index-of-all", "everything-is-indexed", where, key, ours, COUNTS_THE_ENTRY)


INTENDED: list[Intended] = [
    _counted("cross", "nlink: left 1, found 2", "so"),
    _counted("cross", "same: left None, found 'everything-is-indexed/file'", "so"),
    _counted("remount", "nlink: left 1, found 2", "as it should be"),
    _counted("remount", "same: left None, found 'everything-is-indexed/file'", "as it should be"),
    _failed("upper-dir-to-upper-full-dir", "upper", "new/t xattrs", "()", FAILED_RENAME),
    _failed("upper-dir-to-upper-full-dir", "upper", "old/s xattrs", "()", FAILED_RENAME),
    _failed("opaque-dir-to-upper-full-dir", "upper", "new/t xattrs", "()", FAILED_RENAME),
    _failed("opaque-dir-to-upper-full-dir", "mount", "old mtime_ns", "1000000003585544901", TAKEN_BACK),
    _failed("opaque-dir-to-upper-full-dir", "upper", "old mtime_ns", "1000000003585544901", TAKEN_BACK),
    _stripped("step", "2 listxattr('f')", "ok []"),
    _stripped("mount", "chown-nothing-6777-upper-by-1001/f xattrs", "()"),
    _stripped("upper", "chown-nothing-6777-upper-by-1001/f xattrs", "()"),
]

SAME_SIZE = "truncate(2) to the size that a file has leaves its times: of writes held back the kernel keeps the times itself"
UNCLAMPED = "a time that the upper filesystem can't hold is shown as it was set, as long as the kernel knows the file"


def _same_size(suite: str, case: str, path: str, mtime_ns: int) -> list[Intended]:
    key = f"{path} mtime_ns"
    return [Intended(suite, case, where, key, str(mtime_ns), SAME_SIZE) for where in ("mount", "upper")]


HELD_BACK: list[Intended] = [
    *_same_size("copyup", "truncate-same-of-file", "truncate-same-of-file/d/e/x", 1000000003249058027),
    *_same_size("copyup", "truncate-0-of-empty", "truncate-0-of-empty/d/e/x", 1000000002192331829),
    *_same_size("files", "times-of-changes", "times-of-changes/up", 4000000002),
    *_same_size("files", "times-of-changes", "times-of-changes/low", 4000000002),
    Intended("files", "times-of-changes", "step", "10 up: truncate to its size changes mtime", "ok False", SAME_SIZE),
    Intended("files", "times-of-changes", "step", "21 low: truncate to its size changes mtime", "ok False", SAME_SIZE),
    Intended("files", "times-far-away", "step", "5 times('f')", "ok (-2147483648000000000, -2147483647000000001)", UNCLAMPED),
]
"""Where the kernel holds writes back, besides INTENDED."""

UNTOUCHED = "a rename that fails with ENOTEMPTY changes nothing; the kernel has copied both directories up and marked one"

NAMELESS = (
    "a lower file that was opened read-only, or a FIFO or device that was opened, and has lost its name has no link and can be "
    "changed; the kernel counts one and refuses changes (test_own)"
)
"""This, and UNTOUCHED, is why random scripts (union_worker) leave calls out."""

NO_ORIGIN = (
    "symlinks and special files take no user. xattrs, so that with userxattr they have no origin when they are copied up: the "
    "kernel then shows two numbers for two names of one, ours shows one"
)
"""Why random scripts do not compare then which names are one file, nor that numbers stay, and rename none of them to another: for
the kernel that fails with ESTALE.
"""

WHICH_NAME = (
    "with index=on a change of a lower file with several names copies up one of them: the kernel the one by which the change was "
    "asked for, ours one of those that are known, since FUSE says no name with a change"
)
"""Why random scripts do not compare then the uppers of lanes with links; they are mounted crosswise all the same."""

REMOVED_ACL = (
    "removing an access ACL leaves the set-group-ID bit to an owner outside the group, as every filesystem below does; the "
    "kernel's overlayfs clears it"
)
"""Why random scripts remove ACLs as root alone."""

DATA_FOLLOW = (
    "with metacopy=on the kernel's opening a file for writing changes its mtime, as the data follow the metadata; with ours only "
    "a write does"
)
"""Why random scripts do not compare then the mtime of what one of the two has just changed."""

UNREACHABLE = (
    "a name that can't be looked up (a redirect that is not followed) is listed, as what is there; the kernel's listing "
    "fails with EPERM where it looks names up for their inode numbers, and then leaves it out"
)
"""Why random scripts leave such names out of what they compare."""

TRACES_OF_A_FAILED_RENAME: dict[tuple[str, str], str] = {
    ("rename-plain", "upper-dir-to-lower-full-dir"): UNTOUCHED,
    ("rename-plain", "merged-dir-to-upper-full-dir"): UNTOUCHED,
    ("rename-plain", "opaque-dir-to-lower-full-dir"): UNTOUCHED,
    ("rename-plain", "lower-dir-to-upper-full-dir"): UNTOUCHED,
}
"""Cases in which any difference is meant that such a copy-up makes: of the trees, and of what lstat says of link counts."""
