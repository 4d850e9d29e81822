"""What does this machine lack for a union to be mounted, and what helps?  The one thing missing, in words for the user."""

from __future__ import annotations

import errno
import os
import re
import stat as modes
from typing import Final

from unionfs.linux import creds
from unionfs.overlay import marks
from unionfs.overlay.union import Union

DEVICE: Final = "/dev/fuse"
NO_PROC: Final = "/proc is not mounted: `mount -t proc proc /proc` first"
_MODULE: Final = "load the kernel's fuse module (modprobe fuse)"
_GIVE: Final = f"let the container have the device (podman run --device {DEVICE})"
_UNSHARE: Final = "unshare --user --map-root-user --mount"
#: The first kernel that lets the root of a user namespace mount FUSE.
_IN_NAMESPACE: Final = (4, 18)

_NOT_OPENED: Final = {
    errno.ENOENT: f"does not exist: {_MODULE}, or {_GIVE}",
    errno.ENODEV: f"has no driver: {_MODULE}",
    errno.ENXIO: f"has no driver: {_MODULE}",
    errno.EPERM: f"is forbidden here: {_GIVE}",
    errno.EACCES: f"can't be opened by this user: `chmod 666 {DEVICE}` as root, and no `nodev` where it lies",
}


def why_not_opened(error: OSError) -> str:
    """What is wrong with /dev/fuse, which could not be opened."""
    return f"{DEVICE} {_NOT_OPENED.get(error.errno or 0, f'can not be opened: {error.strerror}')}"


def why_not_mounted(error: OSError, mountpoint: bytes) -> str:
    """What is wrong when mount(2) has failed."""
    return f"{os.fsdecode(mountpoint)}: mount failed: {_why_refused(error)}"


def _why_refused(error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return f"the kernel knows no FUSE; {_MODULE}"
    if error.errno != errno.EPERM:
        return error.strerror or str(error)
    if creds.in_initial_user_namespace():
        return "it is forbidden here; in a container, see its capabilities and security options (seccomp, AppArmor)"
    release = kernel_release()
    if release < _IN_NAMESPACE:
        return "in a user namespace that needs Linux {}.{}, this is {}.{}".format(*_IN_NAMESPACE, *release)
    return f"the mount namespace belongs to another user namespace; start with both: {_UNSHARE}"


def no_helper() -> str:
    """What to say when there is neither the privilege to mount nor fusermount3(1)."""
    return f"mounting needs root, or the program fusermount3: install the package fuse3, or use a namespace ({_UNSHARE})"


def why_helper_failed(helper: str, said: str) -> str:
    """What is wrong when fusermount3 has failed; `said` is the last line it wrote."""
    if not said or "not permitted" in said or ("ermission denied" in said and DEVICE in said):
        lacks = _what_helper_lacks(helper)
        if lacks:
            return lacks
    return said or f"{helper} failed without a word"


def _what_helper_lacks(helper: str) -> str:
    if os.geteuid() == 0:
        return (
            "mounting needs CAP_SYS_ADMIN, which root does not have here: let the container have it"
            f" (podman run --cap-add SYS_ADMIN --device {DEVICE}), or use a namespace ({_UNSHARE})"
        )
    if creds.has_no_new_privileges():
        return f"{helper} gets no privilege, since no_new_privs is set here: use a namespace ({_UNSHARE})"
    try:
        if not os.stat(helper).st_mode & modes.S_ISUID:
            return f"{helper} is not set-user-ID root: `chmod u+s {helper}` as root, or use a namespace ({_UNSHARE})"
    except OSError:
        return ""
    return ""


def kernel_release() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def few_ids() -> str:
    """Of a user namespace with only one user or group: what that means; empty elsewhere."""
    try:
        users, groups = creds.mapped_ids()
    except (OSError, ValueError, IndexError):
        return ""
    if creds.in_initial_user_namespace() or min(users, groups) > 1:
        return ""
    return (
        "this user namespace has a single user id: files can't belong to others; "
        "for more, name the user in /etc/subuid and /etc/subgid and map them (unshare --map-auto, podman unshare)"
    )


def adjustments(union: Union) -> list[str]:
    """What is otherwise than as root, and why."""
    found = []
    if union.prefix == marks.USER and not union.config.userxattr:
        found.append("userxattr, since trusted.* attributes are not allowed here")
    return [*found, *filter(None, (few_ids(),))]
