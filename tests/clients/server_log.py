"""What was the server asked?  Its log with `-d`, read back as requests."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(r"#([0-9a-f]+) ([A-Z_0-9]+) node (\d+) uid \d+ gid \d+ pid \d+([^:\n]*)(:?)")
"""How `-d` logs a request as it arrives, and again, with a colon and its error, when it fails (unionfs.wire.describe)."""


class Request(NamedTuple):
    """What the server was asked: the operation, on which node, with which arguments."""

    operation: str
    node: int
    arguments: str

    @property
    def asks_for_capabilities(self) -> bool:
        """Whether this is the kernel's question before a first write."""
        return self.operation == "GETXATTR" and "name=b'security.capability'" in self.arguments


def requests_in(log: Path) -> list[Request]:
    """Every request the server has got, in order."""
    found = LINE.findall(log.read_text(errors="replace"))
    return [Request(operation, int(node), arguments) for _, operation, node, arguments, colon in found if not colon]


def settled(log: Path) -> list[Request]:
    """The requests so far, once the log has stopped growing: RELEASE is sent after close(2) has returned."""
    size = -1
    while size != (size := log.stat().st_size):
        time.sleep(0.1)
    return requests_in(log)
