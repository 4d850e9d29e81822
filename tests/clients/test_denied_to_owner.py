"""Less privilege: does a file whose mode denies its owner stay usable by who has it open, if the server has no more rights?"""

from __future__ import annotations

import os

from tests.clients.command import NOBODY, as_ordinary_user, ordinary_user_place
from tests.support import lowers

SCRIPT = '''
import errno, os, sys

os.chdir(sys.argv[1])
os.umask(0)

def tell(label, call, *args):
    try:
        print(label, call(*args))
    except OSError as error:
        print(label, errno.errorcode[error.errno])

for mode in (0o444, 0o200, 0o000, 0o400):
    for flags in (os.O_RDWR, os.O_WRONLY):
        name = f"f{mode:o}-{flags}"
        fd = os.open(name, os.O_CREAT | os.O_EXCL | flags, mode)
        for label, call, *args in (
            ("write", os.write, fd, b"0123456789" * 1000),
            ("ftruncate", os.ftruncate, fd, 5000),
            ("fsync", os.fsync, fd),
            ("fdatasync", os.fdatasync, fd),
            ("posix_fallocate", os.posix_fallocate, fd, 0, 6000),
            ("lseek", os.lseek, fd, 0, os.SEEK_END),
            ("pwrite", os.pwrite, fd, b"end", 5990),
            ("read", lambda: len(os.pread(fd, 10000, 0))),
            ("again", lambda: os.close(os.open(name, os.O_RDWR))),
            ("fchmod", os.fchmod, fd, mode),
            ("ftruncate", os.ftruncate, fd, 70),
            ("size", lambda: os.fstat(fd).st_size),
        ):
            tell(f"{name} {label}", call, *args)
        os.close(fd)

# More files than a server would keep open for nothing, each still open when the last is made.
kept = [os.open(f"many{number}", os.O_CREAT | os.O_RDWR, 0o000) for number in range(1100)]
for fd in kept:
    os.write(fd, b"0123456789")
source, target = kept[0], kept[1]
tell("ftruncate the first", os.ftruncate, source, 8)
tell("fsync the first", os.fsync, source)
tell("copy", os.copy_file_range, source, target, 8, 0, 2)
tell("read", lambda: os.pread(target, 100, 0))
for fd in kept:
    os.close(fd)
'''

RUN = """
ulimit -n 4096
$PYTHON -m unionfs -o userxattr,lowerdir=lower,upperdir=upper,workdir=work mnt
$PYTHON script plain > plain.out
$PYTHON script mnt > mnt.out
fusermount3 -u mnt
"""


def test_descriptors_go_on_working() -> None:
    """As on the plain file system, whose descriptors keep the rights they were opened with."""
    with ordinary_user_place() as place:
        for name in ("lower", "upper", "work", "mnt", "plain"):
            (place / name).mkdir()
        (place / "script").write_text(SCRIPT)
        for path in (place, *place.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, RUN)
        assert done.returncode == 0, done.stderr
        plain, union = ((place / name).read_text().splitlines() for name in ("plain.out", "mnt.out"))
        assert union == plain
        assert "f444-2 ftruncate None" in union
        assert "f444-2 again EACCES" in union
