"""Where is the lower part of an object that was renamed?  The redirect mark: written by a rename, followed by lookups.

`overlay.redirect` on a directory names the place to go on searching in the layers below its own: one name in the same
directory, or a path from the root of the union as those layers show it (overlayfs.rst, "renaming directories").  On a file
that holds only metadata it names the place of the data in the same way.
"""

from __future__ import annotations

import errno
import stat as modes
from typing import TYPE_CHECKING, Final

from unionfs.linux import stat, xattr
from unionfs.overlay import marks, traps
from unionfs.overlay.realdir import RealDir

if TYPE_CHECKING:
    from unionfs.overlay.layer import Layer
    from unionfs.overlay.node import DirNode, Node
    from unionfs.overlay.union import Union

#: Bytes of the longest path that is written (overlayfs's module parameter redirect_max).
_LONGEST: Final = 256


def check(value: bytes) -> None:
    """Raises EINVAL for what is no redirect (fs/overlayfs/util.c, ovl_get_redirect_xattr)."""
    parts = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if any(not part or b"/" in part or part in (b".", b"..") for part in parts):
        raise OSError(errno.EINVAL, "malformed redirect")


def of_file(value: bytes) -> bytes:
    """The redirect on a file, up to a NUL as overlayfs reads it.  Raises EINVAL for what is none.

    `..` is left to whoever follows it: in a data-only layer it may be part of a path.
    """
    text = value.split(b"\0")[0]
    if not value or (b"" in text[1:].split(b"/") if text.startswith(b"/") else b"/" in text):
        raise OSError(errno.EINVAL, "malformed redirect")
    return text


def to_parent(layer: Layer, path: bytes) -> tuple[RealDir | None, bytes, bool]:
    """The directory of `path` in one layer, the path for the next one, and whether the search ends with this layer."""
    head, _, last = path.rpartition(b"/")
    if not head:
        return layer.root, path, False
    real, head, ended = _walk(layer, head)
    return real, head + b"/" + last, ended


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
    for depth, name in enumerate(names):
        if name in (b".", b".."):
            raise OSError(errno.EACCES, "redirect through no name")
        found = stat.find(here.fd(), name)
        if found is None:
            # What the directories passed by say of the layers below holds on.
            return None, b"/" + b"/".join([*onward, *names[depth:]]), ended or here.has_marker(name)
        if found.mode & 0o170000 != modes.S_IFDIR:
            return None, path, True
        if layer.traps:
            traps.check(layer, found)
        here = RealDir(layer, here, name)
        onward.append(name)
        if layer.below:
            mark = here.marks()
            if mark.opaque or stat.find(here.fd(), marks.OPAQUE_MARKER) is not None:
                ended = True
            elif mark.redirect is not None:
                target = allowed(layer, mark.redirect)
                if target.startswith(b"/"):
                    # It leads out of whatever opaque directory was passed by (fs/overlayfs/namei.c, ovl_check_redirect).
                    onward, ended = target[1:].split(b"/"), False
                else:
                    onward[-1] = target
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
    value = node.name if same_parent else _path(union, node, [])
    _store(union, node, value)
    upper.note_redirect(value)


def write_for_file(union: Union, node: Node, parent: DirNode, name: bytes, *, same_parent: bool) -> None:
    """Before a file with its data below, known as `name` in `parent`, moves or gets another name: note where they are.

    A file whose lower one has several names always gets a path, because its own names may come to lie anywhere.
    Raises EXDEV as `write` does.
    """
    assert node.data is not None
    relative = same_parent and node.data.below.nlink == 1
    present = xattr.find(*node.at(), union.prefix + "redirect")
    if present is not None and (relative or present.startswith(b"/")):
        return
    _store(union, node, name if relative else _path(union, parent, [present or name]))


def _store(union: Union, node: Node, value: bytes) -> None:
    if len(value) > _LONGEST:
        raise OSError(errno.EXDEV, "the path for the redirect is too long")
    try:
        xattr.write(*node.at(), union.prefix + "redirect", value)
    except OSError:
        raise OSError(errno.EXDEV, "the upper layer takes no redirect") from None


def _path(union: Union, node: DirNode, parts: list[bytes]) -> bytes:
    """Where the lower part of what `parts` say backwards, in `node`, is, seen from the root of the layers below the upper one."""
    here: DirNode | None = node
    while here is not None and here is not union.root:
        present = here.upper_dir.marks().redirect if here.upper else None
        if present is not None and present.startswith(b"/"):
            return b"/".join([present, *reversed(parts)])
        parts.append(present or here.name)
        here = here.parent
    return b"/" + b"/".join(reversed(parts))
