"""What the server was asked: its log under `-f -d`."""

from __future__ import annotations

import collections
import re
from pathlib import Path


class RequestLog:
    """The log of `-f -d`, one line per request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen = 0

    def skip(self) -> None:
        """Forgets the requests so far."""
        self.seen = self.path.stat().st_size

    def count(self) -> collections.Counter[str]:
        """How many requests of which operation came since `skip`: names as in <linux/fuse.h> without FUSE_."""
        text = self.path.read_bytes()[self.seen :].decode(errors="replace")
        return collections.Counter(re.findall(r"#[0-9a-f]+ ([A-Z_0-9]+) node", text))
