"""How much memory do containers of one image take together: is what they map of it in memory once, or once for each?

    python -m tests.bench.sharing

Some processes, each on a union of its own over one lower layer, map the same files of that layer and touch every page,
as containers do with the programs and libraries of their image. What that costs is read from the kernel's own books:
the growth of the page cache (proc(5), /proc/meminfo), and how much of it each process is charged with (/proc/PID/smaps).
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import isolate, programs
from tests.bench.mounts import KERNEL, OURS, REFERENCE, Cell, FileSystem, known_file_systems, mounted_together

FILES = 10
"""The mapped bytes are spread over this many files, as an image's are over its libraries."""

KINDS = {"shared objects": "lib{}.so", "data files": "data{}"}
"""What the lower files are, by their names: unionfs serves programs and shared objects another way than data."""

_MEBIBYTE = 1 << 20
_IMAGE_SLACK_BYTES = 1 << 30

_USER = """
import mmap, os, sys
held = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        held.append(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
    for offset in range(0, len(held[-1]), mmap.PAGESIZE):
        held[-1][offset]
print("ready", flush=True)
sys.stdin.read()
"""
"""A process that maps the files it is given, touches every page, and waits."""


@dataclass(frozen=True)
class Cost:
    """What one file system needs while all processes have all files mapped, in bytes.

    mapped: what the processes have in their address spaces, all together (Rss).  charged: the same, a page that several
    map shared out among them (Pss).  cache: by how much the page cache grew.  servers: what the servers hold, if there are any.
    """

    mapped: int
    charged: int
    cache: int
    servers: int


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark; returns 0, 1 for a machine it cannot run on, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    return isolate.run("tests.bench.sharing", arguments, lambda scratch: _measure_all(scratch, options))


def _measure_all(scratch: Path, options: argparse.Namespace) -> None:
    print(f"{options.mounts} mounts, {options.size} MiB of the lower layer mapped through each; MiB")
    top = make_disk(scratch, options.size)
    for kind, name in KINDS.items():
        lower = make_lower(top / kind.replace(" ", "-"), name, options.size)
        print(f"\n| {kind} | page cache | charged to the processes | mapped by them | servers |")
        print("| --- | --: | --: | --: | --: |")
        for file_system in compared():
            cost = measure(file_system, lower, top / "cells", options.mounts)
            numbers = [round(value / _MEBIBYTE) for value in (cost.cache, cost.charged, cost.mapped, cost.servers)]
            print(f"| {file_system.name} | {' | '.join(map(str, numbers))} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sharing", description="Memory of containers of one image.")
    parser.add_argument("--mounts", type=int, default=10, metavar="N", help="how many unions and processes (default 10)")
    parser.add_argument("--size", type=int, default=200, metavar="MIB", help="what each process maps (default 200)")
    return parser


def compared() -> list[FileSystem]:
    """Ours as it is and with every lower file passed through, the kernel's overlayfs, and fuse-overlayfs if installed."""
    known = {file_system.name: file_system for file_system in known_file_systems() if file_system.installed()}
    ours = known[OURS]

    def passing(cell: Cell) -> list[str]:
        *first, options, mountpoint = ours.command(cell)
        return [*first, f"lower_io=passthrough,{options}", mountpoint]

    passed = FileSystem(f"{OURS} lower_io=passthrough", ours.program, passing, ours.version)
    return [known[KERNEL], ours, passed, *(known[name] for name in (REFERENCE,) if name in known)]


def make_disk(scratch: Path, size: int) -> Path:
    """An ext4 file system on a loop device over a file in a private tmpfs, with room for two lowers of `size` MiB."""
    programs.run("mount", "-t", "tmpfs", "-o", "size=90%,noatime", "unionfs-bench", str(scratch))
    image, top = scratch / "image", scratch / "disk"
    top.mkdir()
    with image.open("wb") as file:
        file.truncate(2 * size * _MEBIBYTE + _IMAGE_SLACK_BYTES)
    programs.run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    programs.run("mount", "-o", "loop,noatime", str(image), str(top))
    return top


def make_lower(lower: Path, name: str, size: int) -> Path:
    """A lower layer of FILES files, `size` MiB together; `name` is their name with `{}` for the number."""
    lower.mkdir()
    for number in range(FILES):
        with (lower / name.format(number)).open("wb") as file:
            file.write(os.urandom(size * _MEBIBYTE // FILES))
    return lower


def measure(file_system: FileSystem, lower: Path, cells: Path, mounts: int) -> Cost:
    """Mounts `mounts` unions over cold layers, has a process map all files through each, and reads what that costs."""
    made = [make_cell(lower, cells / str(number)) for number in range(mounts)]
    try:
        with mounted_together(file_system, made):
            programs.run("sync")
            Path("/proc/sys/vm/drop_caches").write_text("3")
            before = page_cache()
            with users(made) as pids:
                mapped, charged = memory_of(pids, ("Rss:", "Pss:"), within=cells)
                grown = page_cache() - before
                (servers,) = memory_of(children() - set(pids), ("Pss:",))
            return Cost(mapped, charged, grown, servers)
    finally:
        programs.run("rm", "-rf", "--one-file-system", str(cells))


def make_cell(lower: Path, base: Path) -> Cell:
    """The directories of one union over the shared lower."""
    cell = Cell(lower, base / "upper", base / "work", base / "mount")
    for directory in (cell.upper, cell.work, cell.mount):
        directory.mkdir(parents=True)
    return cell


@contextmanager
def users(cells: Sequence[Cell]) -> Iterator[list[int]]:
    """One process for each union that has mapped and touched all its files; they end with the block."""
    with ExitStack() as stack:
        processes = []
        for cell in cells:
            command = [sys.executable, "-c", _USER, *(str(path) for path in sorted(cell.mount.iterdir()))]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                raise programs.ProgramError("a process could not map its files")
        yield [process.pid for process in processes]


def page_cache() -> int:
    """Bytes of file data in memory, without those of tmpfs, where the disk's image lies."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    cached, shmem = (int(fields[name].split()[0]) for name in ("Cached", "Shmem"))
    return (cached - shmem) * 1024


def children() -> set[int]:
    """The processes that this one started, and the servers: it is the first of its process namespace."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def memory_of(pids: Sequence[int] | set[int], counts: Sequence[str], within: Path | None = None) -> list[int]:
    """The sums of these counts of smaps (proc(5)) over some processes, in bytes; only of mappings of files below `within`."""
    sums = dict.fromkeys(counts, 0)
    for pid in pids:
        wanted = within is None
        for line in Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape").splitlines():
            key, *values = line.split()
            if not key.endswith(":"):
                wanted = within is None or f" {within}/" in line
            elif wanted and key in sums:
                sums[key] += int(values[0]) * 1024
    return list(sums.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
