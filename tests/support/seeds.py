"""Which random examples are tried?

The same in every run, so that a failure says something of what was changed and not of the day.  New ones are looked for with
UNIONFS_TEST_SEED=random, or another number; how long, each test that draws them says.
"""

from __future__ import annotations

import os
import random
from typing import Final

from hypothesis import settings

_GIVEN: Final = os.environ.get("UNIONFS_TEST_SEED", "1")
IS_RANDOM: Final = _GIVEN == "random"
#: With which number the examples of a test begin that counts seeds itself.
FIRST: Final = random.SystemRandom().randrange(1 << 32) if IS_RANDOM else int(_GIVEN)


def choose() -> None:
    """Before any test that is hypothesis's is imported."""
    settings.register_profile("unionfs", derandomize=not IS_RANDOM, database=None, deadline=None)
    settings.load_profile("unionfs")
