"""I/O model: in what may unionfs answer otherwise than the kernel's overlayfs while a file moves under open descriptors?

All that is allowed is here, and depends on how each descriptor was opened. Everything else has to be equal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.oracle.io_pair import HARD_LINK, LOWER, MAPPABLE, Seen
from tests.oracle.io_worker import Answer, Look, Mapped, pages_of, runs

Slot = tuple[int, int]
"""Worker and number."""

READ_ONLY_OLD = "passthrough"
"""The lower_io mode in which a descriptor that was opened on the lower file goes on reading it."""

MAPS_LOWER = "auto"
"""The one in which executables and shared objects are mapped on the lower file, and nothing else is kept there."""


@dataclass
class Opened:
    """How a descriptor came about. `name` is where its file is now, None once it has lost that name."""

    name: str | None
    writable: bool
    direct: bool
    reopened: bool = False
    lower: bytes | None = None
    """The lower file's content, if it was opened there: while it was not copied up."""
    mappable: bool = False
    """It was an executable or a shared object when it was opened."""
    gone: bool = False
    """The file lost its name before anything copied it up: the oracle refuses every change of it (tests.oracle.test_own)."""


class Model:
    """What is known of an example's descriptors and mappings. `oracle_upper` is the example's directory on the oracle's upper."""

    def __init__(self, lower_io: str | None, oracle_upper: Path) -> None:
        self._lower_io = lower_io
        self._upper = oracle_upper
        self.slots: dict[Slot, Opened] = {}
        self.maps: dict[Slot, Opened] = {}
        self._last: tuple[Seen, Seen] | None = None

    def lower_content(self, name: str) -> bytes | None:
        """The content of the lower file that a name still stands for."""
        content = LOWER.get(HARD_LINK[0] if name == HARD_LINK[1] else name)
        return None if os.path.lexists(self._upper / name) else content

    def changeable(self, slot: Slot) -> bool:
        """Whether the oracle lets the slot's file be changed."""
        opened = self.slots.get(slot)
        return opened is not None and not opened.gone

    def opened(self, slot: Slot, name: str, flags: int, lower: bytes | None) -> None:
        """A slot was opened by name; `lower` as `lower_content` said before."""
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        changed = writable or flags & os.O_TRUNC
        mappable = name in MAPPABLE
        direct = bool(flags & os.O_DIRECT)
        self.slots[slot] = Opened(name, writable, direct, lower=None if changed else lower, mappable=mappable)

    def reopened(self, slot: Slot, source: Slot, flags: int) -> None:
        """A slot was opened through another slot's link in /proc."""
        from_ = self.slots[source]
        changed = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        lower = None if changed else from_.lower
        direct = bool(flags & os.O_DIRECT)
        self.slots[slot] = Opened(from_.name, bool(changed), direct, True, lower, from_.mappable, from_.gone)

    def loses_name(self, name: str, on_lower: bool) -> None:
        """A name stands for something else, or nothing; `on_lower`: what it stood for had not been copied up."""
        for opened in (*self.slots.values(), *self.maps.values()):
            if opened.name == name:
                opened.name, opened.gone = None, on_lower

    def renames(self, source: str, target: str, exchange: bool) -> None:
        """A rename took place; `loses_name` has been called for the target, unless names were exchanged."""
        for opened in (*self.slots.values(), *self.maps.values()):
            if opened.name == source:
                opened.name = target
            elif opened.name == target and exchange:
                opened.name = source

    def same_read(self, opened: Opened, ours: Answer, oracle: Answer) -> bool:
        """Whether a read of a whole file may come out so."""
        return ours == oracle or (self._may_be_old(opened) and ours == Answer("ok", runs(opened.lower or b"")))

    def same_mapping(self, opened: Opened, ours: Answer, oracle: Answer) -> bool:
        """Whether a mapping, and the file by read(2) beside it, may look so.

        Where the oracle's mapping has stayed on the lower file, ours may have stayed as well or show what is written now.
        """
        mine, theirs = ours.value, oracle.value
        if not isinstance(mine, Mapped) or not isinstance(theirs, Mapped):
            return ours == oracle
        lower = pages_of(opened.lower or b"")
        if mine.file != theirs.file and not (self._may_be_old(opened) and mine.file == lower):
            return False
        stayed = theirs.pages != theirs.file
        # What was opened again through /proc shares the old inode, and so its mappings.
        kept = self._may_be_old(opened) or (opened.reopened and self.may_be_busy(opened))
        return mine.pages == theirs.pages or (kept and mine.pages == lower) or (stayed and mine.pages in (mine.file, theirs.file))

    def _may_be_old(self, opened: Opened) -> bool:
        return self._lower_io == READ_ONLY_OLD and opened.lower is not None

    def may_be_busy(self, opened: Opened) -> bool:
        """Whether ETXTBSY is right for opening a descriptor's file again, through /proc, for writing.

        There is no name by which the kernel could find the copied up file's inode, and the old inode stays with the lower file,
        which can't be written, as long as it is mapped or read there.
        """
        stays = self._lower_io == READ_ONLY_OLD or (self._lower_io == MAPS_LOWER and opened.mappable)
        return opened.lower is not None and stays

    def differences(self, ours: Seen, oracle: Seen, rebound: tuple[str, ...]) -> list[str]:
        """In what two views differ, and which inode number changed where the oracle's did not.

        `rebound` are names that the last operation may have given to another file.
        """
        found = [
            f"{name}: ours {ours.names[name]}, oracle {theirs}"
            for name, theirs in oracle.names.items()
            if _comparable(ours.names[name]) != _comparable(theirs)
        ]
        for slot, theirs in oracle.slots.items():
            if self._shown(slot, ours.slots[slot]) != self._shown(slot, theirs):
                found.append(f"{slot}: ours {ours.slots[slot]}, oracle {theirs}")
            mine, expected = _names_of(ours, slot), _names_of(oracle, slot)
            if mine != expected and not (mine ^ expected) & set(HARD_LINK):
                found.append(f"{slot} is the inode of: ours {sorted(mine)}, oracle {sorted(expected)}")
        found += self._changed_numbers(ours, oracle, rebound)
        self._last = ours, oracle
        return found

    def _shown(self, slot: Slot, found: Look) -> object:
        """The kernel goes on saying nlink 1 of a lower file without a name."""
        gone = slot in self.slots and self.slots[slot].gone
        return (found.seen._replace(nlink=0) if gone else found.seen), found.mtime_ns

    def _changed_numbers(self, ours: Seen, oracle: Seen, rebound: tuple[str, ...]) -> list[str]:
        if self._last is None:
            return []
        mine, theirs = (_numbers(seen, rebound) for seen in (ours, oracle))
        my_last, their_last = (_numbers(seen, rebound) for seen in self._last)
        both = my_last.keys() & their_last.keys() & mine.keys() & theirs.keys()
        return [
            f"st_ino of {key}: {my_last[key]}, then {mine[key]}"
            for key in both
            if mine[key] != my_last[key] and theirs[key] == their_last[key]
        ]

    def forget_slot(self, slot: Slot) -> None:
        """A slot was closed."""
        self.slots.pop(slot, None)
        if self._last:
            for seen in self._last:
                seen.slots.pop(slot, None)


def _comparable(found: Look | str) -> object:
    return found if isinstance(found, str) else (found.seen, found.mtime_ns)


def _names_of(seen: Seen, slot: Slot) -> set[str]:
    return {name for name, found in seen.names.items() if isinstance(found, Look) and found.ino == seen.slots[slot].ino}


def _numbers(seen: Seen, rebound: tuple[str, ...]) -> dict[object, int]:
    named: dict[object, int] = {
        name: found.ino for name, found in seen.names.items() if isinstance(found, Look) and name not in rebound
    }
    return named | {slot: found.ino for slot, found in seen.slots.items()}
