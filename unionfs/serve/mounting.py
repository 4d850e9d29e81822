"""How does a session get its device and its place in the tree, and how is that undone?

With the privilege: /dev/fuse and mount(2).  Without: the set-uid helper fusermount3(1), which mounts and sends the
descriptor of the device over a socket (its `_FUSE_COMMFD` convention).
"""

from __future__ import annotations

import array
import errno
import os
import shutil
import socket
import subprocess
from typing import Final

from unionfs.linux import creds, mount, mountinfo
from unionfs.serve import surroundings
from unionfs.serve.config import SessionConfig
from unionfs.serve.errors import MountError

TYPE: Final = b"fuse.unionfs"
#: There while SELinux decides in this kernel (selinux(8)).
_SELINUX: Final = "/sys/fs/selinux/enforce"
_READ_AHEAD_KB: Final = 512
#: Bytes of one READ: what fits into a pipe of the usual size limit together with a header (see `splicing`).
_MAX_READ: Final = 512 * 1024
_FLAG_WORDS: Final = (
    (mount.MS_NOSUID, "nosuid", "suid"),
    (mount.MS_NODEV, "nodev", "dev"),
    (mount.MS_NOEXEC, "noexec", "exec"),
    (mount.MS_SYNCHRONOUS, "sync", ""),
    (mount.MS_DIRSYNC, "dirsync", ""),
    (mount.MS_NOATIME, "noatime", ""),
)


class Mounted:
    """A live mount: the device's descriptor and how to unmount."""

    __slots__ = ("_helper", "_identity", "device", "mountpoint")

    def __init__(self, device: int, mountpoint: bytes, helper: str | None) -> None:
        self.device = device
        self.mountpoint = mountpoint
        self._helper = helper
        self._identity = _identity(mountpoint)

    def is_topmost(self) -> bool:
        """Is it this mount that its path leads to?  Another may lie on top, or it may be gone already."""
        return self._identity is not None and _identity(self.mountpoint) == self._identity

    def widen_readahead(self) -> None:
        """Let the kernel read ahead in large requests; where that is not ours to say, its default of 128 KiB stays."""
        if self._identity is not None:
            try:
                with open(b"/sys/class/bdi/%s/read_ahead_kb" % self._identity[1], "wb") as setting:
                    setting.write(b"%d" % _READ_AHEAD_KB)
            except OSError:
                pass

    def unmount(self, lazy: bool) -> bool:
        """Unmount; False when it is busy (not with `lazy`).  May wait for the server, so never call it from the loop.

        A mount that another one covers can't be named any more, and stays.
        """
        if not self.is_topmost():
            return True
        if self._helper is not None:
            command = [self._helper, "-u", "-q", *(["-z"] if lazy else []), "--", os.fsdecode(self.mountpoint)]
            return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        try:
            mount.unmount(self.mountpoint, mount.UMOUNT_NOFOLLOW | (mount.MNT_DETACH if lazy else 0))
        except OSError as error:
            # EINVAL: someone else has unmounted it already.
            return error.errno == errno.EINVAL
        return True

    def close(self) -> None:
        """Close the device; whatever is still mounted answers ENOTCONN from then on."""
        if self.device >= 0:
            os.close(self.device)
            self.device = -1


def _identity(mountpoint: bytes) -> tuple[bytes, bytes] | None:
    """(mount id, device) of the mount that the path leads to, read from the table: looking at the path would ask the server."""
    found = mountinfo.topmost(mountpoint)
    return None if found is None else (found.mount_id, found.device)


def open_mount(config: SessionConfig) -> Mounted:
    """Mount.  Raises MountError with one line for the user."""
    if creds.has_capability(creds.CAP_SYS_ADMIN):
        return _mount_directly(config)
    return _mount_by_helper(config)


def _mount_directly(config: SessionConfig) -> Mounted:
    try:
        device = os.open(surroundings.DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MountError(surroundings.why_not_opened(error)) from None
    words = [
        f"fd={device}", "rootmode=40000", f"user_id={os.geteuid()}", f"group_id={os.getegid()}",
        *_permission_words(config, privileged=True), *_label_words(config),
    ]  # fmt: skip
    flags = config.mount_flags | (mount.MS_RDONLY if config.read_only else 0)
    try:
        mount.mount(config.source, config.mountpoint, TYPE, flags, os.fsencode(",".join(words)))
    except OSError as error:
        os.close(device)
        raise MountError(surroundings.why_not_mounted(error, config.mountpoint)) from None
    return Mounted(device, config.mountpoint, None)


def _permission_words(config: SessionConfig, *, privileged: bool) -> list[str]:
    words = [f"max_read={_MAX_READ}", *(["default_permissions"] if config.default_permissions else [])]
    if config.allow_other or (config.allow_other is None and privileged):
        words.append("allow_other")
    return words


def _label_words(config: SessionConfig) -> list[str]:
    """Labels as SELinux takes them, quoted, since they may hold commas; without it nobody knows these options."""
    if not os.path.exists(_SELINUX):
        return []
    return [f'{name}="{label}"' for name, label in config.labels]


def _mount_by_helper(config: SessionConfig) -> Mounted:
    helper = shutil.which("fusermount3") or shutil.which("fusermount")
    if helper is None:
        raise MountError(surroundings.no_helper())
    if config.mount_flags & mount.MS_NOSYMFOLLOW:
        raise MountError("nosymfollow: fusermount3 can't set it; leave it out, or mount as root or in a user namespace")
    source = os.fsdecode(config.source).replace("\\", "\\\\").replace(",", "\\,")
    words = [f"fsname={source}", "subtype=unionfs", *_permission_words(config, privileged=False)]
    words += ["ro"] if config.read_only else []
    words += [on for flag, on, _ in _FLAG_WORDS if config.mount_flags & flag]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [helper, "-o", ",".join(words), "--", os.fsdecode(config.mountpoint)]
        done = subprocess.run(
            command, check=False, pass_fds=[theirs.fileno()], env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        if done.returncode:
            said = os.fsdecode(done.stderr).strip().splitlines()
            raise MountError(surroundings.why_helper_failed(helper, said[-1] if said else ""))
        device = _receive_descriptor(ours)
    os.set_blocking(device, False)
    os.set_inheritable(device, False)
    return Mounted(device, config.mountpoint, helper)


def _receive_descriptor(channel: socket.socket) -> int:
    size = array.array("i").itemsize
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(size))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= size:
            return int.from_bytes(data[:size], "little" if array.array("H", [1]).tobytes()[0] else "big")
    raise MountError("fusermount3 mounted but sent no descriptor of the device")
