"""`unionfs demo`: what a newcomer sees, and that nothing stays behind, whatever happens on the way."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from unionfs.cli import demo as demonstration
from unionfs.cli.arguments import read_arguments
from unionfs.cli.messages import CommandError

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demonstration makes its temporary directory; its name is full of what options find special."""
    place = tmp_path / "a:b,c\\d e"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def run(*words: str, place: Path) -> subprocess.CompletedProcess[str]:
    """`unionfs demo WORDS` with its temporary directory in `place`."""
    return subprocess.run(
        [sys.executable, "-m", "unionfs", "demo", *words],
        env={**os.environ, "PYTHONPATH": str(HOUSE), "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def mounted_below(place: Path) -> list[str]:
    """The mount points below a directory, as /proc/self/mountinfo writes them."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    marker = str(place.parent)
    return [line for line in lines if line.split()[4].startswith(marker)]


def test_the_demo_shows_everything_and_leaves_nothing(place: Path, can_mount: None) -> None:
    done = run(place=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert "passthrough: o" in done.stdout
    assert "colour = green" in done.stdout
    assert "in base: 'Welcome.\\n'" in done.stdout
    whiteouts = [line for line in done.stdout.splitlines() if line.startswith("  c") and "upper/etc/old.conf" in line]
    assert len(whiteouts) == 1
    assert " 0,0 " in whiteouts[0]
    assert list(place.iterdir()) == []
    assert mounted_below(place) == []


def test_the_layers_can_be_kept(place: Path, can_mount: None) -> None:
    done = run("--keep", place=place)
    assert (done.returncode, done.stderr) == (0, "")
    (kept,) = place.iterdir()
    assert str(kept) in done.stdout
    assert (kept / "upper" / "etc" / "motd").read_text() == "Welcome.\nHello\n"
    assert (kept / "base" / "etc" / "motd").read_text() == "Welcome.\n"
    assert stat.S_ISCHR((kept / "upper" / "etc" / "old.conf").lstat().st_mode)
    assert mounted_below(place) == []


def test_a_mount_that_fails_is_reported_and_cleaned_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = place / "failing"
    failing.write_text("#!/bin/sh\necho 'unionfs: no luck' >&2\nexit 32\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(CommandError) as caught:
        demonstration.demo([])
    assert (caught.value.message, caught.value.status) == ("the demo cannot mount: no luck", 32)
    assert list(place.iterdir()) == [failing]


def test_an_interrupt_cleans_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demonstration.demo([])
    assert list(place.iterdir()) == []


def test_the_command_it_shows_is_one_that_can_be_typed(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CommandError):
        demonstration.demo([])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  $ unionfs ")]
    arguments = read_arguments(shlex.split(line.removeprefix("  $ unionfs ")))
    layers = [Path(os.fsdecode(layer)) for layer in arguments.settings.lowers]
    assert [layer.name for layer in layers] == ["app", "base"]
    assert {layer.parent.parent for layer in layers} == {place}
    assert Path(os.fsdecode(arguments.mountpoint)).parent == layers[0].parent
