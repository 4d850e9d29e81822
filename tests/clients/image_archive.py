"""Image archives: what exactly is in each layer of an image that podman has saved, and in an exported container?"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

XATTR = "SCHILY.xattr."
"""Prefix of an extended attribute among the PAX headers of a tar (tar(5), "Pax Interchange Format")."""


@dataclass(frozen=True)
class Entry:
    """One member of a tar, with all that unpacking it would make: type as in the header, `digest` the SHA-256 of its bytes."""

    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    link: str
    device: tuple[int, int]
    mtime: int
    xattrs: Mapping[str, str]
    digest: str


Archive = dict[str, Entry]
"""Name without leading `./` and trailing slash -> what is there."""


def entries(path: Path) -> Archive:
    """All members of a tar, compressed or not."""
    found: Archive = {}
    with tarfile.open(path, "r:*", errorlevel=2) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name.removeprefix("./").rstrip("/")] = Entry(
                type=member.type, mode=member.mode, uid=member.uid, gid=member.gid, size=member.size, link=member.linkname,
                device=(member.devmajor, member.devminor), mtime=int(member.mtime),
                xattrs={key: value for key, value in sorted(member.pax_headers.items()) if key.startswith(XATTR)},
                digest=hashlib.sha256(file.read()).hexdigest() if file is not None else "",
            )  # fmt: skip
    return found


def layers(saved: Path) -> list[Archive]:
    """The layers of the one image in a directory made by `podman save --format oci-dir`, the lowest first."""
    index = json.loads((saved / "index.json").read_text())
    (described,) = index["manifests"]
    manifest = json.loads(blob(saved, described["digest"]).read_text())
    return [entries(blob(saved, layer["digest"])) for layer in manifest["layers"]]


def blob(saved: Path, digest: str) -> Path:
    """Where an OCI image layout keeps the content with this digest (`sha256:...`)."""
    return saved / "blobs" / digest.replace(":", "/")


def differences(ours: Archive, other: Archive) -> list[str]:
    """Every difference as one readable line."""
    lines = [f"{name}: only ours" for name in sorted(ours.keys() - other.keys())]
    lines += [f"{name}: missing in ours" for name in sorted(other.keys() - ours.keys())]
    for name in sorted(ours.keys() & other.keys()):
        for field in fields(Entry):
            mine, theirs = getattr(ours[name], field.name), getattr(other[name], field.name)
            if mine != theirs:
                lines.append(f"{name}: {field.name}: ours {mine}, the other's {theirs}")
    return lines
