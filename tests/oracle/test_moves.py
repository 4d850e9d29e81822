"""Does a lower file that moves to the upper while it is open look to everybody as it does on the kernel's overlayfs?

Each way in which a file can move, for each way of holding it open before, for each kind of file, in each `lower_io` mode.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.oracle import ops
from tests.oracle.actor import Actor, Step, perform
from tests.oracle.case import Builder
from tests.oracle.io_mapping import Mapping
from tests.oracle.io_pair import letters, sleeper
from tests.oracle.pair import LayersFactory
from tests.support.mounts import Driver, Kernel, Layers, Options, Unionfs
from tests.support.syscalls import RENAME_EXCHANGE, link_fd, renameat2

SIZE = 9000
NEW = letters(5000, "a")
MODES: dict[str, Options] = {
    "auto": {},
    "cached": {"lower_io": "cached"},
    "lower-passthrough": {"lower_io": "passthrough"},
    "off": {"passthrough": "off"},
}
KINDS = {"data": ("f", 0o644), "executable": ("f", 0o755), "shared object": ("f.so", 0o644)}
HELD = ("by descriptor", "by mapping", "by several", "by program")


@dataclass
class Held:
    """A file and how it was open before it moved: descriptors, mappings, and a running program."""

    name: str
    fds: list[int] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def fd(self) -> int:
        """The first descriptor."""
        return self.fds[0]

    def let_go(self) -> None:
        """Closes everything."""
        for fd in self.fds:
            os.close(fd)
        for mapping in self.mappings:
            mapping.close()
        for program in self.programs:
            program.kill()
            program.wait()


AGAIN = "opened for writing through /proc"
EXECUTED_AGAIN = "executed through /proc"
"""There is no name by which the kernel could find the inode of the copy, and no writing and no execution by the old inode as long
as the lower file is mapped or read by it: ETXTBSY.
"""

Move = Callable[[Actor, Held], None]
MOVES: dict[str, Move] = {}
NAME_GONE = {"unlink", "unlink and create", "rename over", "exchange", "rename away"}
"""After these, the name is another file's or nobody's; the kernel goes on saying that the file has a link."""


def move(function: Move) -> Move:
    """Decorator: a way to move, called by its function's name."""
    MOVES[function.__name__.replace("_", " ")] = function
    return function


def write_new(path: str, flags: int = os.O_WRONLY) -> None:
    """Opens and writes NEW."""
    ops.write(path, NEW, flags)


@move
def open_for_writing(a: Actor, held: Held) -> None:
    a(write_new, held.name)


@move
def open_for_both(a: Actor, held: Held) -> None:
    a(write_new, held.name, os.O_RDWR)


@move
def open_and_write_nothing(a: Actor, held: Held) -> None:
    a(ops.write, held.name, b"")


@move
def append(a: Actor, held: Held) -> None:
    a(write_new, held.name, os.O_WRONLY | os.O_APPEND)


@move
def truncating_open(a: Actor, held: Held) -> None:
    a(write_new, held.name, os.O_WRONLY | os.O_TRUNC)


@move
def truncating_open_of_a_reader(a: Actor, held: Held) -> None:
    a(ops.write, held.name, b"", os.O_RDONLY | os.O_TRUNC)


@move
def creating_open(a: Actor, held: Held) -> None:
    a(write_new, held.name, os.O_RDWR | os.O_CREAT)


@move
def truncate(a: Actor, held: Held) -> None:
    a(os.truncate, held.name, 100)


@move
def truncate_to_more(a: Actor, held: Held) -> None:
    a(os.truncate, held.name, SIZE + 5000)


@move
def chmod(a: Actor, held: Held) -> None:
    a(os.chmod, held.name, 0o700)


@move
def fchmod(a: Actor, held: Held) -> None:
    a(os.chmod, held.name, 0o700)
    a.note("fchmod", ops.fails_or_not(os.fchmod, held.fd, 0o711))


@move
def chown(a: Actor, held: Held) -> None:
    a(os.chown, held.name, 1, 2)


@move
def fchown(a: Actor, held: Held) -> None:
    a.note("fchown", ops.fails_or_not(os.fchown, held.fd, 1, 2))


@move
def utime(a: Actor, held: Held) -> None:
    a(ops.utime, held.name, 10**18, 10**18)


@move
def futime(a: Actor, held: Held) -> None:
    a.note("futimens", ops.fails_or_not(os.utime, held.fd, ns=(10**18, 10**18)))


@move
def setxattr(a: Actor, held: Held) -> None:
    a(ops.setxattr, held.name, "user.x", b"1")


@move
def fsetxattr(a: Actor, held: Held) -> None:
    a.note("fsetxattr", ops.fails_or_not(os.setxattr, held.fd, "user.x", b"1"))


@move
def link(a: Actor, held: Held) -> None:
    a(os.link, held.name, "linked")
    a(write_new, "linked")


@move
def link_by_descriptor(a: Actor, held: Held) -> None:
    a.note("link", ops.fails_or_not(link_fd, held.fd, "linked"))
    a(write_new, held.name)


