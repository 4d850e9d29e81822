"""What do `-h` and `-V` print?"""

from __future__ import annotations

import textwrap

from unionfs import __version__
from unionfs.cli.option import Section
from unionfs.cli.options import OPTIONS

SYNOPSIS = """\
usage: unionfs [SOURCE] MOUNTPOINT -o OPTIONS... [-f] [-d] [-v]
       unionfs demo [--keep]
       unionfs -h | -V
"""

_ARGUMENTS = """
Mounts a union of directory trees at MOUNTPOINT. SOURCE is only a name to show.

  -o OPTIONS     options, separated by commas; may be given again, later wins
  -f             stay in the foreground
  -d             stay in the foreground and log every request
  -v             say more: whether passthrough is on and, if not, why
  -V, --version  print the version
  -h, --help     print this
  demo           show what a union does, on two small layers in a temporary directory
"""

_EXAMPLE = r"""
A backslash protects a `:` `,` or `\` inside a path. For example:
  unionfs -o lowerdir=top:bottom,upperdir=upper,workdir=work merged
  umount merged

Exit status: 0 mounted, 1 wrong usage or option, 2 system error, 8 interrupted, 32 mount failed.
The manual page unionfs(8) says more.
"""

_SUMMARY_COLUMN = 30


def usage() -> str:
    """The whole help text, options taken from the table."""
    lines: list[str] = []
    for section in Section:
        lines.append(f"\n{section.value}:")
        options = [option for option in OPTIONS if option.section is section]
        if section is Section.PASSED_OVER:
            names = ", ".join(str(option) for option in options)
            lines += textwrap.wrap(names, 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            continue
        for option in options:
            left = f"  {option}"
            if len(left) >= _SUMMARY_COLUMN:
                lines.append(left)
                left = ""
            lines.append(f"{left:<{_SUMMARY_COLUMN}} {option.summary}")
    return SYNOPSIS + _ARGUMENTS + "\n".join(lines) + "\n" + _EXAMPLE


def version() -> str:
    """The version of the command and the range of FUSE protocol versions it can speak."""
    from unionfs.wire.abi import MAJOR, MIN_MINOR, MINOR

    return f"unionfs: version {__version__}\nFUSE protocol {MAJOR}.{MIN_MINOR} to {MAJOR}.{MINOR}\n"
