"""Under which names does a layer with owners in xattrs keep the users' xattrs?  So that none of theirs is taken for its own.

The mark itself is nobody's.  In layers of containers/storage (`user.containers.`), what means something to the system,
`security.*`, is kept under `user.containers.override_security.*`: it counts inside the mount alone, and needs no privilege.
What begins like that already gets the prefix once more (fuse-overlayfs 1.16, xattr_permissions=2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from unionfs.linux import xattr
from unionfs.overlay import acl

if TYPE_CHECKING:
    from unionfs.overlay.node import Node
    from unionfs.overlay.override import Override

PREFIX: Final = "user.containers.override_"
_SYSTEM: Final = "security."
_KEPT: Final = (_SYSTEM, PREFIX)


def encode(override: Override, attribute: str) -> str | None:
    """The name on the layer of a user's xattr; None when that can be no user's."""
    if override.isolates and attribute.startswith(_KEPT):
        return PREFIX + attribute
    return None if attribute == override.attribute else attribute


def decode(override: Override, attribute: str) -> str | None:
    """The name for users of a layer's xattr; None when it is hidden."""
    if attribute == override.attribute:
        return None
    if override.isolates and attribute.startswith(PREFIX):
        inner = attribute[len(PREFIX) :]
        return inner if inner.startswith(_KEPT) else None
    return attribute


def moved(source: Override | None, target: Override | None, attribute: str) -> str | None:
    """The name on the upper layer (`target`) of what an object copied up has as `attribute` on its own layer (`source`).

    None for what stays behind: the mark, which is written anew, and access control lists where modes are in marks.
    """
    if source is target:
        return attribute
    name = attribute if source is None else decode(source, attribute)
    if name is None or target is None:
        return name
    return None if name in acl.NAMES else encode(target, name)


def decoded(override: Override, attributes: Iterable[str]) -> list[str]:
    """The names for users of a layer's xattrs.

    One of `security.` that the layer really has, as some programs write it, is shown unless one is kept apart from it.
    """
    shown = (decode(override, attribute) for attribute in attributes)
    return list(dict.fromkeys(name for name in shown if name is not None))


def present(node: Node, attribute: str) -> list[str]:
    """The names on its layer under which an object has what users call `attribute`; the first one counts."""
    override = node.layer().override
    if override is None:
        names = [attribute]
    else:
        kept = encode(override, attribute)
        if kept is None:
            return []
        names = [kept]
        if kept != attribute and attribute.startswith(_SYSTEM):
            names.append(attribute)
    here = node.at()
    return [name for name in names if xattr.find(*here, name) is not None]
