"""Does the generated project compile, and does the program print what the generator worked out?"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench.passthrough.sources import make_project


def test_the_program_prints_what_is_expected(tmp_path: Path) -> None:
    project = tmp_path / "project"
    make_project(project, 5)
    subprocess.run(["make", "-s", "-C", project], check=True)
    done = subprocess.run([project / "all"], capture_output=True, text=True, check=True)
    assert done.stdout == (project / "expected").read_text()
    assert len(list(project.glob("*.c"))) == 6
