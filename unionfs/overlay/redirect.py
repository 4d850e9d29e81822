"""Where is the lower part of a directory that was renamed?  The redirect mark: written by a rename, followed by lookups.

`overlay.redirect` on a directory names the place to go on searching in the layers below its own: one name in the same
directory, or a path from the root of the union as those layers show it (overlayfs.rst, "renaming directories").
"""

from __future__ import annotations

import errno
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import stat, xattr
from unionfs.overlay import marks
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.node import DirNode
    from unionfs.overlay.union import Union

#: Bytes of the longest path that is written (overlayfs's module parameter redirect_max).
_LONGEST: Final = 256


def check(value: bytes) -> None:
    """Raises EINVAL for what is no redirect (fs/overlayfs/util.c, ovl_get_redirect_xattr)."""
    parts = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if any(not part or b"/" in part or part in (b".", b"..") for part in parts):
        raise OSError(errno.EINVAL, "malformed redirect")


def follow(layer: Layer, path: bytes) -> list[RealDir]:
    """The real directories that `path`, an absolute redirect found in `layer`, leads to in the layers below it.

    Raises EINVAL for a malformed redirect on the way, EPERM where redirects are not followed, and what the layers raise.
    """
    found: list[RealDir] = []
    for below in layer.below:
        real, path, ended = _walk(below, path)
        if real is not None:
            found.append(real)
        if ended:
            break
    return found


def _walk(layer: Layer, path: bytes) -> tuple[RealDir | None, bytes, bool]:
    """Follow `path` in one layer: what is there, the path for the next one, and whether the search ends here."""
    names = path[1:].split(b"/")
    onward: list[bytes] = []
    here = layer.root
    ended = False
    for position, name in enumerate(names):
        found = stat.find(here.fd(), name)
        if found is None:
            # A redirect passed on the way counts for the layers below although the way ends here.
            return None, b"/" + b"/".join([*onward, *names[position:]]), ended or here.has_marker(name)
        if found.mode & 0o170000 != modes.S_IFDIR:
            return None, path, True
        here = RealDir(layer, here, name)
        onward.append(name)
        if layer.below:
            mark = here.marks()
            if mark.opaque or stat.find(here.fd(), marks.OPAQUE_MARKER) is not None:
                ended = True
            elif mark.redirect is not None:
                target = allowed(layer, mark.redirect)
                onward = target[1:].split(b"/") if target.startswith(b"/") else [*onward[:-1], target]
    return here, b"/" + b"/".join(onward), ended


def allowed(layer: Layer, value: bytes) -> bytes:
    """The redirect found in a layer.  Raises EPERM where it is not to be followed, EINVAL when it is malformed."""
    check(value)
    if not layer.follow:
        raise OSError(errno.EPERM, "redirected directory, and redirects are not followed")
    return value


def write(union: Union, node: DirNode, *, same_parent: bool) -> None:
    """Before a directory with a lower part moves: note on its upper part where that is.

    Raises EXDEV when the path is too long or the upper layer takes no mark.
    """
    upper = node.upper_dir
    present = upper.marks().redirect
    if present is not None and (same_parent or present.startswith(b"/")):
        return
    value = node.name if same_parent else _path(union, node)
    if len(value) > _LONGEST:
        raise OSError(errno.EXDEV, "the path for the redirect is too long")
    try:
        xattr.write(upper.fd(), b"", union.prefix + "redirect", value)
    except OSError:
        raise OSError(errno.EXDEV, "the upper layer takes no redirect") from None
    upper.note_redirect(value)


def _path(union: Union, node: DirNode) -> bytes:
    """Where the directory's lower part is, seen from the root of the layers below the upper one."""
    parts: list[bytes] = []
    here: DirNode | None = node
    while here is not None and here is not union.root:
        present = here.upper_dir.marks().redirect if here.upper else None
        if present is not None and present.startswith(b"/"):
            return b"/".join([present, *reversed(parts)])
        parts.append(present or here.name)
        here = here.parent
    return b"/" + b"/".join(reversed(parts))
