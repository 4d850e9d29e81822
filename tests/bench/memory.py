"""How much memory does a server take for every node that the kernel knows?  `python -m tests.bench.memory`."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import isolate, programs
from tests.bench.mounts import OURS, REFERENCE, Cell, FileSystem, known_file_systems, mounted_on, server_pids
from tests.bench.tables import table

_MODULE = "tests.bench.memory"
_BAR = 1024
_FILES = 100_000
_MILLION = 1_000_000
_FILES_A_DIRECTORY = 100
_DIRECTORIES_A_DIRECTORY = 100
_SETTLED_SECONDS = 1.0
_MOST_SECONDS = 60.0


@dataclass(frozen=True)
class Sizes:
    """The server's resident set in bytes: mounted, with all nodes known, with none, and with all known again."""

    mounted: int
    found: int
    dropped: int
    again: int


def main(arguments: Sequence[str]) -> int:
    """Measures; returns 0, 1 for a bad argument or a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run(_MODULE, arguments, lambda scratch: _measure_all(scratch, options))


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    counts = [_FILES, _MILLION] if options.million else [options.files]
    lines: list[list[str]] = []
    programs.run("mount", "-t", "tmpfs", "-o", "size=90%,nr_inodes=0", "unionfs-bench", str(scratch))
    for files in counts:
        nodes = _make_tree(scratch / "lower", files)
        for fs in _file_systems(options.fs):
            lines.append(_line(fs.name, files, nodes, _measure(scratch, fs)))
    heading = [
        "resident set, MB", "files", "nodes", "mounted", "after find", "caches dropped", "find again", "bytes a node", "bar"
    ]  # fmt: skip
    print(table(heading, lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=__doc__)
    parser.add_argument("--files", type=int, default=_FILES, metavar="N", help=f"in the tree (default {_FILES})")
    parser.add_argument("--million", action="store_true", help=f"with {_FILES} and with {_MILLION} files")
    parser.add_argument("--fs", choices=[OURS, REFERENCE], action="append", help="only this file system; may repeat")
    return parser


def _file_systems(chosen: list[str] | None) -> list[FileSystem]:
    names = chosen or [OURS, REFERENCE]
    return [fs for fs in known_file_systems() if fs.name in names and fs.installed()]


def _make_tree(lower: Path, files: int) -> int:
    """A fresh tree of so many empty files, a hundred in a directory; how many nodes that makes, its root included."""
    if lower.exists():
        programs.run("rm", "-rf", str(lower))
    directories = -(-files // _FILES_A_DIRECTORY)
    parents = -(-directories // _DIRECTORIES_A_DIRECTORY)
    for number in range(files):
        directory = number // _FILES_A_DIRECTORY
        path = lower / f"part{directory // _DIRECTORIES_A_DIRECTORY:03d}" / f"directory{directory:05d}"
        if number % _FILES_A_DIRECTORY == 0:
            path.mkdir(parents=True)
        os.mknod(f"{path}/file{number:08d}", 0o100644)
    return files + directories + parents + 1


def _measure(scratch: Path, fs: FileSystem) -> Sizes:
    base = scratch / "cell"
    cell = Cell(scratch / "lower", base / "upper", base / "work", base / "mount")
    for directory in (cell.upper, cell.work, cell.mount):
        directory.mkdir(parents=True)
    try:
        with mounted_on(fs, cell):
            (server,) = server_pids()
            at_first = _resident(server)
            _find(cell.mount)
            found = _settled(server)
            _drop_caches()
            dropped = _settled(server)
            _find(cell.mount)
            return Sizes(at_first, found, dropped, _settled(server))
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(base)], check=True)


def _find(mount: Path) -> None:
    """Every name is looked up and its attributes are asked for."""
    programs.run("find", str(mount), "-xdev", "-size", "+1k", "-type", "f")


def _drop_caches() -> None:
    """The kernel forgets every inode that nobody uses, on the whole machine (proc(5), drop_caches)."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n", encoding="ascii")


def _resident(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _settled(pid: int) -> int:
    """The resident set once it has not changed for a second."""
    size, since, start = _resident(pid), time.monotonic(), time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS and time.monotonic() - start < _MOST_SECONDS:
        time.sleep(0.1)
        now = _resident(pid)
        if now != size:
            size, since = now, time.monotonic()
    return size


def _line(name: str, files: int, nodes: int, sizes: Sizes) -> list[str]:
    each = (max(sizes.found, sizes.again) - sizes.mounted) / nodes
    shown = [f"{size / 1e6:.1f}" for size in (sizes.mounted, sizes.found, sizes.dropped, sizes.again)]
    verdict = "" if name != OURS else "met" if each <= _BAR else "MISSED"
    return [name, f"{files:,}", f"{nodes:,}", *shown, f"{each:.0f}", verdict]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
