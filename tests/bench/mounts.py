"""Which file systems are compared, and how is each mounted and unmounted?"""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.layers import Layers
from tests.bench.scaling import Point, layer_names, stack_of

OURS = "unionfs"
KERNEL = "kernel"
REFERENCE = "fuse-overlayfs"

_MOUNT_SECONDS = 20.0
_UNMOUNT_SECONDS = 20.0
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cell:
    """The directories of one measurement: the shared lower and a fresh upper, work directory and mount point.

    names: of the layers that `lower` holds, the topmost first, if it is not one itself.  The mount's command runs in `lower`
    then, so that hundreds of layers fit in the 4 KiB of mount(2).
    """

    lower: Path
    upper: Path
    work: Path
    mount: Path
    names: tuple[str, ...] = ()

    @property
    def lowers(self) -> list[str]:
        """The lower layers as the mount's command names them."""
        return list(self.names) or [str(self.lower)]

    @property
    def overlay_options(self) -> str:
        """The layers as the -o argument that overlayfs and its drop-ins share."""
        return f"lowerdir={':'.join(self.lowers)},upperdir={self.upper},workdir={self.work}"


@dataclass(frozen=True)
class FileSystem:
    """A union file system under test: its column's name, the program it needs and the command that mounts it.

    module: a Python module that it needs as well.  on_request: left out unless it is asked for by name.
    workloads: the names of the only ones it can do, none for all.
    """

    name: str
    program: str
    command: Callable[[Cell], list[str]]
    version: list[str]
    module: str = "sys"
    on_request: bool = False
    workloads: tuple[str, ...] = ()

    def installed(self) -> bool:
        """Whether the program, and the module, are there."""
        return shutil.which(self.program) is not None and importlib.util.find_spec(self.module) is not None

    def version_line(self) -> str:
        """The line of the program's version output that carries a number, or an empty string."""
        done = subprocess.run(self.version, capture_output=True, text=True, check=False, env=_environment())
        lines = (done.stdout + done.stderr).splitlines()
        return next((line.strip() for line in lines if any(c.isdigit() for c in line)), "")


class MountError(BenchError):
    """A file system did not mount; the message is its own last line."""


def known_file_systems() -> list[FileSystem]:
    """Ours, the kernel's and the peers the benchmark knows how to mount, installed or not, in column order."""
    ours = [sys.executable, "-m", "unionfs"]
    return [
        FileSystem(OURS, sys.executable, _drop_in(ours), [*ours, "--version"]),
        FileSystem(KERNEL, "mount", _kernel, ["uname", "-sr"]),
        FileSystem(REFERENCE, "fuse-overlayfs", _drop_in(["fuse-overlayfs"]), ["fuse-overlayfs", "--version"]),
        FileSystem("unionfs-fuse", "unionfs-fuse", _unionfs_fuse, ["unionfs-fuse", "--version"]),
        FileSystem(
            "plain", sys.executable, _drop_in([*ours, "-o", "passthrough=off"]), [*ours, "--version"], on_request=True
        ),
        FileSystem(
            "pyfuse3", sys.executable, _drop_in([*ours, "-o", "binding=pyfuse3"]), [*ours, "--version"], module="pyfuse3",
            on_request=True,
        ),
    ]  # fmt: skip


def extra_file_system(text: str) -> FileSystem:
    """The file system of `--peer NAME=COMMAND`: COMMAND is completed with `-o lowerdir=... MOUNTPOINT`.

    Raises BenchError when the text has another shape.
    """
    name, separator, command = text.partition("=")
    words = shlex.split(command)
    if not (name and separator and words):
        raise BenchError(f"{text!r}: expected NAME=COMMAND")
    return FileSystem(name, words[0], _drop_in(words), [*words, "--version"])


def example(path: Path) -> FileSystem:
    """pyfuse3's example passthroughfs.py (in its source distribution), which shows one directory as it is.

    It stays in the foreground.  Of the workloads it does the cold lookups.
    """
    waiting = '"$0" "$1" "$2" "$3" & until mountpoint -q "$3"; do kill -0 $! || exit; sleep 0.02; done'

    def command(cell: Cell) -> list[str]:
        return ["sh", "-c", waiting, sys.executable, str(path), str(cell.lower), str(cell.mount)]

    version = [sys.executable, "-c", "import pyfuse3; print('pyfuse3', pyfuse3.__version__)"]
    return FileSystem("pyfuse3 example", sys.executable, command, version, module="pyfuse3", workloads=("lookup",))


