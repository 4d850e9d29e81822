"""What is this request, in words? One line per message, for the log of `-d`."""

from typing import Any

from unionfs.wire.abi import Opcode
from unionfs.wire.kinds import Header

_SHOWN = 64


def opcode_name(opcode: int) -> str:
    """The operation's name in <linux/fuse.h> without FUSE_, or `opcode N` for one that is not known here."""
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"opcode {opcode}"


def describe(header: Header, request: Any = None) -> str:
    """One line: id, operation, node, caller and, when decoded, the arguments. Long data is given as its length."""
    line = (
        f"#{header.unique:x} {opcode_name(header.opcode)} node {header.nodeid} uid {header.uid} gid {header.gid} pid {header.pid}"
    )
    if request is None:
        return line
    fields = " ".join(f"{name}={_shown(name, value)}" for name, value in zip(request._fields, request, strict=True))
    return f"{line} {fields}" if fields else line


_OCTAL = frozenset({"mode", "umask"})
_HEXADECIMAL = frozenset({"flags", "open_flags", "valid", "cmd", "lock_owner", "owner"})


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bytes | memoryview):
        return f"<{len(value)} bytes>" if len(value) > _SHOWN and name not in _NAMES else repr(bytes(value))
    if name in _OCTAL:
        return f"{value:#o}"
    if name in _HEXADECIMAL:
        return f"{value:#x}"
    return str(value)


_NAMES = frozenset({"name", "oldname", "newname", "target"})
