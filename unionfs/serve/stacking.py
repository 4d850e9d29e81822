"""How deep may the mount be stacked so that the kernel takes the layers' files as backing files, and which layers are too deep?

A filesystem that lies on others has a depth of one more than the deepest of them: overlayfs, eCryptfs, FUSE with passthrough (its
`max_stack_depth`); all else has none.  The kernel stacks no deeper than FILESYSTEM_MAX_STACK_DEPTH, and takes a backing file only
from a filesystem that is less deep than this mount says it is (fuse_backing_open() in fs/fuse/backing.c).  No system call tells a
filesystem's depth, so it's found by trial, on a FUSE filesystem that is mounted nowhere.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from unionfs.linux import at, creds, fuse, mount
from unionfs.linux.fd import Fd
from unionfs.overlay.layer import Layer
from unionfs.overlay.union import Union
from unionfs.serve.config import Passthrough, SessionConfig
from unionfs.wire import abi
from unionfs.wire.init import Wanted, encode_init, negotiate
from unionfs.wire.request import decode_header, decoders

_log: Final = logging.getLogger("unionfs")
MAX_STACK_DEPTH: Final = abi.MAX_STACK_DEPTH
_DEVICE: Final = "/dev/fuse"
#: Layers that one line of a message names.
_MOST_NAMED: Final = 8
#: How far a layer is searched for a regular file: entries, and seconds.
_MOST_ENTRIES: Final = 2000
_MOST_SECONDS: Final = 0.5
#: Seconds until an INIT that the kernel sends at once counts as missing.
_PATIENCE: Final = 2.0
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ask the kernel for.

    obstacle: why there is no passthrough at all, empty when it can be asked for.  max_stack_depth: 1 or 2, or 0 for no
    passthrough.  too_deep: why files of a layer have none.
    """

    obstacle: str = ""
    max_stack_depth: int = 0
    too_deep: dict[Layer, str] = field(default_factory=dict)


def plan(union: Union, config: SessionConfig) -> Plan:
    """What can be had of this union; its layers' stack depths are known afterwards, if they matter at all."""
    obstacle = _obstacle(union, config)
    if obstacle:
        return Plan(obstacle)
    measure(union)
    wanted = config.max_stack_depth or _least_depth(union.all_layers)
    too_deep = {layer: _too_deep(layer, wanted) for layer in union.all_layers if layer.stack_depth >= wanted}
    if len(too_deep) == len(union.all_layers):
        return Plan("every layer is stacked too deep", 0, too_deep)
    return Plan("", wanted, too_deep)


def _least_depth(layers: Iterable[Layer]) -> int:
    """One more than the deepest layer that can be had at all: with less, more filesystems can be stacked on the mount."""
    return 1 + max((layer.stack_depth for layer in layers if layer.stack_depth < MAX_STACK_DEPTH), default=0)


def _too_deep(layer: Layer, wanted: int) -> str:
    if layer.stack_depth >= MAX_STACK_DEPTH:
        return f"its filesystem is already {layer.stack_depth} deep, the most that the kernel stacks"
    return f"its filesystem is {layer.stack_depth} deep, which needs max_stack_depth={layer.stack_depth + 1} instead of {wanted}"


def _obstacle(union: Union, config: SessionConfig) -> str:
    """Why passthrough can't even be asked for; empty when it can."""
    if config.passthrough is Passthrough.OFF:
        return "switched off"
    if config.max_stack_depth == 0:
        return "max_stack_depth=0"
    if not creds.has_capability(creds.CAP_SYS_ADMIN) or not creds.in_initial_user_namespace():
        return "needs CAP_SYS_ADMIN in the initial user namespace"
    for layer in union.all_layers:
        if not layer.private:
            return f"the mount of layer {os.fsdecode(layer.path)} can't be cloned"
    return ""


def named(layers: dict[Layer, str]) -> str:
    """The layers and what is said of each, for a message; those with one reason in common are named together."""
    by_reason: dict[str, list[str]] = {}
    for layer, reason in layers.items():
        by_reason.setdefault(reason, []).append(os.fsdecode(layer.path))
    groups = []
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        groups.append(f"{'layer' if len(paths) == 1 else 'layers'} {', '.join(paths[:_MOST_NAMED])}{more}: {reason}")
    return "; ".join(groups)


