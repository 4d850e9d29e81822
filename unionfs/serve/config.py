"""How is a union to be mounted and served?  Mount point, mount flags, caching and passthrough."""

from __future__ import annotations

import enum
from dataclasses import dataclass

UNLIMITED_TIMEOUT: float = 1e9
"""Seconds; this long a name or an attribute counts as valid for ever (31 years)."""


class Passthrough(enum.Enum):
    """Whether file I/O may go straight to the backing file (Documentation/filesystems/fuse/fuse-passthrough.rst).

    AUTO uses it where a probe says it works, ON makes its absence an error of the mount, OFF never asks for it.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class LowerIo(enum.Enum):
    """How files that may still be copied up are served.

    AUTO: what is executed or mapped by nature is mapped straight from the lower file, all else goes through the page cache.
    PASSTHROUGH: all of it at the lower file; a descriptor keeps the lower data when the file is copied up.
    CACHED: all of it through the page cache; no lower file is ever handed to the kernel.
    """

    AUTO = "auto"
    PASSTHROUGH = "passthrough"
    CACHED = "cached"


class CpuIdle(enum.Enum):
    """How CPUs without work wait while requests come one after the other.

    AUTO: awake, in virtual machines of few CPUs that would leave them to the host.  POLL: awake, and where that can't be asked
    for it is an error of the mount.  SLEEP: as they always do.
    """

    AUTO = "auto"
    POLL = "poll"
    SLEEP = "sleep"


class InodePassthrough(enum.Enum):
    """Whether operations on inodes (stat, listing) may go straight to the backing file.

    DRAFT asks for the proposed kernel interface and makes its absence an error of the mount, OFF never asks for it.
    """

    OFF = "off"
    DRAFT = "draft"


class Binding(enum.Enum):
    """What speaks to the kernel: our own session, or pyfuse3 (libfuse), an optional package."""

    NATIVE = "native"
    PYFUSE3 = "pyfuse3"


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """One mount and the policy of its session.

    source: first field of the mount in /proc/self/mounts; any bytes but NUL.
    mountpoint: absolute path of an existing directory.
    read_only: mounted `ro`; the same as MS_RDONLY in mount_flags, which is never set there.
    mount_flags: MS_* bits of mount(2) other than MS_RDONLY (numbers in unionfs.linux.mount).
    labels: SELinux labels by the names of their mount options, `context` and others; of no effect without SELinux.
    allow_other: let processes of other users in (fuse(4)); None means yes where it needs no one's permission, that is
        for root.
    default_permissions: the kernel checks modes and ACLs before it asks the server.
    timeout: seconds for which the kernel may trust a name or attributes; UNLIMITED_TIMEOUT or more is for ever, 0 is
        not at all.
    noacl: POSIX ACLs are neither enforced nor kept by the kernel; their xattrs are refused with EOPNOTSUPP.
    max_stack_depth: of this filesystem, for the kernel's limit of two stacked ones: None finds the smallest that
        gives passthrough, 0 is no passthrough at all, 1 and 2 are taken as given.
    lower_io: how files of lower layers that may still be copied up are served.
    writeback: without passthrough, the kernel may hold writes back until the file is closed or synced.
    binding: what speaks to the kernel; PYFUSE3 has no passthrough.
    cpu_idle: how CPUs without work wait while requests come one after the other; PYFUSE3 has no say in it.
    debug: log every request. foreground: the process was not sent to the background, its standard streams are the
        user's.
    """

    source: bytes
    mountpoint: bytes
    read_only: bool = False
    mount_flags: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    allow_other: bool | None = None
    default_permissions: bool = True
    timeout: float = UNLIMITED_TIMEOUT
    noacl: bool = False
    passthrough: Passthrough = Passthrough.AUTO
    max_stack_depth: int | None = None
    lower_io: LowerIo = LowerIo.AUTO
    inode_passthrough: InodePassthrough = InodePassthrough.OFF
    writeback: bool = True
    binding: Binding = Binding.NATIVE
    cpu_idle: CpuIdle = CpuIdle.AUTO
    debug: bool = False
    foreground: bool = False
