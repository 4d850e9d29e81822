"""Root file systems: where does the Debian tree come from that containers run on, and is it untouched afterwards?"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.trees import Tree, diff, snapshot

INCLUDE = ("python3", "gcc", "libc6-dev", "make", "git")
"""What is installed beside debootstrap's minbase variant."""

DEBS = ("hello", "tree", "manpages")
"""Packages that lie in DEB_DIRECTORY for containers to install: none needs another, the last has hundreds of files."""

DEB_DIRECTORY = "srv/debs"

SAMPLES = "srv/samples"
"""A directory of what a Debian tree hardly has: a sparse file, hard links, capabilities, ACLs, xattrs, a fifo."""

CACHE_VARIABLE = "UNIONFS_TEST_ROOTFS_CACHE"
"""Environment: a directory to keep the archive of the root file system in between runs. Unset: every run makes it."""

TAR = ("tar", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*")

LONG_NAME = "n" * 255


class BuildFailed(AssertionError):
    """A program that makes the root file system failed; the text has its last lines."""


@dataclass(frozen=True)
class Rootfs:
    """An unpacked root file system, and everything that was in it when it was new."""

    path: Path
    tree: Tree

    def assert_unchanged(self, contents: bool = False) -> None:
        """Every name, attribute and ctime is what it was; with `contents` every byte as well.

        Without `contents` the ctime stands for the bytes: the kernel sets it at every change of data or attributes and
        nobody can set it back (inode(7)), and the tree was unpacked and read before the first mount.
        """
        left_out = ("holes",) if contents else ("holes", "digest")
        before = {name: record.without(left_out) for name, record in self.tree.items()}
        changes = diff(before, snapshot(self.path, leave_out=left_out), ("before", "after"))
        assert not changes, f"the lower layer changed ({len(changes)}):\n" + "\n".join(changes[:20])


def unpack(archive: Path, target: Path) -> Rootfs:
    """Unpacks `archive` into the new directory `target` and reads it all."""
    target.mkdir(mode=0o755)
    _run([*TAR, "-xf", str(archive), "-C", str(target)])
    return Rootfs(target, snapshot(target, leave_out=("holes",)))


@contextmanager
def archive(shared: Path) -> Iterator[Path]:
    """The tar of the root file system, made in `shared` by the first process of the session that asks.

    The last user removes it: except in the directory that CACHE_VARIABLE names.
    """
    cache = os.environ.get(CACHE_VARIABLE)
    directory = Path(cache) if cache else shared
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"debian-{release()}.tar"
    with open(directory / "users.lock", "ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with open(directory / "maker.lock", "ab") as maker:
            fcntl.flock(maker, fcntl.LOCK_EX)
            if not path.exists():
                _make(path)
        try:
            yield path
        finally:
            if not cache and _last(users.fileno()):
                path.unlink(missing_ok=True)


def _last(users: int) -> bool:
    """Whether nobody else holds the lock of the users."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="debootstrap-") as directory:
        root = Path(directory) / "root"
        _run(["debootstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}", release(), str(root), mirror()])
        debs = root / DEB_DIRECTORY
        debs.mkdir()
        _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *DEBS], cwd=debs)
        add_samples(root / SAMPLES)
        unfinished = path.with_suffix(".part")
        _run([*TAR, "--sparse", "-cf", str(unfinished), "-C", str(root), "."])
        unfinished.rename(path)


def add_samples(target: Path) -> None:
    """Makes `target`, a directory with one of each kind of object that package archives do not bring."""
    target.mkdir()
    (target / "plain").write_bytes(b"plain\n" * 100)
    os.link(target / "plain", target / "second name")
    with open(target / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x" * 8192)
    (target / LONG_NAME).write_bytes(b"long")
    os.mkfifo(target / "fifo", 0o640)
    os.mknod(target / "null", 0o20666, os.makedev(1, 3))
    os.symlink("nowhere/" * 50, target / "dangling")
    shutil.copy("/bin/true", target / "capable")
    _run(["setcap", "cap_net_raw+ep", str(target / "capable")])
    (target / "shared").mkdir(mode=0o2775)
    os.chown(target / "shared", 1000, 1000)
    os.chmod(target / "shared", 0o2775)
    _run(["setfacl", "-m", "u:1001:rwx,d:u:1001:rwx,d:g::r-x", str(target / "shared")])
    os.setxattr(target / "plain", "user.colour", b"red\0green")
    os.setxattr(target / "shared", "trusted.note", b"seen by root only")
    os.utime(target / "plain", ns=(1_000_000_000_123_456_789, 1_000_000_000_987_654_321))


def release() -> str:
    """The code name of the distribution of this machine (os-release(5)), which debootstrap takes as its suite."""
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def mirror() -> str:
    """The archive that apt of this machine is set up to take the release's component `main` from."""
    # RELEASE is the suite as the sources name it (`stable`, perhaps), CODENAME what its index says.
    fields = "$(SITE) $(COMPONENT) $(RELEASE) $(CODENAME)"
    for line in _run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]).splitlines():
        site, component, *names = line.split(" ")
        if release() in names and component == "main":
            return site
    raise BuildFailed(f"apt knows no source for {release()} main: see sources.list(5)")


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BuildFailed(f"{' '.join(command)}: exit {done.returncode}\n{said}")
    return done.stdout
