"""The command as a process: exit status and the one line on standard error for everything that never gets to mount."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unionfs.cli import main as command
from unionfs.serve import surroundings

HOUSE = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m unionfs WORDS`, with what it wrote."""
    return subprocess.run(
        [sys.executable, "-m", "unionfs", *words],
        env={**os.environ, "PYTHONPATH": str(HOUSE)},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        ([], 1, "mount point"),
        (["mnt"], 1, "lowerdir="),
        (["mnt", "-o", "lowerdir=low,upperdir=up"], 1, "workdir="),
        (["mnt", "-o", "lowerdir=low,no_such_option"], 1, "no_such_option"),
        (["mnt", "-o", "lowerdir=low:"], 1, "lowerdir=low:"),
        (["mnt", "-o", "lowerdir=low,xino=perhaps"], 1, "off|auto|on"),
        (["mnt", "--no-such-flag"], 1, "no-such-flag"),
        (["missing", "-o", "lowerdir=low"], 32, "missing"),
        (["file", "-o", "lowerdir=low"], 32, "file"),
        (["new\nline", "-o", "lowerdir=low"], 32, r"new\nline"),
    ],
)
def test_bad_usage_is_one_line_and_a_status(tmp_path: Path, words: list[str], status: int, named: str) -> None:
    for directory in ("low", "up", "mnt"):
        (tmp_path / directory).mkdir()
    (tmp_path / "file").touch()
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("unionfs: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


@pytest.mark.parametrize(("flag", "start"), [("-h", "usage: unionfs"), ("-V", "unionfs: version ")])
def test_help_and_version_go_to_standard_output(tmp_path: Path, flag: str, start: str) -> None:
    done = run(flag, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(start)


def test_the_demo_has_help_of_its_own(tmp_path: Path) -> None:
    done = run("demo", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: unionfs demo")


def test_demo_before_a_mount_point_is_a_source(tmp_path: Path) -> None:
    done = run("demo", "missing", "-o", "lowerdir=low", cwd=tmp_path)
    assert (done.returncode, "mount point missing" in done.stderr) == (32, True)


def test_help_needs_neither_event_loop_nor_session(tmp_path: Path) -> None:
    script = "import sys; from unionfs.cli.main import main; main(['-h']); sys.exit('trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=HOUSE, capture_output=True, timeout=60)
    assert done.returncode == 0


def test_a_missing_device_is_a_system_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surroundings, "DEVICE", str(tmp_path / "no-device"))
    assert command.main(["-o", "lowerdir=/", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"unionfs: {tmp_path}/no-device does not exist: load")


@pytest.mark.parametrize(
    ("failure", "status", "words"),
    [
        (KeyboardInterrupt(), 8, "interrupted"),
        (MemoryError(), 2, "out of memory"),
        (ZeroDivisionError("bug"), 2, "internal error: ZeroDivisionError: bug (test_command.py:"),
        (ExceptionGroup("several", [KeyError("first"), KeyError("second")]), 2, "KeyError: 'first'"),
    ],
)
def test_failures_outside_the_commands_reach(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: BaseException,
    status: int,
    words: str,
) -> None:
    def fail(words: object) -> int:
        raise failure

    monkeypatch.setattr(command, "_run", fail)
    assert command.main([]) == status
    assert words in capsys.readouterr().err
