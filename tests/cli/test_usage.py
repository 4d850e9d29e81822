"""The help text, the version, the manual page and the README say the same as the program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from unionfs import __version__
from unionfs.cli.messages import ExitStatus
from unionfs.cli.option import Option
from unionfs.cli.options import OPTIONS
from unionfs.cli.usage import usage, version

HOUSE = Path(__file__).parents[2]
MANUAL = HOUSE / "man" / "unionfs.8"


def manual_options() -> set[str]:
    """The tags of the manual's section OPTIONS, typeset as plain text: `xino=off|auto|on`, `-o options`."""
    section = re.split(r"^\.SH ", MANUAL.read_text(), flags=re.M)
    (options,) = [part for part in section if part.startswith('"MOUNT OPTIONS"')]
    tags = re.findall(r"^\.(?:TP|TQ)\n(.*)$", options, flags=re.M)
    return {re.sub(r"\\f.|^\.\w+ | ", "", tag).replace("\\-", "-") for tag in tags}


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_is_in_the_help_text(option: Option) -> None:
    assert re.search(rf"(?<!\S){re.escape(str(option))}(?=[,\s])", usage())


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_is_in_the_manual(option: Option) -> None:
    assert str(option) in manual_options()


def test_the_manual_has_no_option_that_does_not_exist() -> None:
    assert manual_options() == {str(option) for option in OPTIONS}


@pytest.mark.parametrize("status", ExitStatus)
def test_every_exit_status_is_in_the_manual(status: ExitStatus) -> None:
    (section,) = re.findall(r'^\.SH "EXIT STATUS"\n(.*?)^\.SH', MANUAL.read_text(), flags=re.M | re.S)
    assert f".B {int(status)}\n" in section


def test_help_lines_fit_a_wide_terminal() -> None:
    assert max(len(line) for line in usage().splitlines()) <= 105


def test_the_version_is_that_of_the_package_and_names_the_protocol() -> None:
    first, second = version().splitlines()
    assert first == f"unionfs: version {__version__}"
    assert re.fullmatch(r"FUSE protocol 7\.\d+ to 7\.\d+", second)


@pytest.mark.parametrize("page", sorted(MANUAL.parent.glob("*.[0-9]")), ids=lambda page: page.name)
def test_the_manual_is_typeset_without_a_warning(page: Path) -> None:
    command = ["groff", "-man", "-t", "-Tutf8", "-wall", "-ww", "-z", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    shown = subprocess.run(
        [HOUSE / ".ci" / "run", "--show-test-command"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert shown.startswith("apt-get update")
    assert shown.endswith("pytest -n auto")
    assert f"```sh\n{shown}\n```" in (HOUSE / "README.md").read_text()
