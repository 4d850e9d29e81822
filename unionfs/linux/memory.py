"""How is freed memory given back to the system?  The C library's malloc_trim(3), where there is one."""

import ctypes
from collections.abc import Callable
from typing import Final

from unionfs.linux import libc


def _find() -> Callable[..., int] | None:
    try:
        return libc.function("malloc_trim", ctypes.c_size_t)
    except AttributeError:
        # musl gives memory back by itself.
        return None


_malloc_trim: Final = _find()


def give_back() -> None:
    """Give back what the C library holds of freed memory."""
    if _malloc_trim is not None:
        _malloc_trim(0)
