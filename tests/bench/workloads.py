"""What is timed: the rows of the table, and what each row does on a freshly mounted file system."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import programs, scaling, small
from tests.bench.layers import BIG_BYTES, FLAT_FILES
from tests.bench.scaling import Point
from tests.bench.small import timed_in_child


@dataclass(frozen=True)
class Scale:
    """How much of each kind of work is done."""

    lookups: int
    opens: int
    changes: int
    big_bytes: int
    sources: int
    git_files: int
    share: str
    lib: str
    archived: str
    layer_counts: tuple[int, ...]
    file_counts: tuple[int, ...]


FULL = Scale(
    lookups=FLAT_FILES,
    opens=3000,
    changes=1000,
    big_bytes=BIG_BYTES,
    sources=20,
    git_files=1000,
    share="usr/share",
    lib="usr/lib",
    archived="usr etc var",
    layer_counts=scaling.LAYERS,
    file_counts=scaling.FILES,
)
QUICK = Scale(
    lookups=500,
    opens=300,
    changes=100,
    big_bytes=32 << 20,
    sources=4,
    git_files=100,
    share="usr/share/doc",
    lib="usr/lib/git-core",
    archived="etc var",
    layer_counts=scaling.QUICK_LAYERS,
    file_counts=scaling.QUICK_FILES,
)


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    `titles` names its rows; `run(mount, scale)` does it on a fresh mount and returns one time in milliseconds per row.
    `point`: what it measures of many layers or files, on layers of its own.
    """

    name: str
    titles: tuple[str, ...]
    run: Callable[[Path, Scale], list[float]]
    point: Point | None = None


def _lookups(mount: Path, scale: Scale) -> list[float]:
    return timed_in_child(small.stat_all(mount / "bench/a", scale.lookups))


def _missing(mount: Path, scale: Scale) -> list[float]:
    return timed_in_child(small.stat_missing(mount / "bench/a", scale.lookups))


def _scan(mount: Path, _scale: Scale) -> list[float]:
    return timed_in_child(small.scan_and_stat(mount / "bench/a"))


def _opens(mount: Path, scale: Scale) -> list[float]:
    loop = small.open_read_close(mount / "bench/b", scale.opens)
    return timed_in_child(loop, loop)


def _creates(mount: Path, scale: Scale) -> list[float]:
    directory = mount / "bench/b"
    return timed_in_child(small.create(directory, scale.opens), small.unlink_created(directory, scale.opens))


def _unlinks(mount: Path, scale: Scale) -> list[float]:
    return timed_in_child(small.unlink_lower(mount / "bench/b", scale.opens))


def _copy_ups(mount: Path, scale: Scale) -> list[float]:
    return timed_in_child(small.copy_up(mount / "bench/b", scale.changes))


def _renames(mount: Path, scale: Scale) -> list[float]:
    return timed_in_child(small.rename_lower(mount / "bench/b", scale.changes))


def _finds(mount: Path, _scale: Scale) -> list[float]:
    command = ["find", str(mount), "-xdev", "-name", "none"]
    cold, warm = programs.timed(*command), programs.timed(*command)
    return [cold, warm, programs.at_once(4, lambda _: command)]


def _tar(mount: Path, scale: Scale) -> list[float]:
    # GNU tar reads no data when its archive is /dev/null itself.
    script = 'cd "$1"; shift; tar -cf - "$@" | cat > /dev/null'
    return [programs.timed_shell(script, str(mount), *scale.archived.split())]


def _gcc(mount: Path, scale: Scale) -> list[float]:
    programs.make_sources(mount / "root/src", scale.sources)
    script = "cd /root/src; ls *.c | xargs -P2 -n1 gcc -O1 -c; gcc -o all *.o; ./all > /dev/null"
    return [programs.timed_in_root(mount, script)]


