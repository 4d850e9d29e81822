"""What holds a union together?  Its layers, node table and staging area, opened and closed as one."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections import OrderedDict
from typing import Final

from unionfs.linux import creds, fs, procfs, stat
from unionfs.linux.fd import Fd
from unionfs.overlay import checks, identity, idmapped, lookup, marks, override, owners
from unionfs.overlay import layer as layers
from unionfs.overlay.config import RedirectDir, UnionConfig, Uuid, Verity, Xino
from unionfs.overlay.creator import Identity
from unionfs.overlay.durability import Durability
from unionfs.overlay.errors import LayerError
from unionfs.overlay.exports import Exports
from unionfs.overlay.inodes import Former, Inodes
from unionfs.overlay.layer import Layer
from unionfs.overlay.locks import lock_directory, mounted_overlays, warn_of_users
from unionfs.overlay.node import UNKNOWN, DirNode, Node
from unionfs.overlay.origins import OriginIndex
from unionfs.overlay.realdir import DescriptorCache, RealDir
from unionfs.overlay.staging import WORK, Staging, prepare_work

#: Names held in indexes altogether before the oldest index is dropped.
_MOST_NAMES: Final = 1_000_000


class Union:
    """One union over its open layers.

    layers: top first, the upper one (number 0) included if there is one.  lowers: the others.  root: the mount's node.
    data_layers: those that only have data of files in the others.  all_layers: both.
    origins: the index of lower inodes that are on the upper layer, if there is one.  exports: with nfs_export.
    copying: files being copied up outside the event loop.  changed: nodes whose attributes a copy-up has changed since
    the list was last emptied; relisted: directories in which one got another inode number.
    redirects: what is done about renamed directories, never AUTO.  has_marks: the upper layer, if any, takes xattrs.
    read_only: there is no upper layer, and every change is refused with EROFS.  With one, `ro` is for the kernel to enforce,
    since it can be taken back while the union is mounted.
    owners: what stands between the ids of the layers and those of the users; None when they are the same.
    """

    def __init__(
        self, config: UnionConfig, opened: tuple[Layer, ...], data_layers: tuple[Layer, ...], staging: int, locks: list[Fd],
        origins: OriginIndex | None = None,
    ) -> None:
        self.config = config
        self.layers = opened
        self.data_layers = data_layers
        self.all_layers = (*opened, *data_layers)
        self.upper = opened[0] if opened[0].is_upper else None
        self.lowers = opened if self.upper is None else opened[1:]
        self.origins = origins
        self.read_only = self.upper is None
        self.prefix = _prefix(config)
        self.has_marks = self.upper is None or self.upper.has_marks
        self.redirects = _redirects(config, self.prefix)
        self.log = logging.getLogger("unionfs")
        self.identity = Identity()
        self.durability = Durability(config, self.prefix)
        self.inodes = Inodes(opened, narrow=config.ino32)
        self.owners = owners.settle(config)
        self.exports = Exports() if config.nfs_export and (self.read_only or origins is not None) else None
        self.inodes.exports = self.exports
        self.copying: set[Node] = set()
        self.changed: list[Node] = []
        self.relisted: list[DirNode] = []
        self._locks = locks
        self._staging = Staging(self, staging, files=False) if staging >= 0 else None
        self._indexes: OrderedDict[DirNode, int] = OrderedDict()
        self._indexed = 0
        self.root = self._make_root()

    @classmethod
    def open(cls, config: UnionConfig) -> Union:
        """Open and check every layer.  Raises LayerError with one line for the user; nothing has been changed then."""
        descriptors = DescriptorCache(_descriptor_limit())
        prefix = _prefix(config)
        _check_privilege(config, prefix)
        opened: list[Layer] = []
        data: list[Layer] = []
        locks: list[Fd] = []
        work = staging = -1
        try:
            checks.check_number(config)
            for number, path in enumerate(config.lowers, 1):
                opened.append(layers.open_lower(number, path, prefix, descriptors))
            for number, path in enumerate(config.data, 1 + len(config.lowers)):
                data.append(layers.open_lower(number, path, prefix, descriptors, "datadir+"))
            if config.upper is not None and config.work is not None:
                upper, work = layers.open_upper(config.upper, config.work, prefix, descriptors, config.atime)
                opened.insert(0, upper)
            checks.check(config, [*opened, *data], work)
            _apply_identity(config, opened)
            idmapped.note(opened)
            overlays = mounted_overlays()
            if config.upper is not None and config.work is not None:
                locks.append(lock_directory(upper.root.fd(), "upperdir", config.upper, overlays))
                locks.append(lock_directory(work, "workdir", config.work, overlays))
            warn_of_users(opened, overlays)
            staging = cls._prepare_staging(config, opened[0], work)
            override.check_roots(opened)
            if config.upper is not None:
                override.settle(config, upper, opened[1:])
            union = cls(
                config, tuple(opened), tuple(data), staging, locks, identity.settle(config, tuple(opened), work)
            )
        except BaseException:
            if staging >= 0:
                os.close(staging)
            for layer in (*opened, *data):
                layer.close()
            for lock in locks:
                lock.close()
            raise
        finally:
            if work >= 0:
                os.close(work)
        try:
            union.settle_whiteouts()
            union.begin_durability()
        except BaseException:
            union.close()
            raise
        return union

    @staticmethod
    def _prepare_staging(config: UnionConfig, upper: Layer, work: int) -> int:
        """The descriptor of an empty workdir/work, its filesystem probed; -1 without an upper layer."""
        if config.upper is None or config.work is None:
            return -1
        try:
            staging = prepare_work(work, os.fsdecode(config.work))
            try:
                upper.has_marks = layers.takes_marks(staging, b"", upper.prefix, os.fsdecode(config.upper))
                if not upper.has_marks:
                    _do_without_marks(config, upper.prefix)
            except BaseException:
                os.close(staging)
                os.rmdir(WORK, dir_fd=work)
                raise
        except OSError as error:
            why = error.strerror
            if error.errno == errno.EOVERFLOW:
                why = "the server has no id on its idmapped mount; name both directories by another mount"
            raise LayerError(f"workdir: {os.fsdecode(config.work)} can't be prepared: {why}") from None
        return staging

    @property
    def takes_acls(self) -> bool:
        """Can objects have access control lists?  Not beside a mode that is kept in an xattr, nor without xattrs."""
        return not self.config.noxattrs and (self.upper is None or self.upper.override is None)

    @property
    def shows_otherwise(self) -> bool:
        """Do users see other attributes than the layers' filesystems would tell?"""
        return self.owners is not None or self.config.ino32 or any(layer.override is not None for layer in self.layers)

    def settle_whiteouts(self) -> None:
        """Write whiteouts as `.wh.` files where devices can't be made, or the environment asks for it as of fuse-overlayfs."""
        if self._staging is not None:
            asked = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT" in os.environ
            self._staging.files = asked or not self._staging.can_make_devices()

    def begin_durability(self) -> None:
        """See `Durability.begin`."""
        if self._staging is not None:
            assert self.config.work is not None
            self.durability.begin(self._staging.work, os.path.join(self.config.work, WORK))

    def withdraw(self) -> None:
        """The mount did not come about, and nothing was changed: leave no mark that bars the next one."""
        if self._staging is not None:
            self.durability.withdraw(self._staging.work)

    def staging_area(self) -> Staging:
        """Where changes are made; only asked for after `ensure_upper`, which refuses in a read-only union."""
        assert self._staging is not None
        return self._staging

    def _make_root(self) -> DirNode:
        reals: list[RealDir] = []
        for layer in self.layers:
            reals.append(layer.root)
            if layer is not self.layers[-1]:
                fd = layer.root.fd()
                if marks.read_dir_marks(fd, b"", self.prefix).opaque or stat.find(fd, marks.OPAQUE_MARKER) is not None:
                    break
        showing = tuple([real.layer for real in reals])
        for depth, layer in enumerate(showing):
            layer.below = showing[depth + 1 :]
            layer.follow = self.redirects is not RedirectDir.NOFOLLOW
            layer.metacopy = self.config.metacopy
            layer.data_layers = self.data_layers
        lower = reals[1] if self.upper is not None and len(reals) > 1 else reals[0]
        root = DirNode(
            self.inodes.number(lower.layer, lower.layer.ino), None, b"", tuple(reals), self.upper is not None
        )
        root.protected = UNKNOWN if root.upper else 0
        self.inodes.enroll(root)
        root.lookups = 1
        return root

    def node(self, nodeid: int) -> Node:
        """The node of a nodeid.  Raises ESTALE."""
        node = self.inodes.by_id.get(nodeid)
        if node is None:
            raise OSError(116, "unknown node")
        return node

    def note_index(self, node: DirNode, names: int) -> None:
        """A merged index was built; the oldest ones go when there are too many names in memory.

        One that is being listed stays: its cookies would not be the same again.
        """
        self._indexes[node] = names
        self._indexed += names
        while self._indexed > _MOST_NAMES:
            oldest = next(iter(self._indexes))
            if oldest is node or (oldest.index is not None and oldest.index.is_listed()):
                break
            self._indexed -= self._indexes.pop(oldest)
            oldest.index = None

    def forget(self, nodeid: int, lookups: int) -> Node | Former | None:
        """See `Inodes.forget`."""
        node = self.inodes.by_id.get(nodeid)
        gone = self.inodes.forget(nodeid, lookups)
        if gone is not None and isinstance(node, DirNode) and self.inodes.by_id.get(node.nodeid) is None:
            self._indexed -= self._indexes.pop(node, 0)
        if gone is not None and self.exports is not None and node is not None:
            self._forget_above(node)
        return gone

    def _forget_above(self, node: Node) -> None:
        """Of a node that is gone, the directories that were kept for it alone."""
        above = node.parent
        while above is not None and self.inodes.by_id.get(above.nodeid) is above and self.inodes.drop_unused(above):
            self._indexed -= self._indexes.pop(above, 0)
            above = above.parent

    def statfs(self) -> fs.StatFs:
        """statfs(2) of the upper layer's filesystem, or of the topmost lower one's."""
        found = fs.statfs(self.layers[0].root.fd())
        return found._replace(namelen=max(found.namelen, lookup.NAME_MAX))

    def sync_directory(self, real: RealDir) -> None:
        """fsync(2) of a directory on the upper layer."""
        fd = os.open(procfs.fd_path(real.fd()), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync(self) -> None:
        """syncfs(2) of the upper layer's filesystem; nothing when read-only, or volatile and nothing was lost (else EIO)."""
        if self.durability.volatile:
            try:
                self.durability.check()
            except OSError as error:
                raise OSError(errno.EIO, error.strerror) from None
        elif self.upper is not None:
            fd = os.open(procfs.fd_path(self.upper.root.fd()), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fs.syncfs(fd)
            finally:
                os.close(fd)

    def trim(self) -> None:
        """Between requests: bring the number of cached descriptors down to its bound."""
        self.layers[0].descriptors.trim()

    def close(self) -> None:
        """Empty the work directory and close every layer; the locks end last."""
        self.durability.end()
        if self._staging is not None:
            self._staging.close()
            self._staging = None
        if self.origins is not None:
            self.origins.close()
        for node in self.inodes.by_id.values():
            node.unpin()
        self.layers[0].descriptors.close()
        for layer in self.all_layers:
            layer.close()
        for lock in self._locks:
            lock.close()


def _prefix(config: UnionConfig) -> str:
    """The namespace of the marks: `trusted.` is for the initial user namespace's CAP_SYS_ADMIN alone (xattr(7))."""
    privileged = creds.has_capability(creds.CAP_SYS_ADMIN) and creds.in_initial_user_namespace()
    return marks.USER if config.userxattr or not privileged else marks.TRUSTED


def _check_privilege(config: UnionConfig, prefix: str) -> None:
    """Whoever may mount over layers of others must not be led by their marks to data that he may not read.

    Raises LayerError, where the kernel's overlayfs says EPERM (overlayfs.rst, "Permission model").
    """
    if prefix == marks.TRUSTED:
        return
    asked = {"metacopy=on": config.metacopy, "verity=": config.verity is not Verity.OFF, "a data-only layer": bool(config.data)}
    for what, is_asked in asked.items():
        if is_asked and (not config.userxattr or what == "metacopy=on"):
            needs = "CAP_SYS_ADMIN in the initial user namespace"
            raise LayerError(f"{what} needs {needs}, for marks that only it can make; leave it out")


def _do_without_marks(config: UnionConfig, prefix: str) -> None:
    """Warn of an upper filesystem without xattrs, which an ordinary user may have no choice but to use.

    Raises LayerError where an option needs them, and for root, who can choose.
    """
    shown = os.fsdecode(config.upper or b"")
    if prefix == marks.TRUSTED:
        raise LayerError(f"upperdir: the filesystem of {shown} has no xattrs {prefix}*; use one that has them, or userxattr")
    needing = {
        "redirect_dir=on": config.redirect_dir is RedirectDir.ON, "metacopy=on": config.metacopy, "index=on": config.index,
    }  # fmt: skip
    for option, is_asked in needing.items():
        if is_asked:
            raise LayerError(f"{option}: the filesystem of upperdir {shown} has no xattrs {prefix}*; leave it out")
    logging.getLogger("unionfs").warning(
        "upperdir: the filesystem of %s has no xattrs %s*: opaque directories are marked by .wh..wh..opq files, which overlayfs"
        " does not know, and directories of lower layers can't be renamed", shown, prefix,
    )  # fmt: skip


def _redirects(config: UnionConfig, prefix: str) -> RedirectDir:
    """What AUTO stands for here."""
    if config.redirect_dir is not RedirectDir.AUTO:
        return config.redirect_dir
    if config.metacopy:
        return RedirectDir.ON
    return RedirectDir.ON if prefix == marks.TRUSTED else RedirectDir.NOFOLLOW


def _descriptor_limit() -> int:
    """How many directory descriptors to keep: a part of what the process may open, its limit raised as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(64, min(hard // 4, 8192))


def _apply_identity(config: UnionConfig, opened: list[Layer]) -> None:
    """What `xino` and `uuid` ask of the layers.  Raises LayerError when a layer has no file handles, and xino=on.

    uuid=off needs all of them on one filesystem, since they can't be told apart without (fs/overlayfs/super.c, ovl_get_layers).
    """
    single = len({layer.dev for layer in opened}) == 1
    if config.uuid is Uuid.OFF and not single:
        logging.getLogger("unionfs").warning("uuid=off: the layers are on several filesystems; taken as uuid=null")
    for layer in opened:
        if config.xino is Xino.ON and not layer.handles:
            raise LayerError(f"xino=on: the filesystem of {os.fsdecode(layer.path)} has no file handles; use xino=auto")
        if config.uuid is Uuid.OFF and single:
            layer.uuid = bytes(16)


def may_see_trusted(uid: int, pid: int) -> bool:
    """May the caller see `trusted.` xattrs (xattr(7): CAP_SYS_ADMIN)?"""
    return creds.has_capability(creds.CAP_SYS_ADMIN, pid) if pid else uid == 0
