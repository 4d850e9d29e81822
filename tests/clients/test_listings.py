"""What do programs that walk a tree cost?  The requests of real ones, counted in the server's log."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.clients.command import in_foreground
from tests.clients.server_log import Request, settled
from tests.support.mounts import Layers

DIRECTORIES = 40
FILES = 6
#: The few directories that a program is tried on, and the root.
FEW = 8


@pytest.fixture
def log(scratch: Path) -> Path:
    return scratch / "requests.log"


@pytest.fixture
def tree(layers: Layers) -> Layers:
    for number in range(DIRECTORIES):
        directory = layers.lowers[0] / f"d{number % 5}" / f"e{number}"
        directory.mkdir(parents=True)
        for file in range(FILES):
            (directory / f"file{file}").write_text(f"{number} {file}\n")
        (directory / "link").symlink_to("file0")
    return layers


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def count(requests: list[Request], *operations: str) -> int:
    return sum([request.operation in operations for request in requests])


def test_who_reads_attributes_gets_them_with_the_listing(tree: Layers, log: Path) -> None:
    """Of all the files of the tree one is looked up: the first that is left out to see what comes of it."""
    with in_foreground(tree, None, ("-f", "-d"), log):
        listing = run("ls", "-lR", tree.mnt)
        requests = settled(log)
        assert listing.count("file0") == 2 * DIRECTORIES
        assert count(requests, "LOOKUP") <= 3
        assert count(requests, "READDIRPLUS") >= DIRECTORIES


def test_who_reads_names_gets_names(tree: Layers, log: Path, scratch: Path) -> None:
    """find asks for nothing but the listings, cold and warm; who then wants all attributes soon gets them with listings again."""
    archive = scratch / "all.tar"
    expected = run("find", tree.lowers[0], "-printf", "%P %y\n")
    with in_foreground(tree, None, ("-f", "-d"), log):
        assert sorted(run("find", tree.mnt, "-printf", "%P %y\n").splitlines()) == sorted(expected.splitlines())
        cold = settled(log)
        assert count(cold, "LOOKUP") <= 3
        run("find", tree.mnt, "-name", "none")
        warm = settled(log)[len(cold) :]
        assert count(warm, "LOOKUP", "READDIRPLUS", "READDIR") == 0
        before = len(cold) + len(warm)
        run("tar", "-C", tree.mnt, "-cf", archive, ".")
        looked_up = count(settled(log)[before:], "LOOKUP")
        # Without a change of mind: all of the files whose attributes were left out.
        assert looked_up < DIRECTORIES * FILES / 2
    with tarfile.open(archive) as members:
        assert len(members.getnames()) == len(expected.splitlines())


NAMES_FIRST = """
import os, sys
found = []
for directory, _, names in os.walk(sys.argv[1]):
    with os.scandir(directory) as entries:
        found += [(entry.path, entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries]
for path, number, is_dir in found:
    attributes = os.lstat(path)
    assert (attributes.st_ino, attributes.st_mode >> 12 == 4) == (number, is_dir), path
print(len(found))
"""
"""Walks a tree by names, numbers and types alone, and compares them with the attributes afterwards."""


def test_numbers_and_types_agree(tree: Layers) -> None:
    """What a listing says by itself is what stat(2) says, of files that were copied up, too, and of hard links."""
    for number in range(DIRECTORIES):
        directory = tree.lowers[0] / f"d{number % 5}" / f"e{number}"
        (directory / "second").hardlink_to(directory / "file1")
    expected = run("find", tree.lowers[0], "-mindepth", "1").count("\n")
    with in_foreground(tree, None):
        for number in range(0, DIRECTORIES, 3):
            (tree.mnt / f"d{number % 5}" / f"e{number}" / "file2").chmod(0o600)
        assert int(run(sys.executable, "-c", NAMES_FIRST, tree.mnt)) == expected
    with in_foreground(tree, None):
        assert int(run(sys.executable, "-c", NAMES_FIRST, tree.mnt)) == expected
