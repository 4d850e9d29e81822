"""Complaints are one line, whatever bytes a path holds and whatever became of standard error."""

from __future__ import annotations

import io
import os
import sys

import pytest

from unionfs.cli.messages import complain, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("/plain/path", "/plain/path"),
        ("/caf\u00e9", "/caf\u00e9"),
        ("/a\nb\tc", r"/a\nb\tc"),
        ("/bell\a\x1b[31m", r"/bell\x07\x1b[31m"),
        (os.fsdecode(b"/\xff"), r"/\xff"),
        ("/line\u2028separator", r"/line\u2028separator"),
    ],
)
def test_control_characters_and_foreign_bytes_are_written_out(text: str, line: str) -> None:
    assert one_line(text) == line


def test_a_complaint_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    complain("/a\nb: bad")
    assert capsys.readouterr().err == "unionfs: /a\\nb: bad\n"


def test_a_closed_standard_error_is_no_second_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    complain("nobody hears this")
    monkeypatch.setattr(sys, "stderr", None)
    complain("nor this")
    assert closed.closed
