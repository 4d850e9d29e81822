"""buildah: does it make, change, commit and build images on file systems this program mounts, as root and rootless?"""

from __future__ import annotations

from pathlib import Path

from tests.clients import podman

PROGRAMS = ("sh", "cat", "ls", "rm", "mkdir", "stat", "mv", "chown")

USE = r"""
export BUILDAH_ISOLATION=chroot
podman import -q image.tar tiny >/dev/null
mkdir volume; echo below > volume/file; echo payload > payload
made=$(buildah from tiny)
buildah copy -q --chown 3:4 $made payload /data/payload >/dev/null
buildah run $made -- sh -c '
stat -c "%u %g" /data/payload; rm /etc/motd; mkdir /data/new; mv /data/new /data/moved; chown -R 5:6 /data'
buildah run -v "$PWD/volume:/mnt:O" $made -- sh -c 'echo more >> /mnt/file; rm -f /mnt/none; cat /mnt/file'
cat volume/file
buildah config --env NAME=value $made
buildah commit -q $made result >/dev/null
printf 'FROM result\nRUN rm -r /data/moved && echo $NAME > /data/name\nRUN mkdir /data/moved\n' > Containerfile
buildah bud -q --layers -t second -f Containerfile . >/dev/null
again=$(buildah from second)
buildah run $again -- sh -c '
cat /data/name; ls -A /data /data/moved; stat -c "%u %g" /data/payload; ls /etc/motd 2>/dev/null || echo gone'
run --rm -v "$PWD/volume:/mnt:O" second sh -c 'echo x > /mnt/x; ls /mnt'
ls volume
run --rm -v "$PWD:/mnt:O" second sh -c 'echo more >> /mnt/payload; cat /mnt/payload'
cat payload
buildah rm -a >/dev/null
buildah rmi -a -f >/dev/null
"""

EXPECTED = """3 4
below
more
below
value
/data:
file
moved
name
payload

/data/moved:
5 6
gone
file
x
file
payload
more
payload
"""


def test_buildah_as_root(tmp_path: Path, scratch: Path) -> None:
    done = podman.as_root(scratch, USE, [podman.make_image(tmp_path, PROGRAMS)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED, done.stderr


def test_buildah_rootless(tmp_path: Path) -> None:
    done = podman.rootless(USE, [podman.make_image(tmp_path, PROGRAMS)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED, done.stderr
