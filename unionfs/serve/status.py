"""What is the state of a mount's passthrough, as a whole and for each layer?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from unionfs.overlay.union import Union
from unionfs.serve.config import LowerIo
from unionfs.serve.fileio import FileIo
from unionfs.serve.opens import Opens
from unionfs.serve.passthrough import Backings


@dataclass(frozen=True, slots=True)
class LayerStatus:
    """One layer.  stack_depth: of its superblock.  obstacle: why its files have no passthrough, empty when they have."""

    path: str
    is_upper: bool
    stack_depth: int
    obstacle: str


@dataclass(frozen=True, slots=True)
class Status:
    """A mount.

    obstacle: why there is no passthrough at all, empty when there is.  stack_depth: this mount's own, 0 without passthrough.
    registered: files the kernel holds as backing files.  passthrough, mapped, cached: live opens by mode (see `policy`).
    splits: how often a file got a new inode.  fallbacks: how often a file could not be registered.
    """

    obstacle: str
    stack_depth: int
    layers: tuple[LayerStatus, ...]
    registered: int
    passthrough: int
    mapped: int
    cached: int
    splits: int
    fallbacks: int

    def lines(self) -> list[str]:
        """For people to read, a line for the mount, one for its opens, and one for each layer."""
        what = f"off ({self.obstacle})" if self.obstacle else f"on, stack depth {self.stack_depth}"
        opens = f"{self.passthrough} passthrough, {self.mapped} mapped, {self.cached} cached"
        lines = [
            f"passthrough: {what}",
            f"files registered: {self.registered}; opens: {opens}; splits: {self.splits}; fallbacks: {self.fallbacks}",
        ]
        for layer in self.layers:
            kind = "upper" if layer.is_upper else "lower"
            served = f"no passthrough ({layer.obstacle})" if layer.obstacle else "passthrough"
            lines.append(f"{kind} {layer.path}: {served}, stack depth {layer.stack_depth}")
        return lines


def collect(union: Union, backings: Backings, opens: Opens, stack_depth: int, lower_io: LowerIo) -> Status:
    """The state as it is now.  Looks at every node: for people, not for every request."""
    passthrough = mapped = cached = 0
    for io in _all(union):
        cached += io.cached
        if io.backing_upper or union.read_only or lower_io is LowerIo.PASSTHROUGH:
            passthrough += io.backed
        else:
            mapped += io.backed
    layers = []
    for layer in union.all_layers:
        obstacle = backings.reason or backings.refused.get(layer, "")
        layers.append(LayerStatus(os.fsdecode(layer.path), layer.is_upper, layer.stack_depth, obstacle))
    return Status(
        backings.reason, 0 if backings.reason else stack_depth, tuple(layers), backings.registered, passthrough, mapped, cached,
        opens.splits, backings.fallbacks,
    )  # fmt: skip


def _all(union: Union) -> Iterator[FileIo]:
    for node in union.inodes.by_id.values():
        for nodeid in (node.nodeid, *node.former_ids):
            io = union.inodes.attachment(node, nodeid)
            if isinstance(io, FileIo) and (nodeid != node.nodeid or union.inodes.by_id[nodeid] is node):
                yield io
