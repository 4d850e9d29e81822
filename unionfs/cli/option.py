"""What is one `-o` option: its name, the values it takes and what it does to the settings?"""

from __future__ import annotations

import enum
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unionfs.cli.messages import CommandError
from unionfs.cli.settings import Settings
from unionfs.overlay.idmap import ID_END, IdRange, find_overlap

#: Mount options that give everything a label (mount(8), "context="); their values may stand in quotes, for the commas in them.
LABELS = ("context", "fscontext", "defcontext", "rootcontext")


class Section(enum.Enum):
    """Under which heading an option stands in the help text and in the manual page."""

    LAYERS = "Layers"
    UNION = "What the union shows and writes"
    OWNERS = "Whose things are"
    SESSION = "How it is served"
    MOUNT = "Mount options"
    PASSED_OVER = "Understood and passed over"


class Arity(enum.Enum):
    """Whether an option is written alone (`ro`), with a value (`xino=auto`), or either way (`writeback`,
    `writeback=0`)."""

    ALONE = enum.auto()
    VALUE = enum.auto()
    EITHER = enum.auto()


Store = Callable[[Settings, str], None]
"""Puts the raw value of an option (escapes still in it; empty when written alone) into the settings."""


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the option table.

    name: as typed, without `=`; a final `*` stands for any ending (`x-*`).
    summary: one line for the help text.
    store: what it does; raises CommandError with status 1 for a value that cannot be.
    shown: how the value is written in the help text, `DIR` or `off|auto|on`; empty for an option written alone.
    """

    name: str
    section: Section
    summary: str
    store: Store
    arity: Arity = Arity.ALONE
    shown: str = ""

    def __str__(self) -> str:
        """The option as the help text and the manual page write it, for example `xino=off|auto|on`."""
        value = f"={self.shown}" if self.shown else ""
        return f"{self.name}[{value}]" if self.arity is Arity.EITHER else f"{self.name}{value}"

    def read(self, settings: Settings, value: str | None) -> None:
        """Applies the option as it was written; `value` is None where there was no `=`."""
        if value is None and self.arity is Arity.VALUE:
            raise CommandError(f"option {self.name} needs a value: {self}")
        if value is not None and self.arity is Arity.ALONE:
            raise CommandError(f"option {self.name} takes no value, but was given '{value}': write just {self.name}")
        self.store(settings, value or "")


def unescape(name: str, value: str) -> str:
    r"""The value without backslashes that only protect the next character (`\:` `\,` `\\`), as overlayfs does it."""
    if "\\" not in value:
        return value
    plain: list[str] = []
    characters = iter(value)
    for character in characters:
        if character == "\\":
            character = next(characters, "")
            if not character:
                raise CommandError(f"option {name}={value}: it ends in a lone backslash; a backslash in a path is written twice")
        plain.append(character)
    return "".join(plain)


def split_unescaped(text: str, separator: str) -> list[str]:
    """The parts of the text between separators that no backslash protects; the escapes stay in the parts."""
    parts: list[str] = []
    start = position = 0
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        if text[position] == separator:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    parts.append(text[start:])
    return parts


def split_options(text: str) -> list[str]:
    """The options of one `-o` argument; a comma inside the quotes of a label separates nothing."""
    options: list[str] = []
    for part in split_unescaped(text, ","):
        if options and _is_in_quotes(options[-1]):
            options[-1] += f",{part}"
        else:
            options.append(part)
    return options


def _is_in_quotes(option: str) -> bool:
    name, _, value = option.partition("=")
    return name in LABELS and value.startswith('"') and value.count('"') == 1


def split_data_only(value: str) -> tuple[list[str], list[str]]:
    """The elements of `lowerdir=`, `A:B::C::D`: those that are merged, and behind `::` each those that only hold data.

    Raises CommandError for an empty element, and for a single `:` behind a `::`.
    """
    if not value:
        return [], []
    parts = split_unescaped(value, ":")
    merged = parts[: parts.index("")] if "" in parts else parts
    rest = parts[len(merged) :]
    data = rest[1::2]
    if merged and any(rest[::2]):
        raise CommandError(f"option lowerdir={value}: after `::` (data-only layers) every separator has to be `::`")
    if not merged or len(rest) % 2 or "" in data:
        raise CommandError(
            f"option lowerdir={value}: an element of the list is empty; remove the `:` too many "
            r"(a colon inside a path is written \:)"
        )
    return merged, data


def to_path(name: str, value: str) -> bytes:
    """A directory's path as the kernel takes it: without escapes, neither empty nor holding a NUL byte."""
    path = os.fsencode(unescape(name, value))
    if not path:
        raise CommandError(f"option {name}= is empty: name a directory")
    if b"\0" in path:
        raise CommandError(f"option {name}={value}: a path cannot hold a NUL byte")
    return path


