"""What has been asked for so far, while the options are being read one after the other?"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from unionfs.cli.messages import CommandError
from unionfs.linux.mount import atime_attributes
from unionfs.overlay.config import Fsync, RedirectDir, UnionConfig, Uuid, Verity, XattrPermissions, Xino
from unionfs.overlay.idmap import IdRange
from unionfs.serve.config import UNLIMITED_TIMEOUT, Binding, CpuIdle, InodePassthrough, LowerIo, Passthrough, SessionConfig


@dataclass(slots=True)
class Settings:
    """The options as they stand; a later option overwrites what an earlier one set.

    index: None stands for a value that was not given.  remount: only the flags of the mount count, and no layers are needed.

    Paths are as the user wrote them, without the escapes. `source` is None until `fsname=` names one.
    """

    lowers: list[bytes] = field(default_factory=list)
    upper: bytes | None = None
    work: bytes | None = None
    nested: bool = False
    read_only: bool = False
    remount: bool = False
    userxattr: bool = False
    xino: Xino = Xino.AUTO
    uuid: Uuid = Uuid.AUTO
    fsync: Fsync = Fsync.AUTO
    noxattrs: bool = False
    redirect_dir: RedirectDir = RedirectDir.AUTO
    data: list[bytes] = field(default_factory=list)
    metacopy: bool = False
    verity: Verity = Verity.OFF
    index: bool | None = None
    nfs_export: bool = False
    uid_ranges: tuple[IdRange, ...] = ()
    gid_ranges: tuple[IdRange, ...] = ()
    squash_to_root: bool = False
    squash_uid: int | None = None
    squash_gid: int | None = None
    static_nlink: bool = False
    xattr_permissions: XattrPermissions = XattrPermissions.OFF
    ino32: bool = False
    source: bytes | None = None
    mount_flags: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    allow_other: bool | None = None
    timeout: float = UNLIMITED_TIMEOUT
    noacl: bool = False
    passthrough: Passthrough = Passthrough.AUTO
    max_stack_depth: int | None = None
    lower_io: LowerIo = LowerIo.AUTO
    inode_passthrough: InodePassthrough = InodePassthrough.OFF
    writeback: bool = True
    binding: Binding = Binding.NATIVE
    cpu_idle: CpuIdle = CpuIdle.AUTO

    def check(self) -> None:
        """Raises CommandError where options do not go together."""
        if self.remount:
            return
        if not self.lowers:
            raise CommandError("option lowerdir= is missing: name at least one directory, -o lowerdir=DIR")
        if self.upper is not None and self.work is None:
            raise CommandError("upperdir= needs workdir=: name an empty directory on the same filesystem as the upper one")
        if self.userxattr and self.redirect_dir in (RedirectDir.ON, RedirectDir.FOLLOW):
            raise CommandError("userxattr and redirect_dir contradict each other: anybody could make such marks; leave one out")
        self._check_metacopy()
        if self.nfs_export and self.index is False:
            raise CommandError("nfs_export=on and index=off contradict each other: leave one of them out")
        if self.nfs_export and self.ino32:
            raise CommandError("nfs_export=on and ino32_t contradict each other: handles need inode numbers that differ")
        if self.passthrough is Passthrough.ON and self.max_stack_depth == 0:
            raise CommandError("passthrough=on and max_stack_depth=0 contradict each other: leave one of them out")
        if self.inode_passthrough is InodePassthrough.DRAFT:
            given = {
                "passthrough=off": self.passthrough is Passthrough.OFF,
                "max_stack_depth=0": self.max_stack_depth == 0,
                "uidmapping=": bool(self.uid_ranges),
                "gidmapping=": bool(self.gid_ranges),
                "squash_to_root": self.squash_to_root,
                "squash_to_uid=": self.squash_uid is not None,
                "squash_to_gid=": self.squash_gid is not None,
                "static_nlink": self.static_nlink,
                "ino32_t": self.ino32,
                "xattr_permissions=": self.xattr_permissions is not XattrPermissions.OFF,
            }
            for off, is_given in given.items():
                if is_given:
                    raise CommandError(f"inode_passthrough=draft and {off} contradict each other: leave one of them out")
        self._check_binding()

    def _check_binding(self) -> None:
        given = {
            "passthrough=on": self.passthrough is Passthrough.ON,
            "inode_passthrough=draft": self.inode_passthrough is InodePassthrough.DRAFT,
            "cpu_idle=poll": self.cpu_idle is CpuIdle.POLL,
        }
        for on, is_given in given.items():
            if is_given and self.binding is Binding.PYFUSE3:
                raise CommandError(f"binding=pyfuse3 and {on} contradict each other: leave one of them out")

    def _check_metacopy(self) -> None:
        """Files without data of their own are found again by redirects, once they were renamed (params.c of overlayfs)."""
        if not self.metacopy:
            return
        if self.nfs_export:
            raise CommandError("nfs_export=on and metacopy=on contradict each other: leave one of them out")
        if self.userxattr:
            raise CommandError("userxattr and metacopy=on contradict each other: anybody could make such marks; leave one out")
        read_only = self.upper is None and self.redirect_dir is RedirectDir.FOLLOW
        if self.redirect_dir not in (RedirectDir.AUTO, RedirectDir.ON) and not read_only:
            raise CommandError("metacopy=on needs redirect_dir=on, which it brings along: leave redirect_dir= out")

    def union(self) -> UnionConfig:
        """The union asked for, its paths made absolute by the current directory; a work directory alone is left out."""
        return UnionConfig(
            lowers=tuple(absolute(path) for path in self.lowers),
            upper=None if self.upper is None else absolute(self.upper),
            work=None if self.upper is None or self.work is None else absolute(self.work),
            nested=self.nested,
            userxattr=self.userxattr,
            xino=self.xino,
            uuid=self.uuid,
            fsync=self.fsync,
            noxattrs=self.noxattrs,
            noacl=self.noacl,
            redirect_dir=self.redirect_dir,
            data=tuple(absolute(path) for path in self.data),
            metacopy=self.metacopy,
            verity=self.verity,
            index=bool(self.index) or self.nfs_export,
            nfs_export=self.nfs_export,
            uid_ranges=self.uid_ranges,
            gid_ranges=self.gid_ranges,
            squash_uid=0 if self.squash_to_root and self.squash_uid is None else self.squash_uid,
            squash_gid=0 if self.squash_to_root and self.squash_gid is None else self.squash_gid,
            static_nlink=self.static_nlink,
            xattr_permissions=self.xattr_permissions,
            atime=atime_attributes(self.mount_flags),
            ino32=self.ino32,
        )

    def session(self, source: bytes, mountpoint: bytes, *, debug: bool, foreground: bool) -> SessionConfig:
        """The session asked for on an absolute mount point; `fsname=` overrides the source argument, as in mount(8)."""
        return SessionConfig(
            source=source if self.source is None else self.source,
            mountpoint=mountpoint,
            read_only=self.read_only or self.upper is None,
            mount_flags=self.mount_flags,
            labels=tuple(self.labels.items()),
            allow_other=self.allow_other,
            timeout=self.timeout,
            noacl=self.noacl,
            passthrough=self.passthrough,
            max_stack_depth=self.max_stack_depth,
            lower_io=self.lower_io,
            inode_passthrough=self.inode_passthrough,
            writeback=self.writeback,
            binding=self.binding,
            cpu_idle=self.cpu_idle,
            debug=debug,
            foreground=foreground,
        )


def absolute(path: bytes) -> bytes:
    """The path seen from `/`. `..` stays in it: after a symlink it means something else than its name suggests."""
    return os.path.join(os.getcwdb(), path)
