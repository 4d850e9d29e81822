"""Does the house stand as planned?  Imports go one way, and no file or function grows out of hand.

The direction is cli -> serve -> {wire, overlay} -> linux. The package's files are parsed, not imported, so that an
import inside a function counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import unionfs

PACKAGE = Path(unionfs.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

MAY_IMPORT = {
    "cli": {"serve", "wire", "overlay", "linux"},
    "serve": {"wire", "overlay", "linux"},
    "wire": {"linux"},
    "overlay": {"linux"},
    "linux": set(),
}
ONLY_IMPORTER = {"trio": "serve", "ctypes": "linux"}
LONGEST_FILE = 500
LONGEST_FUNCTION = 60


def imported(tree: ast.AST, path: Path) -> Iterator[str]:
    """The full dotted names of everything the module imports, relative imports resolved, `from a import b` as `a.b`."""
    here = ["unionfs", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: -node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def wrong_imports(source: str, path: Path) -> list[str]:
    """Every import of the module that breaks a rule, with the rule it breaks."""
    parts = path.relative_to(PACKAGE).parts
    home = parts[0] if len(parts) > 1 else ""
    wrong: list[str] = []
    for name in imported(ast.parse(source), path):
        top, *rest = name.split(".")
        if top in ONLY_IMPORTER and home != ONLY_IMPORTER[top]:
            wrong.append(f"{name}: only {ONLY_IMPORTER[top]}/ imports {top}")
        if top == "unionfs" and home and rest[0] in MAY_IMPORT and rest[0] not in MAY_IMPORT[home] | {home}:
            wrong.append(f"{name}: {home}/ must not import {rest[0]}/")
    return wrong


def test_every_folder_has_a_place_in_the_order() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("home", "source"),
    [
        ("wire", "from unionfs.overlay import node"),
        ("overlay", "from unionfs.wire.abi import ROOT_ID"),
        ("overlay", "def f():\n    from unionfs.serve import run"),
        ("linux", "import unionfs.overlay.node"),
        ("serve", "from unionfs import cli"),
        ("serve", "from ..cli import main"),
        ("cli", "import trio"),
        ("overlay", "import ctypes.util"),
    ],
)
def test_a_wrong_import_is_found(home: str, source: str) -> None:
    assert len(wrong_imports(source, PACKAGE / home / "made_up.py")) == 1


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_modules_say_what_they_are_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "the first line of a module says which question it answers"
