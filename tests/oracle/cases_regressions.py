"""Regressions: which scripts of the machine once came out otherwise?

Each is as test_union_machine printed it when it was found, with a name that says what went wrong.
"""

from __future__ import annotations

from tests.oracle.union_script import Call, Entry, Script

REGRESSIONS: list[Script] = [
    Script(
        name="a-moved-directory-is-continued-by-the-other",
        lowers=2,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower1", "dir", "a", (0o755, 0)),
            Entry("lower1", "file", "a/b", (b"B" * 5000, 0o644, 0)),
            Entry("lower0", "dir", "a", (0o700, 0)),
            Entry("lower0", "whiteout", "a/c"),
        ),
        before=(Call("rename", ("a", "b", "")),),
        steps=(
            Call("rename", ("b", "c", "")),
            Call("cross", ({"redirect_dir": "on"},)),
            Call("write", ("c/b", b"x", "O_WRONLY")),
            Call("rename", ("c", "a", "")),
            Call("remount", ({"redirect_dir": "on"},)),
            Call("read", ("a/b",)),
        ),
    ),
    Script(
        name="a-new-directory-is-opaque-with-xino",
        lowers=1,
        options={"redirect_dir": "off", "xino": "on"},
        layers=(Entry("lower0", "dir", "b", (0o755, 0)),),
        steps=(Call("mkdir", ("b/b", 0o700)),),
    ),
    Script(
        name="a-redirect-that-is-not-followed-in-an-upper-directory",
        lowers=1,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower0", "dir", "c", (0o755, 0)),
            Entry("upper", "dir", "b", (0o2775, 0)),
        ),
        steps=(
            Call("rename", ("c", "b/a", "")),
            Call("remount", ({"redirect_dir": "nofollow"},)),
            Call("listing", ("b",)),
            Call("listing", ("b/a",)),
        ),
    ),
    Script(
        name="a-redirect-through-one-of-a-layer-that-lacks-the-last-name",
        lowers=3,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower1", "dir", "a", (0o700, 1001)),
            Entry("lower1", "dir", "c", (0o700, 0)),
            Entry("lower1", "opaque", "c/b"),
        ),
        before=(Call("rename", ("c", "a/b", "NOREPLACE")),),
        steps=(
            Call("symlink", ("b/a/b", "a/a")),
            Call("rename", ("a/b/b", "a/b/c", "NOREPLACE")),
            Call("rename", ("a/a", "a/b/c", "EXCHANGE")),
        ),
    ),
    Script(
        name="a-redirect-through-an-opaque-directory-that-lacks-the-last-name",
        lowers=2,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower1", "dir", "a", (0o755, 0)),
            Entry("lower1", "dir", "a/b", (0o755, 0)),
            Entry("lower1", "file", "a/b/c", (b"x", 0o644, 0)),
            Entry("lower0", "opaque", "a"),
            Entry("upper", "redirected", "c", ("a/b",)),
        ),
        steps=(Call("lstat", ("c",)), Call("listing", ("c",))),
    ),
    Script(
        name="a-listing-that-was-not-ended-is-not-the-beginning-of-the-next",
        lowers=1,
        options={"redirect_dir": "on"},
        steps=(
            Call("create", ("c", b"", 0o644)),
            Call("list_begin", (3, ".")),
            Call("link", ("c", "a")),
            Call("positions", (".",)),
            Call("unlink", ("c",)),
            Call("positions", (".",)),
        ),
    ),
    Script(
        name="a-hard-link-gets-another-number-in-a-listing-too",
        lowers=1,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower0", "file", "a", (b"x", 0o644, 0)),
            Entry("lower0", "link", "b", ("a",)),
        ),
        steps=(
            Call("look"),
            Call("truncate", ("b", 70000)),
            Call("listing", (".",)),
        ),
    ),
    Script(
        name="without-uuids-filesystems-are-told-apart-all-the-same",
        lowers=3,
        options={"redirect_dir": "on"},
        foreign=True,
        layers=(
            Entry("lower1", "dir", "b", (0o700, 0)),
            Entry("lower1", "file", "c", (b"N" * 5000, 0o600, 0)),
            Entry("lower1", "dir", "b/c", (0o2775, 0)),
        ),
        before=(
            Call("rename", ("c", "b/c/a", "")),
            Call("mkdir", ("a", 0o600)),
        ),
        steps=(
            Call("rename", ("a", "b", "EXCHANGE")),
            Call("cross", ({"redirect_dir": "on", "xino": "off", "uuid": "off", "metacopy": "off"},)),
            Call("look", ()),
            Call("write", ("a/c/a", b"pppppppppp", "O_WRONLY")),
            Call("remount", ({"redirect_dir": "off", "xino": "off", "uuid": "off", "metacopy": "off"},)),
            Call("look", ()),
        ),
    ),
    Script(
        name="a-mapping-takes-no-capability",
        lowers=2,
        options={"redirect_dir": "nofollow", "userxattr": None},
        layers=(Entry("lower0", "file", "b", (b"PPP", 0o644, 1001)),),
        steps=(
            Call("open", (3, "b", "O_RDONLY", 0o0)),
            Call("rename", ("b", "c", "")),
            Call("setcap", ("c",)),
            Call("open", (1, "c", "O_RDWR", 0o444)),
            Call("map_write", (1, b"p")),
            Call("look", ()),
        ),
    ),
    Script(
        name="a-redirect-out-of-an-opaque-directory-on-a-redirect's-way",
        lowers=2,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower1", "xopaque", "a"),
            Entry("lower1", "dir", "a/a", (0o2775, 0)),
            Entry("lower1", "xopaque", "a/a/b"),
            Entry("lower0", "opaque", "c"),
        ),
        before=(Call("rename", ("a/a", "c/a", "")),),
        steps=(
            Call("rename", ("c/a", "a/c", "")),
            Call("remount", ({"redirect_dir": "on"},)),
            Call("look", ()),
        ),
    ),
    Script(
        name="a-mapping-of-a-lower-file-on-tmpfs-fills-its-holes",
        lowers=2,
        options={"redirect_dir": "on"},
        foreign=True,
        layers=(Entry("lower1", "sparse", "b"),),
        steps=(Call("mapped", ("b",)),),
    ),
    Script(
        name="a-removed-name-of-a-lower-file-with-another",
        lowers=2,
        options={"redirect_dir": "on"},
        foreign=True,
        layers=(
            Entry("lower0", "dir", "b", (0o2775, 1001)),
            Entry("lower0", "marked", "b/a", ("trusted.t", b"value")),
        ),
        before=(
            Call("rename", ("b", "a", "")),
            Call("link", ("a/a", "a/b")),
        ),
        steps=(
            Call("open", (3, "a/b", "O_RDONLY", 0o0)),
            Call("unlink", ("a/b",)),
            Call("fstat", (3,)),
        ),
    ),
    Script(
        name="two-names-of-a-device-without-origin",
        lowers=3,
        options={"redirect_dir": "nofollow", "userxattr": None},
        foreign=True,
        layers=(Entry("lower0", "device", "b"),),
        steps=(
            Call("link", ("b", "a")),
            Call("rename", ("b", "a", ""), 1001),
        ),
    ),
    Script(
        name="the-last-name-of-a-file-that-is-open-by-another",
        lowers=2,
        options={"redirect_dir": "on"},
        foreign=True,
        steps=(
            Call("open", (3, "b", "O_RDWR|O_CREAT|O_EXCL", 0o444)),
            Call("link", ("b", "c")),
            Call("cross", ({"redirect_dir": "on", "xino": "off", "index": "on", "uuid": "on"},)),
            Call("open", (1, "c", "O_RDWR|O_TRUNC", 0o600)),
            Call("unlink", ("c",)),
            Call("look", ()),
            Call("fchmod", (1, 0o755)),
            Call("look", ()),
        ),
    ),
    Script(
        name="a-stranger-takes-a-set-group-id-bit-without-execution",
        lowers=1,
        options={"redirect_dir": "on"},
        layers=(
            Entry("lower0", "sparse", "c"),
            Entry("upper", "dir", "a", (0o755, 0)),
        ),
        steps=(
            Call("rename", ("c", "a", "EXCHANGE")),
            Call("setacl", ("c", "default", "u::rw- g::r-- o::---")),
            Call("mkdir", ("c/b", 0o1777)),
            Call("tmpfile", (0, "c/b", 0o2775)),
            Call("fallocate", (0, "ZERO_RANGE", 10, 5000)),
            Call("copy", (0, 0, 10, 10), 1001),
            Call("fstat", (0,)),
        ),
    ),
]
