"""Draws: which layers, and which next call over what is there, does a random number stand for?

KINDS has one function for every kind of call; the machine has one rule for each.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.oracle.union_script import Call, Entry
from tests.oracle.union_worker import State

NAMES = ("a", "b", "c")
PATHS = [
    *NAMES,
    *(f"{one}/{two}" for one, two in itertools.product(NAMES, NAMES)),
    *(f"{one}/a/{two}" for one, two in itertools.product(NAMES[:2], NAMES[:2])),
]
MODES = (0o600, 0o644, 0o755, 0o4755, 0o2775, 0o1777, 0o700, 0o444)
SIZES = (0, 1, 100, 4096, 6000, 70_000)
USER = 1001
AS_ROOT = frozenset(("removeacl",))
"""Never as another user (intended.REMOVED_ACL)."""
SLOTS = 4
LONG_AGO_NS = 10**9
DEEPEST = 200
"""Bytes of a path; directories are not moved deeper, so that the marks of redirects stay within the kernel's 256."""

ACCESS_ACLS = (
    "u::rw- u:1001:r-- g::r-- mask::r-- o::r--",
    "u::rwx u:1001:rwx g::r-x g:5:rw- mask::rwx o::---",
    "u::rw- g::r-- o::---",
)
XATTRS = ("user.1", "user.2", "user.3", "trusted.t", "trusted.overlay.x", "user.overlay.y", "trusted.overlay.opaque", "bad.name")
MAKERS = ("create", "mkdir", "symlink", "mknod", "link", "linkat")


@dataclass
class Lane:
    """What the machine knows of one script's directory: what is there, and the listings that are under way."""

    state: State = field(default_factory=lambda: State({}, {}))
    listings: dict[int, tuple[str, set[str]]] = field(default_factory=dict)

    def update(self, state: State, call: Call) -> None:
        """After a call: of the names of a directory that is being listed, those count that were there all the time."""
        self.state = state
        touched = [str(arg) for arg in call.args if isinstance(arg, str)]
        for slot, (path, names) in list(self.listings.items()):
            gone = any(path == one or path.startswith(f"{one}/") for one in touched if call.name in ("rename", "rmdir"))
            if gone or (path != "." and state.tree.get(path) != "dir"):
                self.listings[slot] = (path, set())
                continue
            moved = {os.path.basename(one) for one in touched if (os.path.dirname(one) or ".") == path}
            names &= {name for name in names if (name if path == "." else f"{path}/{name}") in state.tree}
            if call.name == "rename":
                names -= moved


class Draw:
    """The choices of one call in one lane."""

    def __init__(self, rng: random.Random, lane: Lane) -> None:
        self.rng, self.lane, self.tree = rng, lane, lane.state.tree
        self.blind = rng.random() < 0.12
        self.data = bytes([rng.randrange(97, 123)]) * rng.choice((1, 10, 5000))
        self.mode = rng.choice(MODES)
        self.size = rng.choice(SIZES)
        self.offset = rng.choice((0, 0, 10, 4096, 8000))
        self.slot = rng.randrange(SLOTS)

    def pick(self, paths: list[str]) -> str:
        """One of these, or now and then, or where there are none, any path."""
        return self.rng.choice(PATHS if self.blind or not paths else paths)

    def there(self, *kinds: str) -> str:
        """Something that exists."""
        return self.pick([path for path, kind in self.tree.items() if not kinds or kind in kinds])

    def dir(self) -> str:
        """A directory, perhaps the lane's own."""
        return self.pick([".", *(path for path, kind in self.tree.items() if kind == "dir")])

    def free(self) -> str:
        """A name that is not taken, in a directory that exists."""
        directories = ["", *(f"{path}/" for path, kind in self.tree.items() if kind == "dir" and len(path) < DEEPEST)]
        free = [path for one in directories for name in NAMES if (path := f"{one}{name}") not in self.tree]
        return self.pick(free)

    def open_slot(self, *kinds: str) -> int:
        """A slot in which something is open."""
        slots = [slot for slot, kind in self.lane.state.slots.items() if kind in (kinds or ("file",))]
        return self.rng.choice(slots or [self.slot])


