"""What does Python do with dead objects?  No long looks for cycles of them, and their memory goes back to the system.

Nodes die by their reference counts.  Python's collector, which finds cycles, would look at every one of them each time their
number has grown by a quarter: with a million nodes a pause of some tenths of a second.  So what is there after a look that
took too long is left out of all later ones.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from unionfs.linux import memory

if TYPE_CHECKING:
    from unionfs.overlay.union import Union

#: Nanoseconds that a look at all objects may take.
_LONGEST: Final = 2_000_000
_OLDEST: Final = 2


@contextmanager
def short_collections() -> Iterator[None]:
    """While the block runs, looks do not get longer and longer: what one of more than two milliseconds saw is not seen again.

    Nor is what is there when the block begins: the modules.
    """
    start = 0

    def note(phase: str, info: dict[str, Any]) -> None:
        nonlocal start
        if info["generation"] != _OLDEST:
            return
        if phase == "start":
            start = time.perf_counter_ns()
        elif time.perf_counter_ns() - start > _LONGEST:
            gc.freeze()

    gc.freeze()
    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()


def give_back(union: Union) -> None:
    """When the kernel has forgotten most of very many nodes, give their memory back.  For moments with nothing to do.

    Python keeps some dead objects for later, scattered over all of its memory; a full collection lets go of them.
    """
    if union.inodes.shrink():
        gc.collect()
        memory.give_back()
