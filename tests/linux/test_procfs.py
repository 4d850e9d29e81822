"""Is /proc still found when the process gets another root, and its former current directory let go?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.mounts import REPOSITORY

PROGRAM = """
import os, sys
from unionfs.linux import at, creds, procfs, xattr

place = os.fsencode(sys.argv[1])
opened = os.open(place, os.O_PATH | os.O_DIRECTORY)
assert procfs.fd_path(opened, b"file") == b"/proc/self/fd/%d/file" % opened
procfs.anchor()
os.chroot(place + b"/root")
print(os.listdir("/"))
with open(procfs.fd_path(opened, b"file"), "rb") as file:
    print(file.read().decode())
xattr.write(opened, b"file", "user.name", b"value")
os.close(at.open_at(opened, b"", os.O_RDONLY))
print(os.readlink(procfs.fd_path(opened)).decode(), creds.has_capability(creds.CAP_CHOWN))
"""


def run(program: str, place: Path, *before: str) -> str:
    done = subprocess.run(
        [*before, sys.executable, "-c", program, str(place)], cwd=place, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_root(scratch: Path) -> None:
    (scratch / "root").mkdir()
    (scratch / "file").write_bytes(b"content")
    listed, content, link = run(PROGRAM, scratch).splitlines()
    assert (listed, content) == ("[]", "content")
    assert link.split()[1] == "True"
    assert os.getxattr(scratch / "file", "user.name") == b"value"


def test_where_no_clone_can_be_had(scratch: Path) -> None:
    """In a user namespace parts of /proc may be covered for good; then the paths stay as they are."""
    program = "from unionfs.linux import procfs; import os; procfs.anchor(); print(os.getcwd(), procfs.fd_path(3).decode())"
    covered = 'mount -t tmpfs tmpfs /proc/sys && exec unshare --user --mount "$@"'
    before = ["unshare", "--mount", "--propagation", "private", "sh", "-c", covered, "sh"]
    assert run(program, scratch, *before) == "/ /proc/self/fd/3\n"


def test_the_original_can_be_unmounted(scratch: Path) -> None:
    program = """
import subprocess, sys
from unionfs.linux import procfs
subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
procfs.anchor()
subprocess.run(["umount", "/proc"], check=True)
print(procfs.path("self/stat"))
"""
    assert run(program, scratch, "unshare", "--mount", "--propagation", "private") == "self/stat\n"
