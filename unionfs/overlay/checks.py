"""Do these directories go together as the layers of one union?  What is refused before anything is changed.

Source: fs/overlayfs/params.c and super.c of Linux (ovl_check_overlapping_layers, ovl_get_layers).
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from unionfs.linux import fs, stat
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.errors import LayerError
from unionfs.overlay.layer import Layer

#: Lower layers of one union (OVL_MAX_STACK); with more the kernel's overlayfs would not mount the upper layer again.
MOST_LOWERS: Final = 500

_Identity = tuple[int, int]


class _Root(NamedTuple):
    """A directory the user named: the option, the path, and the layer that it is or goes with."""

    option: str
    path: bytes
    layer: Layer


def check_number(config: UnionConfig) -> None:
    """Raises LayerError for more lower layers than overlayfs takes."""
    number = len(config.lowers) + len(config.data)
    if number > MOST_LOWERS:
        raise LayerError(f"lowerdir: {number} layers; overlayfs takes at most {MOST_LOWERS} lower ones, merge some")


def check(config: UnionConfig, opened: list[Layer], work: int) -> None:
    """Raises LayerError for layers that overlap, and for one in which names differ by more than their bytes.

    Lower layers that hold the upper one or the work directory get their `traps`.
    opened: all layers, the upper one first if there is one, the data-only ones last.  work: descriptor of the work directory.
    """
    for layer in opened:
        if layer.readable is not None and _is_casefolded(layer.readable.fileno()):
            raise LayerError(
                f"{_option(config, layer)}: {os.fsdecode(layer.path)} ignores the case of names (chattr +F), which a union can't;"
                " use a directory without that flag"
            )
    _check_overlaps(config, opened, work)


def _option(config: UnionConfig, layer: Layer) -> str:
    if layer.is_upper:
        return "upperdir"
    return "lowerdir" if layer.number <= len(config.lowers) else "datadir+"


def _is_casefolded(fd: int) -> bool:
    try:
        return bool(fs.inode_flags(fd) & fs.FS_CASEFOLD_FL)
    except OSError:
        return False


def _check_overlaps(config: UnionConfig, opened: list[Layer], work: int) -> None:
    """No layer may be another one, nor lie in one, by whatever path (ELOOP in the kernel's overlayfs).

    The upper one and the work directory may lie in a lower one if the configuration says so.
    What another filesystem is mounted on inside a layer is no part of it, if the layer was opened without what is mounted in it.
    """
    roots: dict[_Identity, _Root] = {}
    for layer in opened:
        _add(roots, (layer.dev, layer.ino), _Root(_option(config, layer), layer.path, layer))
        if layer.is_upper and config.work is not None:
            found = stat.stat(work)
            _add(roots, (found.dev, found.ino), _Root("workdir", config.work, layer))
    known: dict[bytes, _Identity | None] = {}
    for inner, root in roots.items():
        above = os.path.realpath(root.path)
        while above != b"/":
            above = os.path.dirname(above)
            if above not in known:
                known[above] = _identity(above)
            identity = known[above]
            if identity is None or identity not in roots:
                continue
            outer = roots[identity]
            if outer is root or (outer.layer.private and identity[0] != inner[0]):
                continue
            if config.nested and root.layer.is_upper and outer.option == "lowerdir":
                outer.layer.traps |= {inner}
            else:
                raise _overlap(root, outer)


def _add(roots: dict[_Identity, _Root], identity: _Identity, root: _Root) -> None:
    other = roots.setdefault(identity, root)
    if other is not root:
        raise _overlap(root, other)


def _identity(path: bytes) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _overlap(one: _Root, other: _Root) -> LayerError:
    both = f"{os.fsdecode(one.path)} overlaps {other.option} {os.fsdecode(other.path)}"
    return LayerError(f"{one.option}: {both}; layers must be separate trees")
