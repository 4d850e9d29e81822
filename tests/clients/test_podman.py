"""podman: does it run, inspect and commit containers on file systems this program mounts, as root and rootless?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import podman
from tests.support.mounts import REPOSITORY

PROGRAMS = ("sh", "true", "cat", "ls", "rm", "mkdir", "cp", "mv", "id", "chmod", "stat", "sleep")

LOOK = r"""
look() { find "$1" -printf '%P %y %s %m %U %G %n %T@ %C@ %l\n' | sort; find "$1" -type f -exec sha256sum {} + | sort; }
look "$(podman image inspect "$1" --format '{{.GraphDriver.Data.UpperDir}}')"
"""
"""Shell: prints all there is to say of the layer of an image, the lower of its containers, with ctime and contents."""

USE = """
podman import -q image.tar tiny >/dev/null
$INSIDE sh look tiny > before
test "$(wc -l < before)" -gt 20
run --rm tiny sh -c '
cat /etc/motd; echo more >> /etc/motd; cat /etc/motd
rm -r /data; mkdir /data; ls /data; echo x > /data/x; chmod 4711 /data/x
stat -c %a:%u:%g /data/x; mv /data/x /bin/x; id -u'
run --name one tiny sh -c 'rm /etc/motd; echo new > /etc/new; rm -r /data; mkdir /data /d'
podman diff one | LC_ALL=C sort
podman commit -q one two >/dev/null
run --rm two sh -c 'ls -d /d /etc/new; ls /data; ls /etc/motd 2>/dev/null || echo gone'
run --detach --name long two sleep 100 >/dev/null
podman exec long cat /etc/new
podman info --format '{{json .Store.GraphOptions}}' | grep -o '"unionfs: version [0-9]' | tr -d '"'
podman kill long >/dev/null
podman rm -f -a >/dev/null
$INSIDE sh look tiny > after
diff before after
podman rmi -f -a >/dev/null
"""

EXPECTED = """hello
hello
more
4711:0:0
0
A /d
A /etc/new
C /data
C /etc
D /data/file
D /etc/motd
/d
/etc/new
gone
new
unionfs: version 0
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What the script needs beside podman's configuration."""
    (tmp_path / "look").write_text(LOOK)
    return [podman.make_image(tmp_path, PROGRAMS), tmp_path / "look"]


def test_podman_as_root(files: list[Path], scratch: Path) -> None:
    done = podman.as_root(scratch, USE, files)
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED, done.stderr
    assert len((scratch / "mounts.log").read_text().splitlines()) >= 4


def test_podman_rootless(files: list[Path]) -> None:
    done = podman.rootless(USE, files)
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED, done.stderr


CHANGING = """
podman import -q image.tar tiny >/dev/null
run --rm tiny true
layer="$(podman image inspect tiny --format '{{.GraphDriver.Data.UpperDir}}')"
chmod 700 "$layer/etc"
"""


@pytest.mark.parametrize("then", ["", "podman rmi -f tiny\n", "podman system prune -f\n"], ids=["at the end", "rmi", "prune"])
def test_a_changed_layer_is_noticed(then: str, files: list[Path], scratch: Path) -> None:
    done = podman.as_root(scratch, CHANGING + then, files)
    assert done.returncode == 1
    assert "a lower layer changed" in done.stderr


DOCUMENTED = """
sed -n '/^    \\[storage\\]/,/^$/s/^    //p' README.md > storage.conf
sed -i "s,/usr/local/bin/unionfs,$PWD/unionfs,; s,/run/containers/storage,$PWD/runroot,; s,/var/lib/,$PWD/lib/," storage.conf
cat storage.conf >&2
grep -c -e runroot -e graphroot storage.conf
test -z "$INSIDE" || sed -i -e /runroot/d -e /graphroot/d storage.conf
podman import -q image.tar tiny >/dev/null
podman info --format '{{json .Store.GraphOptions}}' | grep -o '"unionfs: version [0-9]' | tr -d '"'
$INSIDE sh -euc 'mounted=$(podman image mount tiny); cat $mounted/etc/motd; podman image unmount tiny >/dev/null'
podman rmi -f -a >/dev/null
"""


def test_the_configuration_in_the_readme(files: list[Path], scratch: Path) -> None:
    """As the whole of the file, which many systems don't have."""
    needed = [files[0], REPOSITORY / "README.md"]
    for done in (podman.as_root(scratch, DOCUMENTED, needed), podman.rootless(DOCUMENTED, needed)):
        assert (done.returncode, done.stdout) == (0, "2\nunionfs: version 0\nhello\n"), done.stderr