Kind = Callable[[Draw], Call]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Decorator: a kind of call."""
    KINDS[function.__name__] = function
    return function


def simple(name: str, draw: Callable[[Draw], tuple[object, ...]], call: str = "") -> None:
    """A kind of call whose arguments are one expression; `call` is its name in scripts, if that is another."""
    KINDS[name] = lambda d: Call(call or name, draw(d))


# ---------------------------------------------------------------------------------------------------------------- the names

simple("create", lambda d: (d.free(), d.data if d.rng.random() < 0.8 else b"", d.mode))
simple("mkdir", lambda d: (d.free(), d.mode))
simple("symlink", lambda d: (d.pick([*PATHS, *d.tree]), d.free()))
simple("mknod", lambda d: (d.free(), d.rng.choice(("fifo", "socket", "char", "block")), d.mode & 0o777))
simple("link", lambda d: (d.there(), d.free()))
simple("unlink", lambda d: (d.there("file", "symlink", "fifo", "socket", "char", "block"),))
simple("unlink_any", lambda d: (d.there(),), "unlink")
simple("rmdir", lambda d: (d.dir(),))
simple("rename_file", lambda d: (d.there("file", "symlink", "fifo"), d.free(), ""), "rename")
simple("rename_over", lambda d: (d.there(), d.there(), ""), "rename")
simple("rename_dir", lambda d: (d.there("dir"), d.free(), d.rng.choice(("", "NOREPLACE"))), "rename")
simple("rename_dir_over", lambda d: (d.there("dir"), d.there("dir"), ""), "rename")
simple("rename_exchange", lambda d: (d.there(), d.there(), "EXCHANGE"), "rename")
simple("rename_noreplace", lambda d: (d.there(), d.pick([*d.tree, d.free()]), "NOREPLACE"), "rename")
simple("linkat", lambda d: (d.open_slot(), d.free()))


@kind
def remove_tree(d: Draw) -> Call:
    """The deepest name below a directory, so that directories get empty now and then."""
    top = d.there("dir")
    below = [path for path in d.tree if path.startswith(f"{top}/")]
    path = max(below, key=len) if below else top
    return Call("rmdir" if d.tree.get(path) == "dir" else "unlink", (path,))


# --------------------------------------------------------------------------------------------------------- attributes, data

simple("chmod", lambda d: (d.there("file", "dir", "fifo"), d.mode))
simple("chown", lambda d: (d.there(), d.rng.choice((0, 5, USER)), d.rng.choice((0, 6, USER))))
simple("utime", lambda d: (d.pick([".", *d.tree]), LONG_AGO_NS, d.size * LONG_AGO_NS + 7))
simple("setxattr", lambda d: (d.there(), d.rng.choice(XATTRS), d.data[:10]))
simple("removexattr", lambda d: (d.there(), d.rng.choice(XATTRS)))
simple("setacl", lambda d: (d.there("file", "dir"), d.rng.choice(("access", "default")), d.rng.choice(ACCESS_ACLS)))
simple("removeacl", lambda d: (d.there("file", "dir"), d.rng.choice(("access", "default"))))
simple("setcap", lambda d: (d.there("file"),))
simple("truncate", lambda d: (d.there("file"), d.size))
simple("write", lambda d: (d.there("file"), d.data, d.rng.choice(("O_WRONLY", "O_RDWR|O_TRUNC", "O_WRONLY|O_SYNC"))))
simple("append", lambda d: (d.there("file"), d.data, "O_WRONLY|O_APPEND"), "write")

# ------------------------------------------------------------------------------------------------------------------- to look

simple("lstat", lambda d: (d.there(),))
simple("readlink", lambda d: (d.there("symlink"),))
simple("read", lambda d: (d.there("file"),))
simple("mapped", lambda d: (d.there("file"),))
simple("xattrs", lambda d: (d.there(),))
simple("listing", lambda d: (d.dir(),))
simple("positions", lambda d: (d.dir(),))
simple("pieces", lambda d: (d.dir(),))
simple("statfs", lambda d: (d.there("file", "dir"),))

# ------------------------------------------------------------------------------------------------------------ open files

OPEN = ("O_RDONLY", "O_RDWR", "O_RDWR", "O_WRONLY|O_APPEND", "O_RDWR|O_TRUNC", "O_RDWR|O_CREAT", "O_RDWR|O_CREAT|O_EXCL",
        "O_RDONLY|O_DIRECTORY", "O_RDWR|O_CREAT|O_TRUNC", "O_PATH", "O_RDWR|O_SYNC")  # fmt: skip

simple("open", lambda d: (d.slot, d.there(), d.rng.choice(OPEN[:5]), d.mode))
simple("open_create", lambda d: (d.slot, d.pick([*d.tree, d.free()]), d.rng.choice(OPEN[5:]), d.mode), "open")
simple("open_to_read", lambda d: (d.slot, d.there("file"), "O_RDONLY", 0), "open")
simple("tmpfile", lambda d: (d.slot, d.dir(), d.mode))
simple("close", lambda d: (d.open_slot("file", "dir", "fifo", "char"),))
simple("pread", lambda d: (d.open_slot(), d.offset))
simple("pwrite", lambda d: (d.open_slot(), d.data, d.offset))
simple("ftruncate", lambda d: (d.open_slot(), d.size))
simple("fallocate", lambda d: (d.open_slot(), d.rng.choice(("", "KEEP_SIZE", "PUNCH_HOLE", "ZERO_RANGE")), d.offset, 5000))
simple("fchmod", lambda d: (d.open_slot("file", "dir"), d.mode))
simple("fchown", lambda d: (d.open_slot("file", "dir"), d.rng.choice((0, USER)), 0))
simple("futime", lambda d: (d.open_slot("file", "dir"), d.size * LONG_AGO_NS + 9))
simple("fsetxattr", lambda d: (d.open_slot("file", "dir"), d.rng.choice(XATTRS), d.data[:5]))
simple("fstat", lambda d: (d.open_slot("file", "fifo", "char", "symlink"),))
simple("fsync", lambda d: (d.open_slot("file", "dir"),))
simple("fdatasync", lambda d: (d.open_slot("file", "dir"),))
simple("syncfs", lambda d: (d.open_slot("file", "dir"),))
simple("map_write", lambda d: (d.open_slot(), d.data[:1]))
simple("reopen", lambda d: (d.open_slot(),))
simple("copy", lambda d: (d.open_slot(), d.open_slot(), d.rng.choice((10, 9000)), d.offset))


@kind
def list_begin(d: Draw) -> Call:
    """A directory that stays open while its names change."""
    path = d.dir()
    names = [one for one in d.tree if (os.path.dirname(one) or ".") == path]
    d.lane.listings[d.slot] = (path, {os.path.basename(one) for one in names})
    return Call("list_begin", (d.slot, path))


@kind
def list_end(d: Draw) -> Call:
    """Reads on in one."""
    slot = d.rng.choice(sorted(d.lane.listings) or [d.slot])
    _, names = d.lane.listings.pop(slot, ("", set()))
    return Call("list_end", (slot, tuple(sorted(names))))


UNPRIVILEGED = 0.08


def next_call(name: str, number: int, lane_number: int, lane: Lane) -> Call:
    """The call of a kind that a number stands for, over what there is in a lane."""
    rng = random.Random(f"{number}/{lane_number}")
    call = KINDS[name](Draw(rng, lane))
    return call._replace(uid=USER) if rng.random() < UNPRIVILEGED and name not in AS_ROOT else call


# ------------------------------------------------------------------------------------------------------------------- layers

BEFORE = ("rename_file", "rename_dir", "rename_dir", "rename_dir", "unlink", "mkdir", "create", "rename_over", "link", "chmod")
"""Kinds that a lower layer made by the kernel comes from."""

FILLED = ("file", "file", "dir", "dir", "dir", "symlink", "fifo", "whiteout", "opaque", "link", "sparse", "xopaque", "xwhiteout",
          "device", "marked", "redirected", "redirected", *[""] * 14)  # fmt: skip


def layers(rng: random.Random, lowers: int, made_before: bool) -> tuple[Entry, ...]:
    """Random layers over the same namespace.

    Whiteouts stand only in directories that are merged: in others the kernel lists them, and finds the directory not empty
    (test_own). So there are none above a layer that the kernel will change before.
    """
    found: list[Entry] = []
    below: dict[str, str] = {}
    for number in range(lowers - 1, -2, -1):
        layer = f"lower{number}" if number >= 0 else "upper"
        made: dict[str, str] = {"": "dir"}
        for path in PATHS:
            parent = os.path.dirname(path)
            if path in made or made.get(parent) not in ("dir", "opaque", "xopaque", "redirected"):
                continue
            kind = rng.choice(FILLED)
            merged = below.get(parent) in ("dir", "opaque", "xopaque") and made[parent] in ("dir", "xopaque")
            if kind in ("whiteout", "xwhiteout") and (not merged or (made_before and number < 1)):
                continue
            if kind == "xwhiteout" and (made[parent] != "xopaque" or number < 0 or number == lowers - 1):
                continue
            if kind == "redirected":
                moved = [one for one, what in below.items() if what == "dir" and one not in made and one != path
                         and made.get(os.path.dirname(one)) == below.get(os.path.dirname(one)) == "dir"]  # fmt: skip
                if moved and not (made_before and number < 1):
                    found += _moved(layer, rng.choice(moved), path, made)
            elif kind:
                made[path] = kind
                found.append(Entry(layer, kind, path, _arguments(rng, kind, made)))
        below = made
    return tuple(found)


def _moved(layer: str, source: str, target: str, made: dict[str, str]) -> tuple[Entry, Entry]:
    """A directory of the layers below has another place in a layer; no other has its lower part, which the kernel forbids."""
    made[source], made[target] = "whiteout", "redirected"
    return Entry(layer, "whiteout", source), Entry(layer, "redirected", target, (source,))


def _arguments(rng: random.Random, kind: str, made: dict[str, str]) -> tuple[object, ...]:
    if kind == "file":
        data = bytes([rng.randrange(65, 91)]) * rng.choice((0, 3, 5000))
        return data, rng.choice((0o600, 0o644, 0o4755)), rng.choice((0, 0, USER))
    if kind == "dir":
        return rng.choice((0o700, 0o755, 0o2775)), rng.choice((0, 0, USER))
    if kind == "symlink":
        return (rng.choice(PATHS),)
    if kind == "link":
        return (rng.choice([path for path, what in made.items() if what == "file"] or ["a"]),)
    if kind == "marked":
        return rng.choice(("user.1", "user.2", "trusted.t")), b"value"
    return ()
