"""By what are this upper layer and the inodes of the lower ones known again at a later mount?  The index, and the union's uuid.

What the layers' filesystems can't give is left out with a warning, as overlayfs does (fs/overlayfs/super.c, ovl_get_fsid,
ovl_make_workdir; util.c, ovl_init_uuid_xattr).
"""

from __future__ import annotations

import logging
import os
import uuid
from typing import TYPE_CHECKING, Final

from unionfs.linux import handle, xattr
from unionfs.overlay import origins
from unionfs.overlay.config import UnionConfig, Uuid
from unionfs.overlay.errors import LayerError

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.origins import OriginIndex

_log: Final = logging.getLogger("unionfs")


def settle(config: UnionConfig, layers: tuple[Layer, ...], work: int) -> OriginIndex | None:
    """Before the union is used: its uuid, and the index if one is asked for and can be had.

    `layers`: top first; `work`: the work directory's descriptor, -1 without one.  Raises LayerError as `origins.open_index`.
    """
    upper = layers[0]
    _tell_apart([layer for layer in layers if not layer.is_upper])
    if work < 0 or not upper.is_upper:
        return None
    _settle_uuid(config, upper)
    if not config.index:
        return None
    obstacle = _obstacle(layers)
    if obstacle:
        _log.warning("index=on: %s; hard links are not kept together (index=off)", obstacle)
        return None
    assert config.work is not None
    shown = os.fsdecode(config.work)
    try:
        return origins.open_index(upper, layers[1], layers[1:], work, shown, config.nfs_export)
    except OSError as error:
        raise LayerError(f"workdir: {shown}/index can't be prepared: {error.strerror}; mount with index=off") from None


def _obstacle(layers: tuple[Layer, ...]) -> str:
    """Why there can be no index: empty if there can."""
    for layer in layers:
        if not _has_handles(layer):
            return f"{os.fsdecode(layer.path)} has no file handles that can be opened"
    if any(layer.ambiguous for layer in layers):
        return "two lower filesystems have the same uuid"
    return ""


def _tell_apart(lowers: list[Layer]) -> None:
    """Note which lower layers' filesystems have the uuid of another one."""
    filesystems = {layer.dev: layer.uuid for layer in lowers}
    known = list(filesystems.values())
    for layer in lowers:
        layer.ambiguous = known.count(layer.uuid) > 1


def _has_handles(layer: Layer) -> bool:
    found = handle.encode(layer.root.fd(), b"") if layer.handles else None
    if found is None or layer.readable is None:
        return False
    try:
        os.close(handle.open_handle(layer.readable.fileno(), found, os.O_PATH))
    except OSError:
        return False
    return True


def _settle_uuid(config: UnionConfig, upper: Layer) -> None:
    """Give the union a uuid of its own, once: `overlay.uuid` on the upper root, 16 bytes.

    With uuid=auto only to an upper layer that nothing was copied up to yet.  A FUSE mount can't show it, but the kernel's
    overlayfs does, as the fsid of statfs(2).
    """
    attribute = upper.prefix + "uuid"
    if config.uuid not in (Uuid.AUTO, Uuid.ON) or not upper.has_marks or xattr.find(upper.root.fd(), b"", attribute) is not None:
        return
    if config.uuid is Uuid.AUTO and upper.root.marks().impure:
        return
    try:
        xattr.write(upper.root.fd(), b"", attribute, uuid.uuid4().bytes)
    except OSError as error:
        _log.warning("uuid=%s: the upper layer takes no uuid (%s)", config.uuid.value, error.strerror)
