"""Cases: over which layers does a sequence of operations run, and which sequences make up a suite?"""

from __future__ import annotations

import os
import socket
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.oracle.actor import Actor
from tests.support.mounts import Layers
from tests.support.trees import snapshot

Steps = Callable[[Actor], None]
"""What a case does on the mount; runs with the case's directory as working directory."""

BUILT_NS = 1_000_000_000_123_456_789
"""Modification times in built layers start here (September 2001), distinct for every name of every layer: whatever still has
one was not touched.
"""


class LayerBuilder:
    """Fills one layer; every path is relative to the case's directory in it, and missing parents are made (0755, root)."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def _path(self, path: str) -> Path:
        full = self.base / path
        full.parent.mkdir(parents=True, exist_ok=True)
        return full

    def _own(self, path: Path, mode: int | None, owner: tuple[int, int]) -> None:
        os.chown(path, *owner, follow_symlinks=False)
        if mode is not None:
            path.chmod(mode)

    def dir(self, path: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        """A directory."""
        full = self._path(path)
        full.mkdir(exist_ok=True)
        self._own(full, mode, owner)

    def file(self, path: str, data: bytes = b"", mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
        """A regular file."""
        full = self._path(path)
        full.write_bytes(data)
        self._own(full, mode, owner)

    def sparse(self, path: str, size: int, data: dict[int, bytes]) -> None:
        """A regular file of `size` bytes that is a hole but for `data` (offset -> bytes)."""
        with open(self._path(path), "wb") as file:
            file.truncate(size)
            for offset, content in data.items():
                file.seek(offset)
                file.write(content)

    def symlink(self, path: str, target: str = "nowhere", owner: tuple[int, int] = (0, 0)) -> None:
        """A symlink."""
        full = self._path(path)
        full.symlink_to(target)
        self._own(full, None, owner)

    def node(
        self, path: str, kind: int, device: tuple[int, int] = (0, 0), mode: int = 0o644, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """A FIFO or device (`kind` is stat.S_IFIFO, S_IFCHR, S_IFBLK; `device` is major, minor) or, with S_IFSOCK, a socket."""
        full = self._path(path)
        if kind == stat.S_IFSOCK:
            # bind(2) takes at most 107 bytes: go through the directory's descriptor.
            directory = os.open(full.parent, os.O_PATH | os.O_DIRECTORY)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{directory}/{full.name}")
            os.close(directory)
        else:
            os.mknod(full, kind | mode, os.makedev(*device))
        self._own(full, mode, owner)

    def whiteout(self, path: str) -> None:
        """A whiteout in the form the kernel writes: a character device 0:0."""
        os.mknod(self._path(path), stat.S_IFCHR, os.makedev(0, 0))

    def opaque(self, path: str, value: bytes = b"y") -> None:
        """An opaque directory."""
        self.dir(path)
        os.setxattr(self.base / path, "trusted.overlay.opaque", value)

    def link(self, source: str, target: str) -> None:
        """A hard link to a name built before."""
        os.link(self.base / source, self._path(target))

    def xattr(self, path: str, name: str, value: bytes) -> None:
        """An extended attribute on a name built before."""
        os.setxattr(self._path(path), name, value, follow_symlinks=False)


class Builder:
    """The layers of one case."""

    def __init__(self, layers: Layers, directory: str) -> None:
        self._layers = [LayerBuilder(lower / directory) for lower in layers.lowers]
        self.upper = LayerBuilder(layers.top / directory)
        self._layers[-1].base.mkdir(exist_ok=True)

    def lower(self, number: int = 0) -> LayerBuilder:
        """A lower layer; 0 is the topmost, -1 the lowest."""
        return self._layers[number]


Case = Callable[[Builder], Steps]
"""Builds its layers, and returns what to do on the mount."""


@dataclass
class Suite:
    """Cases that share a mount, each in a directory of its own, over `lowers` lower layers.

    `alone`: every case has a mount of its own, and works in the root directory of the mount.
    """

    name: str
    lowers: int = 1
    alone: bool = False
    options: dict[str, str | None] = field(default_factory=dict)
    cases: dict[str, Case] = field(default_factory=dict)

    def case(self, build: Case) -> Case:
        """Decorator: adds a function as a case of its name, underscores as dashes."""
        self.add(build.__name__.replace("_", "-"), build)
        return build

    def add(self, name: str, build: Case) -> None:
        """Adds a case under a name, which is also its directory's."""
        if name in self.cases:
            raise ValueError(f"{self.name}: two cases called {name}")
        self.cases[name] = build

    def build(self, layers: Layers, names: list[str]) -> dict[str, Steps]:
        """Fills the layers for the named cases, gives everything built its time, and returns what each does."""
        steps = {name: self.cases[name](Builder(layers, "." if self.alone else name)) for name in names}
        for layer in (*layers.lowers, layers.top):
            for path in sorted(snapshot(layer, leave_out=("digest", "xattrs", "holes")), reverse=True):
                stamp = BUILT_NS + zlib.crc32(f"{layer.name}/{path}".encode("utf-8", "surrogateescape"))
                os.utime(layer / path, ns=(stamp, stamp), follow_symlinks=False)
        return steps
