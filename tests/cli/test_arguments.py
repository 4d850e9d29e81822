"""The words of the command line, and the configurations made of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unionfs.cli.arguments import DEFAULT_SOURCE, Action, read_arguments, resolve_mountpoint
from unionfs.cli.messages import CommandError, ExitStatus
from unionfs.overlay.config import Fsync, UnionConfig
from unionfs.serve.config import UNLIMITED_TIMEOUT, Passthrough


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "lowerdir=/a,upperdir=/u,workdir=/w", "src", "/m"],
        ["src", "/m", "-o", "lowerdir=/a,upperdir=/u,workdir=/w"],
        ["src", "-olowerdir=/a", "/m", "-oupperdir=/u", "-o", "workdir=/w"],
        ["-o", "lowerdir=/z,upperdir=/z", "-o", "lowerdir=/a,upperdir=/u,workdir=/w", "--", "src", "/m"],
    ],
)
def test_words_may_come_in_any_order(words: list[str]) -> None:
    arguments = read_arguments(words)
    assert arguments.action is Action.MOUNT
    assert (arguments.source, arguments.mountpoint) == (b"src", b"/m")
    assert arguments.settings.union() == UnionConfig(lowers=(b"/a",), upper=b"/u", work=b"/w")


def test_the_source_may_be_left_out() -> None:
    assert read_arguments(["/m", "-olowerdir=/a"]).source == DEFAULT_SOURCE


@pytest.mark.parametrize(
    ("words", "foreground", "debug", "verbose"),
    [
        ([], False, False, False),
        (["-f"], True, False, False),
        (["-d"], True, True, False),
        (["-fv"], True, False, True),
        (["-fdv"], True, True, True),
    ],
)
def test_flags(words: list[str], foreground: bool, debug: bool, verbose: bool) -> None:
    arguments = read_arguments([*words, "/m", "-olowerdir=/a"])
    assert (arguments.foreground, arguments.debug, arguments.verbose) == (foreground, debug, verbose)


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-f", "-h", "-o", "xino=on"], ["-h", "-V"]])
def test_help_is_asked_for(words: list[str]) -> None:
    assert read_arguments(words).action is Action.HELP


@pytest.mark.parametrize("words", [["-V"], ["--version"], ["/m", "-V"], ["-V", "-h"]])
def test_the_version_is_asked_for(words: list[str]) -> None:
    assert read_arguments(words).action is Action.VERSION


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "mount point"),
        (["-o", "lowerdir=/a"], "mount point"),
        (["/m"], "lowerdir="),
        (["/m", "-o", "upperdir=/u,workdir=/w"], "lowerdir="),
        (["/m", "-o", "lowerdir=/a,lowerdir="], "lowerdir="),
        (["/m", "-o", "lowerdir=/a,upperdir=/u"], "workdir="),
        (["a", "b", "c", "-o", "lowerdir=/a"], "'c'"),
        (["", "-o", "lowerdir=/a"], "empty"),
        (["/m", "-o"], "-o"),
        (["/m", "-x"], "-x"),
        (["/m", "--verbos"], "verbos"),
        (["/m", "-o", "lowerdir=/a,passthrough=on,max_stack_depth=0"], "max_stack_depth=0"),
        (["/m", "-o", "lowerdir=/a,inode_passthrough=draft,max_stack_depth=0"], "max_stack_depth=0"),
        (["/m", "-o", "lowerdir=/a,inode_passthrough=draft,passthrough=off"], "passthrough=off"),
        (["/m", "-o", "lowerdir=/a,binding=pyfuse3,passthrough=on"], "passthrough=on"),
        (["/m", "-o", "lowerdir=/a,binding=pyfuse3,inode_passthrough=draft"], "inode_passthrough=draft"),
        (["/m", "-o", "lowerdir=/a,binding=pyfuse3,cpu_idle=poll"], "cpu_idle=poll"),
    ],
)
def test_wrong_usage_names_what_is_wrong(words: list[str], named: str) -> None:
    with pytest.raises(CommandError) as caught:
        read_arguments(words)
    assert caught.value.status == ExitStatus.USAGE
    assert named in caught.value.message


def test_relative_layers_are_seen_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.getcwdb()
    union = read_arguments(["/m", "-o", "lowerdir=a:../b:/c,upperdir=u,workdir=./w"]).settings.union()
    assert union.lowers == (here + b"/a", here + b"/../b", b"/c")
    assert (union.upper, union.work) == (here + b"/u", here + b"/./w")


def test_a_work_directory_alone_is_left_out() -> None:
    union = read_arguments(["/m", "-o", "lowerdir=/a,workdir=/w"]).settings.union()
    assert union == UnionConfig(lowers=(b"/a",))


def test_the_session_gets_what_was_asked_for() -> None:
    text = "lowerdir=/a,upperdir=/u,workdir=/w,fsname=name,nosuid,timeout=3,noacl,passthrough=off,volatile,writeback=0"
    arguments = read_arguments(["src", "/m", "-o", text])
    session = arguments.settings.session(arguments.source, b"/m", debug=True, foreground=True)
    assert (session.source, session.mountpoint) == (b"name", b"/m")
    assert (session.timeout, session.noacl) == (3.0, True)
    assert session.passthrough is Passthrough.OFF
    assert (session.debug, session.foreground, session.read_only) == (True, True, False)
    assert arguments.settings.union().fsync is Fsync.VOLATILE


@pytest.mark.parametrize(
    ("text", "read_only"),
    [
        ("lowerdir=/a", True),
        ("lowerdir=/a,rw", True),
        ("lowerdir=/a,upperdir=/u,workdir=/w", False),
        ("lowerdir=/a,upperdir=/u,workdir=/w,ro", True),
    ],
)
def test_a_mount_is_read_only_without_upper_or_by_ro(text: str, read_only: bool) -> None:
    session = read_arguments(["/m", "-o", text]).settings.session(b"s", b"/m", debug=False, foreground=False)
    assert session.read_only is read_only
    assert session.timeout == UNLIMITED_TIMEOUT


def test_a_mount_point_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve_mountpoint(os.fsencode(tmp_path / "link")) == os.fsencode((tmp_path / "real").resolve())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing", "does not exist"),
        ("file", "not a directory"),
        ("file/below", "not a directory"),
        ("loop", "symbolic"),
    ],
)
def test_a_bad_mount_point_is_a_failed_mount(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CommandError) as caught:
        resolve_mountpoint(os.fsencode(tmp_path / name))
    assert caught.value.status == ExitStatus.MOUNT_FAILED
    assert str(tmp_path / name) in caught.value.message
    assert complaint in caught.value.message