def nothing(name: str, section: Section, summary: str, arity: Arity = Arity.ALONE, shown: str = "") -> Option:
    """An option that is understood and changes nothing."""
    return Option(name, section, summary, lambda settings, value: None, arity, shown)


def fixed(name: str, section: Section, summary: str, field: str, value: object) -> Option:
    """An option written alone that sets one field of Settings to one value."""
    return Option(name, section, summary, lambda settings, _: setattr(settings, field, value))


def directory(name: str, summary: str, field: str) -> Option:
    """An option that names one directory."""

    def store(settings: Settings, value: str) -> None:
        setattr(settings, field, to_path(name, value))

    return Option(name, Section.LAYERS, summary, store, Arity.VALUE, "DIR")


def choice(
    name: str,
    section: Section,
    summary: str,
    values: Mapping[str, object],
    *,
    field: str | None = None,
    alone: str | None = None,
) -> Option:
    """An option with a closed set of values.

    values: what is typed -> what is stored in `field`; no field for an option whose values all mean the same.
    alone: the value meant when the option is written without one; None where it needs one.
    """
    shown = "|".join(values)

    def store(settings: Settings, value: str) -> None:
        key = alone if not value and alone is not None else value
        if key not in values:
            raise CommandError(f"option {name}={value}: no such value; possible: {shown}")
        if field is not None:
            setattr(settings, field, values[key])

    return Option(name, section, summary, store, Arity.VALUE if alone is None else Arity.EITHER, shown)


def seconds(name: str, section: Section, summary: str, field: str) -> Option:
    """An option that takes a time in seconds, a decimal number of at least 0."""

    def store(settings: Settings, value: str) -> None:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not math.isfinite(number) or number < 0:
            raise CommandError(f"option {name}={value}: not a time; give seconds as a number of at least 0, {name}=60")
        setattr(settings, field, number)

    return Option(name, section, summary, store, Arity.VALUE, "SECONDS")


def identity(name: str, section: Section, summary: str, field: str, shown: str) -> Option:
    """An option that takes one user or group id."""

    def store(settings: Settings, value: str) -> None:
        number = int(value) if re.fullmatch("[0-9]{1,10}", value) else ID_END
        if number >= ID_END:
            raise CommandError(f"option {name}={value}: not an id; give a number from 0 to {ID_END - 1}")
        setattr(settings, field, number)

    return Option(name, section, summary, store, Arity.VALUE, shown)


def mapping(name: str, section: Section, summary: str, field: str) -> Option:
    """An option that takes ranges of ids, `STORED:SHOWN:LENGTH` and so on; superfluous colons are nothing."""

    def store(settings: Settings, value: str) -> None:
        words = [word for word in re.split("[:,]", unescape(name, value)) if word]
        if not words or len(words) % 3 or not all(re.fullmatch("[0-9]{1,10}", word) for word in words):
            raise CommandError(f"option {name}={value}: not a mapping; write numbers STORED:SHOWN:LENGTH, {name}=0:100000:65536")
        numbers = [int(word) for word in words]
        ranges = tuple(IdRange(*numbers[place : place + 3]) for place in range(0, len(numbers), 3))
        for ids in ranges:
            if not ids.length or max(ids.stored, ids.shown) + ids.length > ID_END:
                raise CommandError(f"option {name}={value}: {ids} is no range of ids; they go from 0 to {ID_END - 1}")
        overlap = find_overlap(ranges)
        if overlap is not None:
            raise CommandError(f"option {name}={value}: {overlap[0]} and {overlap[1]} overlap; give every id one meaning")
        setattr(settings, field, ranges)

    return Option(name, section, summary, store, Arity.VALUE, "STORED:SHOWN:LENGTH[:...]")


def label(name: str) -> Option:
    """An option that gives objects an SELinux label."""

    def store(settings: Settings, value: str) -> None:
        plain = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        if not plain or any(character in plain for character in '"\0\n'):
            raise CommandError(f'option {name}={value}: not a label; write {name}="USER:ROLE:TYPE:LEVEL"')
        settings.labels[name] = plain

    return Option(name, Section.MOUNT, "SELinux label, where there is SELinux", store, Arity.VALUE, "LABEL")


def bits(name: str, summary: str, *, put: int = 0, take: int = 0) -> Option:
    """A mount option that clears the flags of mount(2) in `take` and then sets those in `put`."""

    def store(settings: Settings, value: str) -> None:
        settings.mount_flags = (settings.mount_flags & ~take) | put

    return Option(name, Section.MOUNT, summary, store)
