"""mknod(2) refused: how is a program run as in a sandbox that lets nobody make devices?

`python -m tests.support.without_mknod COMMAND ARGUMENT...` runs the command under a filter of system calls (seccomp(2)).
Needs CAP_SYS_ADMIN in its user namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Instructions of the classic packet filter (linux/bpf_common.h), each u16 code, u8 jump if true, u8 if false, u32 operand."""

ALLOW, FAIL = 0x7FFF0000, 0x00050000
NUMBERS = {"x86_64": (133, 259), "aarch64": (33, 33), "riscv64": (33, 33)}
"""mknod and mknodat (asm/unistd.h)."""


def forbid_mknod() -> None:
    """From now on both fail with EPERM, for this process and all that it starts."""
    one, other = NUMBERS[platform.machine()]
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, 0),
            (JUMP_IF_EQUAL, 1, 0, one),
            (JUMP_IF_EQUAL, 0, 1, other),
            (RETURN, 0, 0, FAIL | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        )
    )
    instructions = ctypes.create_string_buffer(program, len(program))
    description = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, description, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    forbid_mknod()
    os.execvp(sys.argv[1], sys.argv[1:])
