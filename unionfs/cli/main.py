"""How does one run of the command go, from its words to its exit status?"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unionfs.cli.arguments import Action, Arguments, read_arguments, resolve_mountpoint
from unionfs.cli.messages import CommandError, ExitStatus, complain, describe_bug, one_line

if TYPE_CHECKING:
    from unionfs.cli.daemon import Ready
    from unionfs.cli.settings import Settings
    from unionfs.overlay.config import UnionConfig
    from unionfs.overlay.union import Union
    from unionfs.serve.config import SessionConfig

_OUT_OF_RESOURCES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


def main(argv: list[str] | None = None) -> int:
    """Runs the command with the words after its name (default: the process's own) and returns its exit status.

    In the background case the process forks; the child serves the mount and never returns from here.
    """
    words = sys.argv[1:] if argv is None else argv
    _fill_standard_streams()
    try:
        return _run(words)
    except CommandError as error:
        complain(error.message)
        return int(error.status)
    except KeyboardInterrupt:
        complain("interrupted; nothing is left mounted")
        return int(ExitStatus.INTERRUPTED)
    except MemoryError:
        complain("out of memory")
        return int(ExitStatus.SYSTEM)
    except Exception as error:
        # A defect of this program; Python's own status for it would be that of wrong usage.
        complain(f"internal error: {describe_bug(error)}")
        return int(ExitStatus.SYSTEM)


def _fill_standard_streams() -> None:
    """A caller may have closed its standard streams; no layer's descriptor must get one of their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _run(words: Sequence[str]) -> int:
    if _asks_for_demo(words):
        from unionfs.cli.demo import demo

        return demo(words[1:])
    arguments = read_arguments(words)
    match arguments.action:
        case Action.HELP:
            from unionfs.cli.usage import usage

            sys.stdout.write(usage())
        case Action.VERSION:
            from unionfs.cli.usage import version

            sys.stdout.write(version())
        case Action.MOUNT:
            _mount(arguments)
    return int(ExitStatus.OK)


def _asks_for_demo(words: Sequence[str]) -> bool:
    """`demo` followed by nothing but its own options; with a mount point after it, it is a mount's source."""
    return bool(words) and words[0] == "demo" and set(words[1:]) <= {"--keep", "-h", "--help"}


def _mount(arguments: Arguments) -> None:
    """Opens the layers, mounts, and serves: in the foreground until the mount is gone, else until it answers."""
    settings = arguments.settings
    mountpoint = resolve_mountpoint(arguments.mountpoint)
    if settings.remount:
        _remount(settings, mountpoint)
        return
    session = settings.session(arguments.source, mountpoint, debug=arguments.debug, foreground=arguments.foreground)
    if settings.upper is None and settings.work is not None:
        complain("warning: workdir= without upperdir= has no effect: the mount is read-only")
    _check_surroundings()
    from unionfs.cli.log import log_to_standard_error

    log_to_standard_error(debug=arguments.debug)
    union = _open_union(settings.union())

    def say(line: str) -> None:
        if arguments.verbose:
            sys.stdout.write(f"{one_line(line)}\n")
            sys.stdout.flush()

    if arguments.foreground:
        _serve(union, session, say)
        return
    from unionfs.cli.daemon import serve_in_background

    # The parent leaves its copy of the union alone: the child's locks and descriptors are the same open files.
    say(serve_in_background(lambda ready: _serve(union, session, ready)))


def _check_surroundings() -> None:
    """Raises CommandError with status 2 before anything is opened or changed, if no mount can come of it."""
    from unionfs.serve import surroundings

    if not os.path.exists("/proc/self/fd"):
        raise CommandError(surroundings.NO_PROC, ExitStatus.SYSTEM)
    try:
        os.close(os.open(surroundings.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise CommandError(surroundings.why_not_opened(error), ExitStatus.SYSTEM) from None


def _remount(settings: Settings, mountpoint: bytes) -> None:
    """Gives a union that is mounted other flags.  mount(8) names those as well that are to stay."""
    from unionfs.serve.errors import MountError
    from unionfs.serve.remounting import remount

    try:
        remount(mountpoint, settings.mount_flags, read_only=settings.read_only)
    except MountError as error:
        raise CommandError(str(error), ExitStatus.MOUNT_FAILED) from None


def _open_union(config: UnionConfig) -> Union:
    """Opens every layer; raises CommandError with the status that says what went wrong."""
    from unionfs.overlay.errors import LayerError
    from unionfs.overlay.union import Union

    try:
        return Union.open(config)
    except LayerError as error:
        raise CommandError(str(error), error.exit_code) from None
    except OSError as error:
        status = ExitStatus.SYSTEM if error.errno in _OUT_OF_RESOURCES else ExitStatus.MOUNT_FAILED
        raise CommandError(f"cannot open the layers: {_explain(error)}", status) from None


def _serve(union: Union, session: SessionConfig, ready: Ready) -> None:
    """Mounts and serves until unmounted; raises CommandError with status 32 when it cannot be mounted."""
    from unionfs.serve.errors import MountError
    from unionfs.serve.run import serve

    try:
        serve(union, session, ready)
    except MountError as error:
        union.withdraw()
        raise CommandError(str(error), ExitStatus.MOUNT_FAILED) from None
    except OSError as error:
        raise CommandError(f"{os.fsdecode(session.mountpoint)}: {_explain(error)}", ExitStatus.SYSTEM) from None
    finally:
        union.close()


def _explain(error: OSError) -> str:
    """The system's words for the error, with the file's name where it has one."""
    text = error.strerror or str(error)
    return text if error.filename is None else f"{os.fsdecode(error.filename)}: {text}"
