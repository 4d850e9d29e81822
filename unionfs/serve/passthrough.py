"""Which files does the kernel read and write by itself?  What can be had, and the registered backing files.

A backing file is registered once for each node, at its first open, and kept after the last close until it is among the
oldest idle ones, its last name goes, or the kernel forgets the node (Documentation/filesystems/fuse/fuse-passthrough.rst).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from typing import Final

from unionfs.linux import fuse
from unionfs.overlay import files
from unionfs.overlay.creator import SERVER, Identity
from unionfs.overlay.layer import Layer
from unionfs.overlay.node import Node
from unionfs.overlay.union import Union
from unionfs.serve import stacking
from unionfs.serve.fileio import FileIo

_log: Final = logging.getLogger("unionfs")
#: Registered files that nobody has open.
_MOST_IDLE: Final = 4096
_TRANSIENT: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EINTR))


class Backings:
    """The registered backing files.

    reason: why there is no passthrough at all, empty when there is.  refused: why there is none for files of a layer.
    registered: how many files the kernel holds for us.  fallbacks: how often it would not take one.
    """

    __slots__ = ("_device", "_identity", "_idle", "fallbacks", "reason", "refused", "registered")

    def __init__(self, device: int, identity: Identity) -> None:
        self._device = device
        self._identity = identity
        self.registered = 0
        self.fallbacks = 0
        self._idle: dict[FileIo, None] = {}
        self.refused: dict[Layer, str] = {}
        self.reason = "not negotiated"

    def probe(self, union: Union) -> None:
        """Prove on a staged file that the kernel takes backing files, and those of the upper layer; the others' at first use."""
        if not union.read_only:
            self._probe(union, union.layers[:1])

    def probe_lowers(self, union: Union) -> None:
        """Prove it for the lower layers too, on a file of each filesystem if one is near."""
        by_device: dict[int, list[Layer]] = {}
        for layer in union.all_layers:
            if not layer.is_upper:
                by_device.setdefault(layer.dev, []).append(layer)
        for layers in by_device.values():
            self._probe(union, layers)

    def _probe(self, union: Union, layers: Sequence[Layer]) -> None:
        with stacking.a_file_of(union, layers) as fd:
            if fd < 0 or self.reason:
                return
            try:
                fuse.backing_close(self._device, fuse.backing_open(self._device, fd))
            except OSError as error:
                if error.errno == errno.EPERM:
                    self.reason = _explain(error)
                else:
                    for layer in layers:
                        self.refused.setdefault(layer, _explain(error))

    def offers(self, node: Node) -> bool:
        """May the node's real file be registered, as far as is known?"""
        if self.reason:
            return False
        layer = _layer(node)
        return layer is None or layer not in self.refused

    def attach(self, node: Node, io: FileIo, fd: int = -1) -> bool:
        """See that the node's real file is registered, by `fd` if the caller has one open; False when it can't be had.

        The kernel does the I/O with the credentials of the moment (fs/fuse/backing.c), so they are always the server's own.
        """
        if io.backing_id:
            if io.backing_upper == node.data_upper:
                return True
            self.release(io)
        if not self.offers(node):
            return False
        layer = _layer(node)
        own = fd if fd >= 0 else files.open_path(node)
        try:
            self._identity.assume_ids(SERVER)
            io.backing_id = fuse.backing_open(self._device, own, self._operations(node))
        except OSError as error:
            self._refuse(layer, error)
            return False
        finally:
            if own != fd:
                os.close(own)
        io.backing_upper = node.data_upper
        self.registered += 1
        return True

    def _operations(self, node: Node) -> int:
        """The operations on the inode itself that are to pass through to its file, as bits of `ops_mask`."""
        return 0

    def _refuse(self, layer: Layer | None, error: OSError) -> None:
        self.fallbacks += 1
        if error.errno in _TRANSIENT:
            return
        if error.errno == errno.EPERM or layer is None:
            self.reason = _explain(error)
            _log.warning("passthrough is off: %s", self.reason)
            return
        self.refused[layer] = _explain(error)
        _log.warning("no passthrough for files of layer %s: %s", os.fsdecode(layer.path), self.refused[layer])

    def idle(self, io: FileIo) -> None:
        """Nobody has the file open any more: keep it registered for the next open, the oldest goes."""
        self._idle[io] = None
        if len(self._idle) > _MOST_IDLE:
            self.release(next(iter(self._idle)))

    def busy(self, io: FileIo) -> None:
        """The file is opened again."""
        self._idle.pop(io, None)

    def release(self, io: FileIo) -> None:
        """Unregister; opens that use it go on."""
        self._idle.pop(io, None)
        backing_id, io.backing_id = io.backing_id, 0
        if backing_id:
            self.registered -= 1
            try:
                fuse.backing_close(self._device, backing_id)
            except OSError as error:
                _log.warning("backing file %d could not be released: %s", backing_id, error.strerror)


def _layer(node: Node) -> Layer | None:
    """The layer of the node's data; None for a file that never had a place."""
    if node.data is not None:
        return node.data.layer()
    return node.real_dir.layer if node.real_dir is not None else None


def _explain(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "its filesystem is stacked too deep"
    if error.errno == errno.EPERM:
        return "the kernel refuses backing files (EPERM)"
    return f"the kernel refuses the backing file: {error.strerror}"
