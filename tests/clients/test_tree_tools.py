"""Tree tools: do find, tar, cp, rm, chown, chmod, diff and mv see and change a Debian tree as on any filesystem?"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from tests.clients.conftest import MakeContainer
from tests.clients.rootfs import SAMPLES, Rootfs
from tests.support.mounts import Layers, Unionfs
from tests.support.trees import Tree, diff, snapshot

LISTING = r"""
export LC_ALL=C
find . '(' -type d -printf '%p %m %U %G %T@\n' ')' -o -printf '%p %y %m %U %G %T@ %s %l %n\n' | sort
"""

ARCHIVE = "LC_ALL=C tar --numeric-owner --sort=name --sparse -cf - . | sha256sum"

COPIES = r"""
cp -a /usr/lib /srv/copy
diff -r --no-dereference /usr/lib /srv/copy
cp -a --sparse=always /srv/samples /srv/samples2
cp -al /usr/share /srv/linked
cp -a --reflink=auto /srv/copy/gcc /srv/gcc && diff -r --no-dereference /usr/lib/gcc /srv/gcc
tar -C /usr -cf - share | tar -C /srv -xf - && diff -r --no-dereference /usr/share /srv/share
"""

CHANGES = r"""
chown -R 1000:1000 /usr/share/perl /etc
chmod -R g+w /usr/share/doc /srv/samples/shared
find /usr/include -type f -exec touch -d 2001-02-03 {} +
find /usr/include -type f ! -newermt 2001-02-04 | wc -l
find /usr/include -type f | wc -l
for file in /etc/*.conf; do mv "$file" "$file.moved" && mv "$file.moved" "$file"; done
sed -i s/root/boss/ /etc/passwd && grep -q ^boss /etc/passwd
truncate -s 100 /srv/samples/sparse && test "$(stat -c %s /srv/samples/sparse)" = 100
ln /srv/samples/plain /srv/samples/third
"""

REMOVALS = r"""
rm -rf /usr/share /usr/include /usr/lib/git-core /etc/alternatives
test ! -e /usr/share && test ! -e /usr/lib/git-core
mkdir -p /usr/share/doc /etc/alternatives
test -z "$(ls -A /usr/share/doc)" && test -z "$(ls -A /etc/alternatives)"
echo new > /usr/share/doc/new
cp -a /usr/lib/python3.11 /usr/include
rm -rf /usr/share /srv/samples
mkdir /srv/samples && touch /srv/samples/plain && ls /srv/samples
"""


def shell(script: str, directory: Path) -> str:
    """Runs a script of this machine's own programs in `directory`; its standard output."""
    done = subprocess.run(["sh", "-euc", script], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fresh_union(rootfs: Rootfs, base: Path) -> Layers:
    """An empty upper over the root file system, with the same times on its root directory."""
    layers = replace(Layers.create(base / "union", lowers=0), lowers=(rootfs.path,))
    status = rootfs.path.stat()
    os.utime(layers.top, ns=(status.st_atime_ns, status.st_mtime_ns))
    return layers


def test_every_byte_and_attribute_of_the_lower_shows(rootfs: Rootfs, scratch: Path) -> None:
    layers = fresh_union(rootfs, scratch)
    left_out = ("ctime_ns", "holes")
    with Unionfs().mount(layers) as mnt:
        shown = snapshot(mnt, leave_out=left_out)
    # Link counts of directories are the oracle tests' business: they need not be those of a layer.
    expected = without_directory_links(rootfs.tree, left_out)
    assert diff(expected, without_directory_links(shown), ("lower", "mount")) == []
    assert list(layers.top.iterdir()) == []
    rootfs.assert_unchanged()


def without_directory_links(tree: Tree, left_out: tuple[str, ...] = ()) -> Tree:
    """The tree without the named fields, and without the link counts of its directories."""
    also = (*left_out, "nlink")
    return {name: record.without(also if record.type == "dir" else left_out) for name, record in tree.items()}


def test_find_and_tar_say_the_same_as_below(rootfs: Rootfs, scratch: Path) -> None:
    layers = fresh_union(rootfs, scratch)
    with Unionfs().mount(layers) as mnt:
        for script in (LISTING, ARCHIVE):
            shown, below = shell(script, mnt).splitlines(), shell(script, rootfs.path).splitlines()
            assert [line for line in shown if line not in set(below)] == []
            assert shown == below
    rootfs.assert_unchanged()


def test_copies_of_trees(make_container: MakeContainer) -> None:
    with make_container() as box:
        box.run(COPIES)
        left_out = ("ctime_ns", "holes", "nlink")
        for copy, original in (("srv/copy", "usr/lib"), ("srv/samples2", SAMPLES)):
            changes = diff(snapshot(box.root / original, left_out), snapshot(box.root / copy, left_out))
            assert changes == []
        for name in ("srv/samples/sparse", "srv/samples2/sparse"):
            assert os.stat(box.root / name).st_blocks * 512 < 1 << 20
        one = next(name for name in sorted((box.root / "usr/share/perl").rglob("*.pm")) if name.is_file())
        assert os.path.samefile(one, box.root / "srv/linked" / one.relative_to(box.root / "usr/share"))


def test_changes_of_whole_trees(make_container: MakeContainer) -> None:
    with make_container() as box:
        touched, present = box.run(CHANGES).split()
        assert touched == present
        assert int(present) > 500
        owners = {(record.uid, record.gid) for record in snapshot(box.root / "etc").values()}
        assert owners == {(1000, 1000)}
        assert os.path.samefile(box.root / SAMPLES / "third", box.root / SAMPLES / "plain")


def test_removed_trees_stay_removed(make_container: MakeContainer) -> None:
    with make_container() as box:
        assert box.run(REMOVALS) == "plain\n"
        assert sorted(os.listdir(box.root / SAMPLES)) == ["plain"]
        assert (box.root / SAMPLES / "plain").read_bytes() == b""