def measure(union: Union) -> None:
    """Find the stack depth of layers whose filesystem may be a stacked one; all others cost nothing.

    Where no file is found to try with, or trying is not allowed, the least depth that the filesystem can have stands.
    """
    unsure: dict[int, list[Layer]] = {}
    for layer in union.all_layers:
        if layer.stackable:
            unsure.setdefault(layer.dev, []).append(layer)
    for layers in unsure.values():
        with a_file_of(union, layers) as fd:
            depth = _depth(fd) if fd >= 0 else None
        if depth is not None:
            for layer in layers:
                layer.stack_depth = depth


@contextmanager
def a_file_of(union: Union, layers: Iterable[Layer]) -> Iterator[int]:
    """A descriptor of some regular file on the filesystem that the layers have in common; -1 when none is found.

    On the upper layer it is made for the purpose.
    """
    for layer in layers:
        if layer.is_upper and not union.read_only:
            fd, name = union.staging_area().open_file(0o600)
            try:
                yield fd
            finally:
                os.close(fd)
                if name:
                    union.staging_area().discard(name)
            return
    for layer in layers:
        fd = find_file(layer)
        if fd >= 0:
            with Fd(fd):
                yield fd
            return
    yield -1


def find_file(layer: Layer) -> int:
    """An O_PATH descriptor of a regular file of the layer, its topmost directories searched first; -1 when none is near.

    The search is bounded, in entries and in time, because the layer's filesystem may be a slow one of another server.
    """
    root = layer.root.fd()
    deadline = time.monotonic() + _MOST_SECONDS
    left = _MOST_ENTRIES
    waiting: deque[bytes] = deque([b"."])
    while waiting and left > 0 and time.monotonic() < deadline:
        below = waiting.popleft()
        # What can't be read, or is gone by now, is not needed.
        with suppress(OSError), Fd(at.open_beneath(root, below, _DIRECTORY)) as directory:
            for entry in islice(os.scandir(directory.fileno()), left):
                left -= 1
                if time.monotonic() >= deadline:
                    return -1
                name = os.path.join(below, os.fsencode(entry.name))
                if entry.is_file(follow_symlinks=False):
                    return at.open_beneath(root, name, os.O_PATH)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
    return -1


def _depth(fd: int) -> int | None:
    """The stack depth of the file's filesystem, 0 to MAX_STACK_DEPTH; None when it can't be tried."""
    try:
        for depth in range(1, MAX_STACK_DEPTH + 1):
            if _takes(depth, fd):
                return depth - 1
    except OSError as error:
        _log.debug("stack depths can't be measured: %s", error.strerror)
        return None
    return MAX_STACK_DEPTH


def _takes(max_stack_depth: int, fd: int) -> bool:
    """Would a mount of this depth take the file as a backing file?  Raises OSError when that can't be tried."""
    with Fd(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)) as device, Fd(mount.unmounted_fuse(device.fileno())):
        _answer_init(device.fileno(), max_stack_depth)
        try:
            fuse.backing_close(device.fileno(), fuse.backing_open(device.fileno(), fd))
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return False
    return True


def _answer_init(device: int, max_stack_depth: int) -> None:
    """Agree on passthrough.  Raises OSError EOPNOTSUPP when the kernel has none."""
    if not select.select([device], [], [], _PATIENCE)[0]:
        raise OSError(errno.ETIMEDOUT, "the kernel sent no INIT")
    message = memoryview(os.read(device, 1 << 16))
    header = decode_header(message)
    request = decoders(False)[int(abi.Opcode.INIT)](message[40:], header)
    caps, _ = negotiate(request, Wanted(abi.PASSTHROUGH | abi.INIT_EXT, max_stack_depth=max_stack_depth))
    if not caps.flags & abi.PASSTHROUGH:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no passthrough")
    os.write(device, encode_init(header.unique, caps))
