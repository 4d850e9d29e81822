"""Does `unionfs -d` say what the state of passthrough is?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.clients.command import in_foreground, wait_for
from tests.support.mounts import Layers


@pytest.fixture
def log(scratch: Path) -> Path:
    return scratch / "log"


def said(log: Path) -> list[str]:
    """The lines of the state, without the prefix; those of the end follow those of the beginning."""
    starts = ("passthrough: ", "files registered: ", "upper ", "lower ")
    lines = [line.removeprefix("unionfs: ") for line in log.read_text().splitlines()]
    return [line for line in lines if line.startswith(starts)]


def test_on(layers: Layers, log: Path) -> None:
    (layers.lowers[0] / "tool").write_bytes(b"\x7fELF" + bytes(5000))
    (layers.lowers[0] / "tool").chmod(0o755)
    with in_foreground(layers, flags=("-f", "-d"), log=log):
        reader = os.open(layers.mnt / "tool", os.O_RDONLY)
        writer = os.open(layers.mnt / "tool", os.O_WRONLY)
        os.write(writer, b"changed")
        os.close(writer)
        os.close(reader)
        wait_for(lambda: log.read_text().count(" RELEASE ") == 2, "both releases")
    begin, end = said(log)[:4], said(log)[4:]
    layer_lines = [
        f"upper {layers.upper}: passthrough, stack depth 0",
        f"lower {layers.lowers[0]}: passthrough, stack depth 0",
    ]
    nothing = "opens: 0 passthrough, 0 mapped, 0 cached"
    assert begin == ["passthrough: on, stack depth 1", f"files registered: 0; {nothing}; splits: 0; fallbacks: 0", *layer_lines]
    # The last word is said after the kernel has forgotten everything: what was registered may be released by then.
    registered = end[1].split(";")[0]
    assert registered in ("files registered: 0", "files registered: 1")
    assert end == ["passthrough: on, stack depth 1", f"{registered}; {nothing}; splits: 1; fallbacks: 0", *layer_lines]


def test_off(layers: Layers, log: Path) -> None:
    with in_foreground(layers, {"passthrough": "off"}, flags=("-f", "-d"), log=log):
        assert os.listdir(layers.mnt) == []
    lines = said(log)
    assert lines[0] == "passthrough: off (switched off)"
    assert f"lower {layers.lowers[0]}: no passthrough (switched off), stack depth 0" in lines
