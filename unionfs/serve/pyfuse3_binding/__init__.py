"""How does the same union run under another binding?  pyfuse3, on libfuse, drives the handlers of `serve` in the session's place.

All of it is translation: no rule of the union is here.  pyfuse3 is an optional package, so only `load` imports what needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from unionfs.serve.errors import MountError

if TYPE_CHECKING:
    from unionfs.overlay.union import Union
    from unionfs.serve.config import SessionConfig

_OLDEST: Final = (3, 5)
_INSTALL: Final = "pip install 'unionfs[pyfuse3]'"


def load() -> Callable[[Union, SessionConfig, Callable[[str], None]], None]:
    """What serves a union by pyfuse3.  Raises MountError where pyfuse3 is missing, too old, or can't be loaded."""
    try:
        import pyfuse3
    except ModuleNotFoundError:
        raise MountError(f"binding=pyfuse3: the Python package pyfuse3 is not installed: {_INSTALL}") from None
    except ImportError as error:
        raise MountError(f"binding=pyfuse3: the Python package pyfuse3 can't be loaded: {error}") from None
    version = pyfuse3.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST:
        raise MountError(f"binding=pyfuse3: pyfuse3 {version} is too old, 3.5 is needed: {_INSTALL}")
    from unionfs.serve.pyfuse3_binding.life import serve

    return serve