@move
def rename(a: Actor, held: Held) -> None:
    a(os.rename, held.name, "renamed")
    a(os.rename, "renamed", held.name)
    a(write_new, held.name)


@move
def rename_away(a: Actor, held: Held) -> None:
    a(os.rename, held.name, "renamed")
    a(write_new, "renamed")


@move
def rename_over(a: Actor, held: Held) -> None:
    a(ops.create, "other", NEW)
    a(os.rename, "other", held.name)


@move
def exchange(a: Actor, held: Held) -> None:
    a(ops.create, "other", NEW)
    a(renameat2, "other", held.name, RENAME_EXCHANGE)
    a(write_new, "other")


@move
def unlink(a: Actor, held: Held) -> None:
    a(os.unlink, held.name)


@move
def unlink_and_create(a: Actor, held: Held) -> None:
    a(os.unlink, held.name)
    a(ops.create, held.name, NEW)


@move
def reopen_for_writing(a: Actor, held: Held) -> None:
    a.note(AGAIN, ops.fails_or_not(ops.reopen_write, held.fd, b"again"))
    a(ops.write, held.name, b"again")


@move
def change_attributes_then_reopen_for_writing(a: Actor, held: Held) -> None:
    a(os.chmod, held.name, 0o744)
    a.note(AGAIN, ops.fails_or_not(ops.reopen_write, held.fd, b"again"))
    a(ops.write, held.name, b"again")


@move
def write_by_the_other_hard_link(a: Actor, held: Held) -> None:
    a(write_new, "hard link")


@move
def write_by_both_hard_links(a: Actor, held: Held) -> None:
    a(write_new, "hard link")
    a(ops.write, held.name, b"x" * 3000)


@move
def write_by_mapping(a: Actor, held: Held) -> None:
    a(map_new, held.name)


@move
def copy_into(a: Actor, held: Held) -> None:
    a(ops.create, "other", NEW)
    a(copy_over, "other", held.name)


@move
def change_attributes_then_write(a: Actor, held: Held) -> None:
    a(os.chmod, held.name, 0o744)
    a(write_new, held.name)
    a(os.truncate, held.name, 6000)


def map_new(path: str) -> None:
    """Writes NEW by a shared mapping."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        ops.map_write(fd, NEW)
    finally:
        os.close(fd)


def copy_over(source: str, target: str) -> int:
    """copy_file_range(2) from the start of one file to that of another."""
    from_fd, to_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC), os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return ops.copy_range(from_fd, to_fd, len(NEW))
    finally:
        os.close(from_fd)
        os.close(to_fd)


def run(program: str, *fds: int) -> None:
    """Executes a file, and kills it; `fds` stay open in it."""
    running = subprocess.Popen([program], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=fds)
    running.kill()
    running.wait()


def start(held: Held) -> None:
    """Runs the file."""
    held.programs.append(subprocess.Popen([f"./{held.name}"], stdin=subprocess.DEVNULL))


def hold(a: Actor, name: str, how: str) -> Held:
    """Opens the file as `how` says. There is always a descriptor; what is read first is in the page cache, if there is one."""
    held = Held(name, [os.open(name, os.O_RDONLY | os.O_CLOEXEC)])
    a.note("before", ops.read_fd(held.fd))
    if how == "by mapping":
        held.mappings.append(Mapping(held.fd, SIZE))
        held.mappings[0].read(0, SIZE)
    elif how == "by several":
        held.fds += [os.open(name, os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
        held.mappings += [Mapping(held.fds[1], SIZE), Mapping(held.fds[2], SIZE, shared=False)]
    elif how == "by program":
        a(start, held)
    return held


def pages(mapping: Mapping, before: bytes, now: bytes) -> str:
    """Whether a mapping shows the file as it was, or as it is now."""
    seen = b""
    for offset in range(0, SIZE, 4096):
        try:
            seen += mapping.read(offset, min(4096, SIZE - offset))
        except OSError:
            break
    if seen == before:
        return "as before"
    padded = now.ljust(-(-len(now) // 4096) * 4096, b"\0")[:SIZE]
    return "as now" if seen == padded else f"something else: {seen[:10]!r}... {len(seen)}"


def look(a: Actor, held: Held, before: bytes, ino: int, named: bool) -> None:
    """Everything that can be seen of the moved file, then a write by a new open, then again."""
    for times in range(2):
        now = ops.read_fd(held.fd)
        for number, fd in enumerate(held.fds):
            a.note(f"old reader {number}", ops.read_fd(fd))
            status = os.fstat(fd)
            a.note(f"fstat {number}", (oct(status.st_mode), status.st_uid, status.st_size, status.st_nlink if named else None))
            a.note(f"the same st_ino {number}", status.st_ino == ino)
        for number, mapping in enumerate(held.mappings):
            a.note(f"old mapping {number}", pages(mapping, before, now))
        a(ops.lstat, held.name)
        if named:
            a.note("name and descriptor agree", os.lstat(held.name).st_ino == os.fstat(held.fd).st_ino)
        a.note("opened again", ops.reopen_read(held.fd))
        a.note(EXECUTED_AGAIN, ops.fails_or_not(run, f"/proc/self/fd/{held.fd}", held.fd))
        a.note("executed", ops.fails_or_not(run, f"./{held.name}"))
        a(ops.read, held.name)
        if os.path.exists(held.name) and os.path.getsize(held.name):
            a(map_path, held.name)
        if times == 0:
            a(ops.write, held.name, b"second", os.O_RDWR)
            a(ops.write, held.name, b"third", os.O_WRONLY | os.O_APPEND)


def map_path(path: str) -> bytes:
    """A file's content by a new mapping."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return ops.map_read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def steps_of(name: str, how: str, moves: Move, named: bool) -> Callable[[Actor], None]:
    """The whole sequence of one move."""

    def steps(a: Actor) -> None:
        ino = os.lstat(name).st_ino
        held = hold(a, name, how)
        before = ops.read_fd(held.fd)
        moves(a, held)
        look(a, held, before, ino, named)
        held.let_go()
        a(ops.read, name)
        a(ops.write, name, b"last", os.O_RDWR)
        a(ops.read, name)

    return steps


