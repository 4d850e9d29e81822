"""Is the table of mounts read right: paths with blanks, flags of mount and filesystem, what lies on top?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from unionfs.linux import mount, mountinfo


def test_a_mount_and_one_on_top(scratch: Path) -> None:
    point = scratch / "with blank\tand \\ more"
    point.mkdir()
    place = os.fsencode(point)
    assert mountinfo.topmost(place) is None
    for source, flags in (("lower one", mount.MS_NOSUID | mount.MS_NOATIME), ("upper", mount.MS_RDONLY | mount.MS_STRICTATIME)):
        mount.mount(source.encode(), place, b"tmpfs", flags, b"")
    try:
        found = mountinfo.topmost(place)
        assert found is not None
        assert (found.source, found.kind, found.point) == (b"upper", b"tmpfs", place)
        assert found.flags() == mount.MS_RDONLY | mount.MS_STRICTATIME
        mount.unmount(place)
        found = mountinfo.topmost(place)
        assert found is not None
        assert (found.source, found.flags()) == (b"lower one", mount.MS_NOSUID | mount.MS_NOATIME)
        subprocess.run(["mount", "-o", "remount,noexec,nodev", point], check=True)
        again = mountinfo.topmost(place)
        assert again is not None
        assert again.flags() == mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC | mount.MS_NOATIME
        assert again.mount_id == found.mount_id
    finally:
        mount.unmount(place)


def test_an_empty_source(scratch: Path) -> None:
    point = os.fsencode(scratch / "mnt")
    os.mkdir(point)
    mount.mount(b"", point, b"tmpfs", 0, b"")
    try:
        found = mountinfo.topmost(point)
        assert found is not None
        assert (found.source, found.kind) == (b"", b"tmpfs")
        assert b"rw" in found.options
    finally:
        mount.unmount(point)