@contextmanager
def mounted(file_system: FileSystem, layers: Layers, point: Point | None = None) -> Iterator[Cell]:
    """Mounts over fresh upper and work directories; afterwards unmounts, waits for the server's end and removes them.

    What is below them is the root file system, or with a `point` the many layers that one is measured on.

    Raises MountError when the file system does not come up.
    """
    base = layers.cells / "cell"
    lower, names = (layers.lower, ()) if point is None else (stack_of(layers.stacks, point), layer_names(point))
    cell = Cell(lower, base / "upper", base / "work", base / "mount", names)
    for directory in (cell.upper, cell.work, cell.mount):
        directory.mkdir(parents=True)
    try:
        with mounted_on(file_system, cell):
            yield cell
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(base)], check=True)


@contextmanager
def mounted_on(file_system: FileSystem, cell: Cell) -> Iterator[None]:
    """Mounts over directories that exist, whatever they hold; afterwards unmounts and waits for the server's end.

    Raises MountError when the file system does not come up.
    """
    with mounted_together(file_system, [cell]):
        yield


@contextmanager
def mounted_together(file_system: FileSystem, cells: Sequence[Cell]) -> Iterator[None]:
    """As `mounted_on`, several unions at once. Raises MountError for the first that does not come up.

    Afterwards it waits for the end of every child of this process, so its own programs have to end inside the block.
    """
    try:
        for cell in cells:
            _mount(file_system.command(cell), cell)
        yield
    finally:
        for cell in cells:
            _unmount(cell.mount)
        _await_servers()


def server_pids() -> list[int]:
    """The servers in the background: this process is the first of its process namespace, so they are its children."""
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()]


def _mount(command: list[str], cell: Cell) -> None:
    try:
        # A server that inherits a pipe would keep it open for its whole life, so its messages go to a file.
        with open(cell.mount.parent / "messages", "w+", encoding="utf-8", errors="replace") as messages:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                timeout=_MOUNT_SECONDS,
                check=False,
                env=_environment(),
                cwd=cell.lower if cell.names else None,
            )
            messages.seek(0)
            lines = messages.read().strip().splitlines()
    except subprocess.TimeoutExpired as error:
        raise MountError(f"did not mount within {_MOUNT_SECONDS:.0f} s") from error
    if done.returncode or not _is_mounted(cell.mount):
        raise MountError(lines[-1] if lines else f"exit status {done.returncode}")


def _unmount(mount: Path) -> None:
    for lazily in ([], [], ["-l"]):
        if not _is_mounted(mount):
            break
        try:
            command = ["umount", "-R", *lazily, str(mount)]
            done = subprocess.run(command, capture_output=True, check=False, timeout=_UNMOUNT_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_servers()
            continue
        if done.returncode:
            time.sleep(0.5)


def _is_mounted(mount: Path) -> bool:
    # Not ismount(): it does not see a bind mount, and fails with ENOTCONN where the server is dead.
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return any(line.split()[4] == str(mount) for line in table)


def _await_servers() -> None:
    # This process is the first of its process namespace: a server that went to the background is its child now.
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > deadline:
                _kill_servers()
                deadline += _UNMOUNT_SECONDS
            time.sleep(0.002)


def _kill_servers() -> None:
    for child in server_pids():
        os.kill(child, signal.SIGKILL)


def _environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(_REPOSITORY))


def _kernel(cell: Cell) -> list[str]:
    return ["mount", "-t", "overlay", "overlay", "-o", cell.overlay_options, str(cell.mount)]


def _drop_in(program: list[str]) -> Callable[[Cell], list[str]]:
    return lambda cell: [*program, "-o", cell.overlay_options, str(cell.mount)]


def _unionfs_fuse(cell: Cell) -> list[str]:
    branches = [f"{cell.upper}=RW", *(f"{lower}=RO" for lower in cell.lowers)]
    return ["unionfs-fuse", "-o", "cow", ":".join(branches), str(cell.mount)]