def build(b: Builder, name: str, mode: int) -> None:
    """The lower file, and another name of it where the move wants one."""
    b.lower().file(name, sleeper(SIZE), mode)


def ways(how: str) -> list[str]:
    """The moves to compare: overlayfs empties a running program before it answers ETXTBSY, ours leaves it whole."""
    return [way for way in MOVES if how != "by program" or way != "truncating open of a reader"]


def answers_of(driver: Driver, options: Options, make_layers: LayersFactory, kind: str, how: str) -> dict[str, list[Step]]:
    """What each move comes to on one implementation, each in a directory of its own."""
    name, mode = KINDS[kind]
    layers = make_layers(name=driver.name)
    for way in ways(how):
        built = Builder(layers, way)
        build(built, name, mode)
        if "hard link" in way:
            built.lower().link(name, "hard link")
    with driver.mount(layers, options) as mnt:
        return {
            way: perform(steps_of(name, how, MOVES[way], way not in NAME_GONE and "hard link" not in way), mnt / way, mnt)
            for way in ways(how)
        }


def differences(ours: list[Step], oracle: list[Step], mode: str, kind: str) -> list[str]:
    """The steps that differ, but for what may: an old mapping that shows the file as it is now; with lower_io=passthrough, what
    is read by a descriptor that was opened before; and AGAIN where the lower file is in use as such.
    """
    busy = mode == "lower-passthrough" or (mode == "auto" and kind != "data")
    before = next(step.value for step in ours if step.label == "before")
    found = []
    for mine, theirs in zip(ours, oracle, strict=True):
        if mine == theirs or (mine.label.startswith("old mapping") and mine.value == "as now"):
            continue
        if mode == "lower-passthrough" and mine.label.startswith(("old reader", "opened again")) and mine.value == before:
            continue
        if busy and mine.label in (AGAIN, EXECUTED_AGAIN) and mine.value == errno.ETXTBSY:
            continue
        found.append(f"{shown(mine)} and not {shown(theirs)}")
    return found


def shown(step: Step) -> str:
    """A step, long contents cut."""
    text = str(step)
    return text if len(text) < 120 else f"{text[:60]}...{text[-20:]} ({len(text)})"


@pytest.mark.parametrize(
    ("kind", "how"), [(kind, how) for kind in KINDS for how in HELD if how != "by program" or kind == "executable"]
)
@pytest.mark.parametrize("mode", MODES)
def test_moves(mode: str, kind: str, how: str, make_layers: LayersFactory, subject: Driver) -> None:
    options = MODES[mode] if isinstance(subject, Unionfs) else {}
    ours = answers_of(subject, options, lambda **names: make_layers(**{**names, "name": "subject"}), kind, how)
    oracle = answers_of(Kernel(), {}, lambda **names: make_layers(**{**names, "name": "oracle"}), kind, how)
    found = {way: lines for way in ways(how) if (lines := differences(ours[way], oracle[way], mode, kind))}
    assert not found, "\n".join(f"{way}: {line}" for way, lines in found.items() for line in lines)


@pytest.mark.parametrize("mode", MODES)
def test_a_running_program_is_not_emptied(mode: str, layers: Layers, subject: Driver) -> None:
    content = sleeper(SIZE)
    (layers.lowers[0] / "program").write_bytes(content)
    (layers.lowers[0] / "program").chmod(0o755)
    with subject.mount(layers, MODES[mode]) as mnt:
        program = mnt / "program"
        with subprocess.Popen([program], stdin=subprocess.DEVNULL) as running:
            try:
                program.chmod(0o711)
                for flags in (os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_RDWR):
                    with pytest.raises(OSError, match="Text file busy"):
                        os.open(program, flags)
                assert program.read_bytes() == content
            finally:
                running.kill()
        with open(program, "r+b") as file:
            file.truncate(5)
        assert program.read_bytes() == content[:5]
