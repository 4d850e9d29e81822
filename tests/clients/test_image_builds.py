"""Builds: is an image built on file systems this program mounts the one that is built on the kernel's overlayfs?"""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.clients import podman
from tests.clients.image_archive import XATTR, differences, entries, layers

PROGRAMS = (
    *("sh", "cat", "ls", "rm", "mkdir", "mv", "ln", "chmod", "chown", "touch", "setfattr", "setcap", "true"),
    *("dpkg", "dpkg-deb", "dpkg-split", "tar", "diff", "ldconfig", "start-stop-daemon"),
)

CONTAINERFILE = """
FROM tiny
COPY --chown=7:8 tree/ /srv/tree/
COPY piece.deb /tmp/
RUN mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers && touch /var/lib/dpkg/status && \
    dpkg -i /tmp/piece.deb && rm /tmp/piece.deb
RUN chown -R 1000:1001 /usr/share/piece && chmod 4755 /usr/share/piece/file1 && chmod 2770 /usr/share/piece/part1 && \
    setcap cap_net_raw+ep /srv/tree/tool && setfattr -n user.colour -v red /srv/tree/plain
RUN rm -r /usr/share/piece/part1 && mkdir /usr/share/piece/part1 && ls -A /usr/share/piece/part1 && \
    echo new > /usr/share/piece/part1/new && rm -r /srv/tree/deep && echo file > /srv/tree/deep && \
    rm /usr/share/piece/file2 && mkdir /usr/share/piece/file2 && mv /usr/share/piece/part2 /usr/share/piece/moved && \
    mv /usr/share/piece/file3 /usr/share/piece/moved/
RUN dpkg --remove piece && ln /srv/tree/plain /srv/tree/hard && ln -s plain /srv/tree/soft && \
    mkdir -p /usr/share/piece/part1 && echo again > /usr/share/piece/part1/new && rm -r /srv/tree/deep && mkdir /srv/tree/deep
"""
"""Copies, a package installed and removed, owners, modes, xattrs, and deletes over several layers."""

BUILD = """
podman import -q image.tar tiny >/dev/null
build -t built -f Containerfile . >/dev/null
mkdir results
podman save -q --format oci-dir -o results/saved built
podman create -q --network none --name made built true >/dev/null
podman export -o results/exported.tar made
podman rm -f made >/dev/null
"""

LOAD = """
podman save -q -o built.tar built
podman rmi -a -f >/dev/null
podman load -q -i built.tar >/dev/null
run --rm built sh -c 'cat /srv/tree/hard /usr/share/piece/part1/new; ls -A /srv/tree/deep'
"""

CLEAN = """
podman rmi -a -f >/dev/null
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What a build needs: a base image, a Containerfile, a tree to copy, and a package."""
    (tmp_path / "Containerfile").write_text(CONTAINERFILE)
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    for name in ("plain", "tool", "deep/one", "deep/er/two"):
        (tree / name).write_text(f"{name}\n")
    (tree / "tool").chmod(0o755)
    os.symlink("plain", tree / "link")
    return [podman.make_image(tmp_path, PROGRAMS), tmp_path / "Containerfile", tree, make_package(tmp_path)]


def make_package(directory: Path) -> Path:
    """`piece.deb` in `directory`: a package of some directories and files, and a script that runs after installing."""
    root = directory / "piece"
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    (control / "control").write_text(
        "Package: piece\nVersion: 1\nArchitecture: all\nMaintainer: Somebody <somebody@example.org>\nDescription: a piece\n"
    )
    (control / "postinst").write_text("#!/bin/sh\nset -e\necho configured > /usr/share/piece/state\n")
    (control / "postinst").chmod(0o755)
    for part in ("part1/sub", "part2/sub", "part3"):
        (root / "usr/share/piece" / part).mkdir(parents=True)
        for number in range(10):
            (root / "usr/share/piece" / part / f"file{number}").write_text(f"{part} {number}\n" * 100)
    for number in range(1, 4):
        (root / "usr/share/piece" / f"file{number}").write_text(f"{number}\n")
    package = directory / "piece.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(root), str(package)], check=True, capture_output=True)
    return package


def test_a_build_is_the_one_of_the_kernels_overlayfs(files: list[Path], scratch: Path) -> None:
    """File lists, owners, modes, times, links, xattrs and contents of every layer, and of a container's whole tree."""
    kernel, ours, rootless = scratch / "kernel", scratch / "ours", scratch / "rootless"
    rootless.mkdir()
    built = podman.as_root(kernel, BUILD + CLEAN, files, kernel=True)
    assert built.returncode == 0, built.stderr
    for done in (podman.as_root(ours, BUILD + LOAD + CLEAN, files), podman.rootless(BUILD + LOAD + CLEAN, files, rootless)):
        assert done.returncode == 0, done.stderr
        assert done.stdout == "plain\nagain\n"
    assert (ours / "mounts.log").exists()
    assert not (kernel / "mounts.log").exists()

    exported, saved = entries(kernel / "results/exported.tar"), layers(kernel / "results/saved")
    assert exported["srv/tree/plain"].xattrs[XATTR + "user.colour"] == "red"
    assert XATTR + "security.capability" in exported["srv/tree/tool"].xattrs
    assert (exported["usr/share/piece/moved"].uid, exported["usr/share/piece/moved"].gid) == (1000, 1001)
    assert exported["srv/tree/deep"].type == tarfile.DIRTYPE
    assert len(saved) == 7
    for other in (ours, rootless):
        assert differences(entries(other / "results/exported.tar"), exported) == []
        assert [differences(*pair) for pair in zip(layers(other / "results/saved"), saved, strict=True)] == [[]] * 7
