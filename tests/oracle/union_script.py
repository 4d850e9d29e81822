"""Scripts: how is a sequence over random layers written down, so that it can be run again, made shorter, and kept as a case?"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

from tests.oracle.case import BUILT_NS, LayerBuilder

REMOUNTS = ("remount", "cross")
"""Calls that concern the whole mount: both unions are mounted again, or each by the other implementation, with the options
given.
"""

OCTAL = {"create": 2, "open": 3, "mkdir": 1, "mknod": 3, "chmod": 1, "fchmod": 1, "tmpfile": 2}
OCTAL_OF_ENTRIES = {"file": 1, "dir": 0}
"""Which argument of a call, and of an entry, is a mode."""


class Call(NamedTuple):
    """One step: what is called (a method of tests.oracle.union_worker.Lane, or one of REMOUNTS), with what, as which user."""

    name: str
    args: tuple[object, ...] = ()
    uid: int = 0

    def __str__(self) -> str:
        parts = [repr(self.name), _shown(OCTAL.get(self.name), self.args)]
        return f"Call({', '.join(parts + ([str(self.uid)] if self.uid else []))})"


class Entry(NamedTuple):
    """One name of a layer (`lower0` is the topmost lower, `upper`): what to build there, a method of Fill."""

    layer: str
    kind: str
    path: str
    args: tuple[object, ...] = ()

    def __str__(self) -> str:
        args = f", {_shown(OCTAL_OF_ENTRIES.get(self.kind), self.args)}" if self.args else ""
        return f"Entry({self.layer!r}, {self.kind!r}, {self.path!r}{args})"


def _shown(mode: int | None, args: Sequence[object]) -> str:
    shown = [oct(arg) if isinstance(arg, int) and mode == i else _short(arg) for i, arg in enumerate(args)]
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"


def _short(arg: object) -> str:
    if isinstance(arg, bytes) and len(arg) > 20 and arg == arg[:1] * len(arg):
        return f"{arg[:1]!r} * {len(arg)}"
    return repr(arg)


@dataclass(frozen=True)
class Script:
    """A case of the machine.

    options: of both mounts; ours: of unionfs alone. foreign: the lowest layer is a filesystem of its own (tmpfs).
    layers: what they hold. before: calls on a mount of the kernel's whose upper is lower0, over the lowers below it, so that
    the layer is as the kernel makes it. steps: what is done on the union.
    """

    name: str
    lowers: int
    options: Mapping[str, str | None] = field(default_factory=dict)
    ours: Mapping[str, str | None] = field(default_factory=dict)
    foreign: bool = False
    layers: tuple[Entry, ...] = ()
    before: tuple[Call, ...] = ()
    steps: tuple[Call, ...] = ()

    @property
    def mount(self) -> tuple[object, ...]:
        """What scripts must have in common to run on one mount."""
        return self.lowers, tuple(self.options.items()), tuple(self.ours.items()), self.foreign, bool(self.before)

    def __str__(self) -> str:
        """As it is written in a source file."""
        lines = ["Script("]
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, tuple) and value:
                inner = "".join(f"        {entry},\n" for entry in value)
                lines.append(f"    {item.name}=(\n{inner}    ),")
            elif value or item.name == "lowers":
                lines.append(f"    {item.name}={value!r},")
        return "\n".join([*lines, "),"])


class Fill:
    """Builds the entries of one layer's directory. `prefix` is that of the marks, `trusted.overlay.` or `user.overlay.`.

    What can't be built, since a shortened script lacks its parent, is left out: the same in the layers of both implementations.
    """

    def __init__(self, base: Path, prefix: str) -> None:
        self._layer, self._prefix = LayerBuilder(base), prefix
        base.mkdir(exist_ok=True)

    def build(self, entry: Entry) -> None:
        """One entry; one that stands in the way of what is there already is left out."""
        full = self._layer.base / entry.path
        if not os.path.lexists(full) and full.parent.is_dir() and not full.parent.is_symlink():
            getattr(self, f"_{entry.kind}")(entry.path, *entry.args)

    def _file(self, path: str, data: bytes, mode: int, uid: int = 0) -> None:
        self._layer.file(path, data, mode, (uid, uid))

    def _dir(self, path: str, mode: int, uid: int = 0) -> None:
        self._layer.dir(path, mode, (uid, uid))

    def _sparse(self, path: str) -> None:
        self._layer.sparse(path, 70_000, {8192: b"s" * 5000})

    def _opaque(self, path: str) -> None:
        self._layer.dir(path)
        self._layer.xattr(path, f"{self._prefix}opaque", b"y")

    def _xopaque(self, path: str) -> None:
        """A directory that may hold whiteouts in the form of xattrs."""
        self._layer.dir(path)
        self._layer.xattr(path, f"{self._prefix}opaque", b"x")

    def _redirected(self, path: str, target: str) -> None:
        """A directory whose lower part is elsewhere; `target` is a path in the lane's directory."""
        self._layer.dir(path)
        self._layer.xattr(path, f"{self._prefix}redirect", os.fsencode(f"/{self._layer.base.name}/{target}"))

    def _whiteout(self, path: str) -> None:
        self._layer.whiteout(path)

    def _xwhiteout(self, path: str) -> None:
        self._layer.file(path)
        self._layer.xattr(path, f"{self._prefix}whiteout", b"")

    def _symlink(self, path: str, target: str) -> None:
        self._layer.symlink(path, target)

    def _fifo(self, path: str) -> None:
        self._layer.node(path, stat.S_IFIFO)

    def _device(self, path: str) -> None:
        self._layer.node(path, stat.S_IFCHR, (1, 3))

    def _link(self, path: str, source: str) -> None:
        if (self._layer.base / source).is_file() and not (self._layer.base / source).is_symlink():
            self._layer.link(source, path)

    def _marked(self, path: str, name: str, value: bytes) -> None:
        """A file with an xattr."""
        self._layer.file(path, b"marked")
        self._layer.xattr(path, name, value)


def give_times(layer: Path, paths: Sequence[str]) -> None:
    """Gives everything built in a layer a time of its own, long ago."""
    for path in sorted(paths, reverse=True):
        stamp = BUILT_NS + zlib.crc32(f"{layer.name}/{path}".encode())
        os.utime(layer / path, ns=(stamp, stamp), follow_symlinks=False)
