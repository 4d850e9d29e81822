"""Programs of this machine in a root file system of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path


def install(names: Iterable[str], root: Path) -> None:
    """Copies programs to `root`/bin, which is made, and the libraries that they need to where they are looked for."""
    (root / "bin").mkdir(parents=True)
    for name in names:
        program = shutil.which(name)
        assert program, f"{name} is not installed"
        shutil.copy(os.path.realpath(program), root / "bin" / name)
        needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        for library in (word for word in needed if word.startswith("/")):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library), root / library[1:])
