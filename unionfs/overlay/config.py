"""Which union is asked for?  Its layers and the options that change what it shows or writes.

The values are already checked for syntax when a `UnionConfig` exists; whether the directories are there and fit
together is found out by whoever opens them. Names and values are those of the kernel's overlayfs
(Documentation/filesystems/overlayfs.rst), so that an option means the same on both.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from unionfs.overlay.idmap import IdRange


class Xino(enum.Enum):
    """Inode numbers of layers on several filesystems (overlayfs.rst, "Inode properties").

    They are always unique, a FUSE mount having one device number. ON demands file handles of every layer, by which the
    number of a copied-up file is found again after a remount; AUTO and OFF do without where there are none.
    """

    OFF = "off"
    AUTO = "auto"
    ON = "on"


class Uuid(enum.Enum):
    """Which filesystem uuids origin handles carry (overlayfs.rst, "UUID and fsid").

    AUTO, ON and NULL: those of the layers' filesystems. OFF: null ones, so that layers on a copied filesystem go on
    matching. With ON the union has a uuid of its own, kept on the upper layer; with AUTO a new one gets it; NULL gives none.
    In the kernel it is the fsid that statfs(2) shows; a FUSE filesystem cannot choose its own.
    """

    AUTO = "auto"
    ON = "on"
    NULL = "null"
    OFF = "off"


class Fsync(enum.Enum):
    """What is forced to disk (overlayfs.rst, "Durability and copy up").

    AUTO: a file's data before its copy-up is published, and whatever callers fsync(2). STRICT: also directories and
    copy-ups of metadata alone. VOLATILE: nothing, not even on fsync(2); after a crash the upper layer is to be thrown
    away.
    """

    AUTO = "auto"
    STRICT = "strict"
    VOLATILE = "volatile"


class RedirectDir(enum.Enum):
    """Directories with a lower part that are renamed (overlayfs.rst, "renaming directories").

    ON: a mark on the upper directory says where the lower part is.  FOLLOW: such marks are followed, but none is made, and the
    rename fails with EXDEV.  NOFOLLOW: nor are they followed; a directory that has one can't be looked up (EPERM).
    AUTO: ON, but NOFOLLOW where the marks are in the `user.` namespace, in which anybody could have made them.
    """

    AUTO = "auto"
    ON = "on"
    FOLLOW = "follow"
    NOFOLLOW = "nofollow"


class Verity(enum.Enum):
    """fs-verity digests in the marks of files that hold only metadata (overlayfs.rst, "fs-verity support").

    ON: a digest that is there must be that of the data, or an open fails with EIO; where the source of a copy has one it is
    written.  REQUIRE: it must be there, and only metadata of files that have one are copied alone.
    """

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


class XattrPermissions(enum.Enum):
    """Where owner and mode of what is made or changed are kept (fuse-overlayfs(1), xattr_permissions).

    OFF: with the object itself.  SECURITY: in the xattr `security.fuseoverlayfs.override_stat`.  USER: in
    `user.containers.override_stat`, for which no privilege is needed.
    """

    OFF = "0"
    SECURITY = "1"
    USER = "2"


@dataclass(frozen=True, slots=True)
class UnionConfig:
    """The layers and the rules of one union.

    lowers: read-only layers, the topmost first, at least one. All paths here are absolute, exact bytes with the
        escapes of the option string already taken away; symlinks and `..` in them are still as the user wrote them.
    upper, work: the writable layer and the directory beside it where changes are staged; both or neither. None: a
        read-only union.
    nested: the upper layer and the work directory may lie in a lower layer, of which they are no part then.
    userxattr: keep private marks in `user.overlay.` instead of `trusted.overlay.`; without the privilege for the latter
        that is so anyhow.
    index: all names of a lower file stay one file when it is copied up, by an index in the work directory.
    nfs_export: file handles of the mount can be opened after the kernel has forgotten the file; everything copied up is in the
        index then.
    redirect_dir: what a rename does to a directory with a lower part.
    data: data-only layers, which show nothing of themselves: files of the lower layers have their data there.
    metacopy: changes of metadata copy no data, and files whose data are in a layer below are followed.
    verity: what is done about fs-verity digests of such files.
    noacl: POSIX ACLs mean nothing; where the upper filesystem takes none, they are left behind by a copy-up.
    noxattrs: show no xattrs and refuse to set any with EOPNOTSUPP (fuse-overlayfs's option of that name); marks of
        the union's own are still read and written.
    uid_ranges, gid_ranges: ids of the layers and those shown for them; none: they are the same.
    squash_uid, squash_gid: the owner and group that everything is shown with, whatever the ranges say.
    static_nlink: every directory is shown with the link count 1.
    xattr_permissions: where the upper layer has owners and modes; layers whose root says so have them in xattrs anyhow.
    atime: what reading the upper layer does to access times there, where its mount can be cloned (`mount.atime_attributes`).
    ino32: inode numbers of at most 32 bits, which may not all be different.
    """

    lowers: tuple[bytes, ...]
    upper: bytes | None = None
    work: bytes | None = None
    nested: bool = False
    userxattr: bool = False
    xino: Xino = Xino.AUTO
    uuid: Uuid = Uuid.AUTO
    fsync: Fsync = Fsync.AUTO
    noxattrs: bool = False
    noacl: bool = False
    redirect_dir: RedirectDir = RedirectDir.AUTO
    data: tuple[bytes, ...] = ()
    metacopy: bool = False
    verity: Verity = Verity.OFF
    index: bool = False
    nfs_export: bool = False
    uid_ranges: tuple[IdRange, ...] = ()
    gid_ranges: tuple[IdRange, ...] = ()
    squash_uid: int | None = None
    squash_gid: int | None = None
    static_nlink: bool = False
    xattr_permissions: XattrPermissions = XattrPermissions.OFF
    atime: int = 0
    ino32: bool = False

    def __post_init__(self) -> None:
        if not self.lowers:
            raise ValueError("a union needs at least one lower layer")
        if (self.upper is None) != (self.work is None):
            raise ValueError("an upper layer and a work directory come together")
