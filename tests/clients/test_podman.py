"""podman: does it run, inspect and commit containers on file systems this program mounts, as root and rootless?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import podman

PROGRAMS = ("sh", "cat", "ls", "rm", "mkdir", "cp", "mv", "id", "chmod", "stat", "sleep")

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
