"""What is the command asked to do?  The words of the command line, read the way getopt(3) reads them."""

from __future__ import annotations

import enum
import errno
import getopt
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from unionfs.cli.messages import CommandError, ExitStatus
from unionfs.cli.options import read_options
from unionfs.cli.settings import Settings

DEFAULT_SOURCE = b"unionfs"


class Action(enum.Enum):
    """What one run of the command does."""

    MOUNT = enum.auto()
    HELP = enum.auto()
    VERSION = enum.auto()


@dataclass(slots=True)
class Arguments:
    """The command line once read; settings and mount point matter to Action.MOUNT only.

    mountpoint is as the user wrote it, source is DEFAULT_SOURCE unless given.
    """

    action: Action = Action.MOUNT
    settings: Settings = field(default_factory=Settings)
    source: bytes = DEFAULT_SOURCE
    mountpoint: bytes = b""
    foreground: bool = False
    debug: bool = False
    verbose: bool = False


def read_arguments(words: Sequence[str]) -> Arguments:
    """Reads the words after the command's name. Raises CommandError with status 1; touches no file.

    Options and positional words may be mixed (`unionfs MNT -o ...`, as mount.fuse3(8) calls it), `-oFOO` may be
    written together, `--` ends the options. The first of -h and -V decides.
    """
    try:
        options, positional = getopt.gnu_getopt(list(words), "o:fdvVh", ["version", "help"])
    except getopt.GetoptError as error:
        raise CommandError(f"{error.msg}: unionfs -h shows the usage") from None
    arguments = Arguments()
    for option, value in options:
        match option:
            case "-o":
                read_options(value, arguments.settings)
            case "-f":
                arguments.foreground = True
            case "-d":
                arguments.foreground = arguments.debug = True
            case "-v":
                arguments.verbose = True
            case "-V" | "--version":
                arguments.action = Action.VERSION
                return arguments
            case _:
                arguments.action = Action.HELP
                return arguments
    _read_positional(positional, arguments)
    arguments.settings.check()
    return arguments


def _read_positional(words: list[str], arguments: Arguments) -> None:
    if not words:
        raise CommandError("the mount point is missing: unionfs [SOURCE] MOUNTPOINT -o lowerdir=DIR...")
    if len(words) > 2:
        raise CommandError(f"too many arguments: '{words[2]}' comes after SOURCE and MOUNTPOINT")
    if "" in words:
        raise CommandError("an empty argument is neither a source nor a mount point: leave it out")
    if any("\0" in word for word in words):
        raise CommandError("a source or mount point cannot hold a NUL byte")
    arguments.mountpoint = os.fsencode(words[-1])
    if len(words) == 2:
        arguments.source = os.fsencode(words[0])


def resolve_mountpoint(path: bytes) -> bytes:
    """The absolute path, without symlinks, of an existing directory; raises CommandError with status 32 otherwise."""
    shown = os.fsdecode(path)
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISDIR(kind):
            raise CommandError(f"mount point {shown}: not a directory", ExitStatus.MOUNT_FAILED)
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        raise CommandError(f"mount point {shown}: does not exist; create it first", ExitStatus.MOUNT_FAILED) from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            advice = f"a mount without its server is still there; remove it: umount {shown}"
        else:
            advice = (error.strerror or str(error)).lower()
        raise CommandError(f"mount point {shown}: {advice}", ExitStatus.MOUNT_FAILED) from None