def _git(mount: Path, scale: Scale) -> list[float]:
    programs.make_work_tree(mount / "root/tree", scale.git_files)
    script = """
        cd /root/tree
        git -c init.defaultBranch=main init -q .
        git add -A
        git commit -q -m first
        git checkout -q -b side
        git rm -q -r dir000 dir002 dir004
        git commit -q -m second
        git checkout -q main
        git status --porcelain
    """
    return [programs.timed_in_root(mount, script)]


def _fio_lower(rw: str, block: str, engine: str) -> Callable[[Path, Scale], list[float]]:
    def run(mount: Path, scale: Scale) -> list[float]:
        return [programs.fio(mount / "bench/big", rw=rw, bs=block, ioengine=engine, size=scale.big_bytes)]

    return run


def _fio_write(mount: Path, scale: Scale) -> list[float]:
    # The random writes go over the file that the sequential ones made: an upper file, with no copy-up in the time.
    path = mount / "bench/written"
    sequential = programs.fio(path, rw="write", bs="1M", ioengine="psync", size=scale.big_bytes)
    programs.run("sync", "-f", str(path))
    rest = programs.fio(path, rw="randwrite", bs="4k", ioengine="psync", size=scale.big_bytes)
    return [sequential, rest]


def _copy_tree(mount: Path, scale: Scale) -> list[float]:
    return [programs.timed("cp", "-a", str(mount / scale.share), str(mount / "bench/copy"))]


def _chown_tree(mount: Path, scale: Scale) -> list[float]:
    return [programs.timed("chown", "-R", "1:1", str(mount / scale.lib))]


def _remove_trees(mount: Path, scale: Scale) -> list[float]:
    return [programs.timed("rm", "-rf", str(mount / scale.share), str(mount / scale.lib))]


def _at(name: str, point: Point) -> Workload:
    return Workload(name, (point.title,), lambda mount, _scale: [point.run(mount)], point)


def all_workloads(scale: Scale) -> list[Workload]:
    """Every workload in the order of the table, with titles that tell the scale."""
    lookups, opens, changes = f"{scale.lookups:,}", f"{scale.opens:,}", f"{scale.changes:,}"
    return [
        Workload("lookup", (f"{lookups} cold lookups",), _lookups),
        Workload("missing", (f"{lookups} missing names",), _missing),
        Workload("scandir", (f"scandir + stat of {FLAT_FILES:,}",), _scan),
        Workload("open", (f"{opens} open-read-close, first", f"{opens} open-read-close, again"), _opens),
        Workload("create", (f"{opens} creates", f"{opens} unlinks"), _creates),
        Workload("unlink", (f"{opens} unlinks of lower files",), _unlinks),
        Workload("copy-up", (f"{changes} copy-ups",), _copy_ups),
        Workload("rename", (f"{changes} renames of lower files",), _renames),
        Workload("find", ("find, cold", "find, warm", "four finds at once, warm"), _finds),
        Workload("tar", (f"tar of {scale.archived}",), _tar),
        Workload("gcc", (f"gcc -j2, {scale.sources} files",), _gcc),
        Workload("git", ("git add, commit, checkout",), _git),
        Workload("fio-read", ("fio read 1M",), _fio_lower("read", "1M", "psync")),
        Workload("fio-randread", ("fio randread 4k",), _fio_lower("randread", "4k", "psync")),
        Workload("fio-write", ("fio write 1M", "fio randwrite 4k"), _fio_write),
        Workload("fio-mmap", ("fio mmap randread",), _fio_lower("randread", "4k", "mmap")),
        Workload("cp", (f"cp -a {scale.share}",), _copy_tree),
        Workload("chown", (f"chown -R {scale.lib}",), _chown_tree),
        Workload("rm", (f"rm -rf {scale.share} {scale.lib}",), _remove_trees),
        *(_at("layers", point) for point in scaling.points_of_layers(scale.layer_counts)),
        *(_at("files", point) for point in scaling.points_of_files(scale.file_counts)),
    ]
