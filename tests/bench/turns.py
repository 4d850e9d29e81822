"""In which order is measured, so that what changes on the machine meanwhile meets all alike?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

R = TypeVar("R")
P = TypeVar("P")


def turns(rounds: int, rows: Sequence[tuple[str, R]], places: Sequence[P]) -> Iterator[tuple[R, P]]:
    """Round by round, every row (what to call it, and what it is) at one place after the other, each time another one first."""
    for turn in range(rounds):
        for number, (name, row) in enumerate(rows):
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
            first = (turn + number) % len(places)
            for place in (*places[first:], *places[:first]):
                yield row, place
