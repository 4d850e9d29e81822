"""Bad input: is every mistake answered with one line and the right status, nothing mounted, no layer changed?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import as_ordinary_user, check_refusal, ordinary_user_place, unionfs, words
from tests.support import lowers
from tests.support.mounts import Kernel, Layers, Unionfs, is_mounted, option_string, servers_of, unmount
from tests.support.trees import diff, snapshot

USAGE = 1
SYSTEM = 2
MOUNT_FAILED = 32


@pytest.fixture
def filled(layers: Layers) -> Layers:
    """A union with something in its lower and its upper layer."""
    (layers.lowers[0] / "file").write_bytes(b"below\n")
    (layers.top / "upper file").write_bytes(b"above\n")
    return layers


def options_of(layers: Layers) -> dict[str, str]:
    """The layer options as a dictionary, for a test to spoil."""
    return {"lowerdir": str(layers.lowers[0]), "upperdir": str(layers.top), "workdir": str(layers.work)}


def refused(
    layers: Layers, options: dict[str, str], status: int, *named: str | Path, leave_out: Sequence[str] = ()
) -> None:
    """Mounts with these options, which must be refused as `check_refusal` says, with nothing mounted or changed.

    `leave_out` are fields of trees.Record that may change all the same.
    """
    base = layers.mnt.parent
    left_out = ("ctime_ns", "holes", *leave_out)
    before = snapshot(base, left_out)
    lowers.watch(layers.lowers, layers.work)
    done = unionfs("-o", ",".join(f"{name}={value}" if value else name for name, value in options.items()), layers.mnt)
    assert not is_mounted(layers.mnt)
    check_refusal(done, status, *named)
    assert servers_of(layers.mnt) == []
    assert diff(before, snapshot(base, left_out), ("before", "after")) == []


@pytest.mark.parametrize("option", ["lowerdir", "upperdir", "workdir"])
@pytest.mark.parametrize("what", ["missing", "a file", "a symlink to nowhere"])
def test_a_layer_that_is_no_directory(option: str, what: str, filled: Layers) -> None:
    wrong = filled.mnt.parent / "wrong"
    if what == "a file":
        wrong.write_bytes(b"")
    elif what != "missing":
        wrong.symlink_to("nowhere")
    refused(filled, {**options_of(filled), option: str(wrong)}, MOUNT_FAILED, option, wrong)


def test_one_of_several_lower_layers_is_missing(filled: Layers) -> None:
    wrong = filled.mnt.parent / "wrong"
    both = f"{filled.lowers[0]}:{wrong}"
    refused(filled, {**options_of(filled), "lowerdir": both}, MOUNT_FAILED, "lowerdir", wrong)


def test_unreadable_layer() -> None:
    script = """
    mkdir lower upper work mnt; echo text > lower/file; chmod 0 lower
    $PYTHON -m unionfs -o userxattr,lowerdir=lower,upperdir=upper,workdir=work mnt
    """
    with ordinary_user_place() as place:
        done = as_ordinary_user(place, script)
        check_refusal(done, MOUNT_FAILED, "lowerdir", place / "lower", "ermission")
        assert os.listdir(place / "upper") == os.listdir(place / "work") == []


def test_upper_without_work(filled: Layers) -> None:
    options = options_of(filled)
    del options["workdir"]
    refused(filled, options, USAGE, "upperdir", "workdir")


def test_work_without_upper_is_a_warning(filled: Layers) -> None:
    options = replace(filled, upper=None, work=None)
    before = snapshot(filled.work or Path())
    done = unionfs("-o", f"{option_string(options, {})},workdir={filled.work}", filled.mnt)
    try:
        assert is_mounted(filled.mnt)
        check_refusal(done, 0, "warning", "workdir")
        assert os.statvfs(filled.mnt).f_flag & os.ST_RDONLY
    finally:
        unmount(filled.mnt)
    assert diff(before, snapshot(filled.work or Path())) == []


def test_work_with_foreign_content(filled: Layers) -> None:
    assert filled.work is not None
    (filled.work / "precious").write_bytes(b"somebody's")
    refused(filled, options_of(filled), MOUNT_FAILED, "workdir", filled.work)


def test_work_left_by_a_crashed_volatile_mount(filled: Layers) -> None:
    """Anything below work/incompat forbids the mount (overlayfs.rst, "Volatile mount")."""
    assert filled.work is not None
    (filled.work / "work" / "incompat" / "volatile" / "dirty").mkdir(parents=True)
    refused(filled, options_of(filled), MOUNT_FAILED, filled.work, "volatile")


def test_upper_and_work_on_different_filesystems(filled: Layers, disks: Callable[[str], Path]) -> None:
    other = disks("tmpfs") / f"work-{os.getpid()}"
    other.mkdir(exist_ok=True)
    refused(filled, {**options_of(filled), "workdir": str(other)}, MOUNT_FAILED, "workdir", other, "filesystem")
    assert os.listdir(other) == []


def test_upper_and_work_on_different_mounts(filled: Layers) -> None:
    assert filled.work is not None
    with bind(filled.work, filled.work):
        refused(filled, options_of(filled), MOUNT_FAILED, "workdir", filled.work, "mount")


def test_upper_on_a_read_only_mount(filled: Layers) -> None:
    base = filled.mnt.parent
    view = base.parent / "view"
    view.mkdir()
    with bind(base, view, "remount,bind,ro"):
        options = {**options_of(filled), "upperdir": str(view / "upper"), "workdir": str(view / "work")}
        refused(filled, options, MOUNT_FAILED, "upperdir", view / "upper", "read-only")


@contextmanager
def bind(source: Path, target: Path, then: str | None = None) -> Iterator[None]:
    """`source` bound on `target` during the block; `then` are mount options to remount it with."""
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        if then:
            subprocess.run(["mount", "-o", then, str(target)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize(
    ("upper", "work", "lower"),
    [
        ("a", "work", "a"),
        ("a/inside", "work", "a"),
        ("a", "work", "a/inside"),
        ("upper", "a", "a"),
        ("upper", "a/inside", "a"),
        ("a", "a", "lower0"),
        ("a", "a/inside", "lower0"),
        ("a/inside", "a", "lower0"),
        ("a/../a", "work", "./a"),
        ("link", "work", "a"),
    ],
)
def test_overlapping_directories(upper: str, work: str, lower: str, filled: Layers) -> None:
    base = filled.mnt.parent
    (base / "a" / "inside").mkdir(parents=True)
    (base / "link").symlink_to("a")
    paths = {"lowerdir": base / lower, "upperdir": base / upper, "workdir": base / work}
    refused(filled, {option: str(path) for option, path in paths.items()}, MOUNT_FAILED, base)


@pytest.mark.parametrize("shared", ["upperdir", "workdir"])
@pytest.mark.parametrize("holder", [Unionfs(), Kernel()], ids=["unionfs", "overlay"])
def test_a_directory_in_use_by_another_mount(shared: str, holder: Unionfs | Kernel, filled: Layers) -> None:
    base = filled.mnt.parent
    second = {"upperdir": base / "upper2", "workdir": base / "work2"}
    for path in (*second.values(), base / "mnt2"):
        path.mkdir()
    with holder.mount(filled):
        options = {**options_of(filled), **{name: str(path) for name, path in second.items() if name != shared}}
        done = unionfs("-o", ",".join(f"{name}={value}" for name, value in options.items()), base / "mnt2")
        assert not is_mounted(base / "mnt2")
        # Who holds it: the other mount point is in the overlay's name or in the command line of the server.
        check_refusal(done, MOUNT_FAILED, shared, options[shared], "in use", filled.mnt)
        (filled.mnt / "still").write_bytes(b"works")
        assert sorted(os.listdir(filled.mnt)) == ["file", "still", "upper file"]
    with Unionfs().mount(filled):
        assert (filled.mnt / "upper file").read_bytes() == b"above\n"


def test_mount_point_missing_or_no_directory(filled: Layers) -> None:
    for name, what in (("missing", "does not exist"), ("file", "not a directory")):
        point = filled.mnt.parent / name
        if name == "file":
            point.write_bytes(b"")
        before = snapshot(filled.mnt.parent)
        check_refusal(unionfs("-o", option_string(filled, {}), point), MOUNT_FAILED, point, what)
        assert diff(before, snapshot(filled.mnt.parent)) == []


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("lowrdir=/x", "lowerdir"),
        ("volatil", "volatile"),
        ("passthru=on", "passthrough"),
        ("xino=maybe", "auto"),
        ("max_stack_depth=7", "2"),
        ("timeout=soon", "timeout"),
        ("volatile=1", "volatile"),
        ("upperdir", "upperdir"),
    ],
)
def test_unknown_options_and_values(option: str, named: str, filled: Layers) -> None:
    name, _, value = option.partition("=")
    refused(filled, {**options_of(filled), name: value}, USAGE, name, named)


def test_a_draft_of_the_kernel_that_it_does_not_offer(filled: Layers) -> None:
    """Inode passthrough: no released kernel has it, and later ones gave its flag another meaning."""
    done = unionfs("-o", option_string(filled, {"inode_passthrough": "draft"}), filled.mnt)
    check_refusal(done, MOUNT_FAILED, "inode_passthrough=draft", "does not offer")
    assert not is_mounted(filled.mnt)
    assert servers_of(filled.mnt) == []


@pytest.mark.parametrize("paths", ["{}:", ":{}", "{}::{}:", "{}:::{}", "", "{}\\"])
def test_malformed_path_lists(paths: str, filled: Layers) -> None:
    value = paths.replace("{}", str(filled.lowers[0]))
    done = unionfs("-o", f"lowerdir={value}", filled.mnt)
    check_refusal(done, USAGE, "lowerdir")
    assert not is_mounted(filled.mnt)


def test_no_arguments_and_no_layers(filled: Layers) -> None:
    check_refusal(unionfs(), USAGE)
    check_refusal(unionfs(filled.mnt), USAGE, "lowerdir")
    check_refusal(unionfs("a", "b", "c"), USAGE)
    assert not is_mounted(filled.mnt)


def test_filesystem_without_xattrs(filled: Layers) -> None:
    """ramfs has none; the upper needs them for opaque directories, renames, copies of metadata and hard links."""
    bare = filled.mnt.parent / "bare"
    bare.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(bare)], check=True)
    try:
        for name in ("upper", "work"):
            (bare / name).mkdir()
        options = {**options_of(filled), "upperdir": str(bare / "upper"), "workdir": str(bare / "work")}
        # What is tried in the work directory is taken away again, which its times show.
        refused(filled, options, MOUNT_FAILED, "upperdir", bare / "upper", "xattr", leave_out=["mtime_ns"])
    finally:
        subprocess.run(["umount", str(bare)], check=True)


@pytest.mark.parametrize(
    ("hidden", "named"),
    [("mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3", "/dev/fuse"), ("mount -t tmpfs tmpfs /proc", "mount -t proc")],
)
def test_no_fuse_device_or_no_proc(hidden: str, named: str, filled: Layers) -> None:
    hidden += ' && exec "$@"'
    isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hidden, "sh"]
    done = subprocess.run(
        [*isolated, *words("-o", option_string(filled, {}), filled.mnt)], env=Unionfs().environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    check_refusal(done, SYSTEM, named)
