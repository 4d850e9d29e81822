"""Metadata-only files in use: are their data still served from the lower layer, and do users notice when they move?"""

from __future__ import annotations

import mmap
import os
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import as_ordinary_user, in_foreground, ordinary_user_place, unionfs
from tests.clients.request_log import RequestLog
from tests.clients.test_page_cache_sharing import drop, maps, resident, smaps
from tests.conftest import LayersFactory
from tests.support import lowers
from tests.support.mounts import Kernel, Layers, Unionfs, escape, unmount

MEGABYTE = 1 << 20
ON = {"metacopy": "on"}
MARK = "trusted.overlay.metacopy"
MODES = {"auto": {}, "off": {"passthrough": "off"}, "cached": {"lower_io": "cached"}, "straight": {"lower_io": "passthrough"}}


def is_marked(layers: Layers, name: str) -> bool:
    return MARK in os.listxattr(layers.top / name)


def test_programs_still_share_the_lower_files_memory(layers: Layers) -> None:
    size = 4 * MEGABYTE
    lib = layers.lowers[0] / "lib.so"
    lib.write_bytes(b"\x7fELF" + os.urandom(size - 4))
    with ExitStack() as stack:
        mnt = stack.enter_context(Unionfs().mount(layers, ON))
        before = maps(stack, mnt / "lib.so")
        os.chown(mnt / "lib.so", 5, 6)
        drop(lib)
        after = maps(stack, mnt / "lib.so")
        assert resident(lib) == size // os.sysconf("SC_PAGE_SIZE")
        assert is_marked(layers, "lib.so")
        assert smaps(after, "lib.so")["Pss"] == size // 2
        with open(mnt / "lib.so", "r+b") as file:
            file.write(b"changed")
        assert not is_marked(layers, "lib.so")
        latest = maps(stack, mnt / "lib.so")
        assert [smaps(pid, "lib.so")["Pss"] for pid in (before, after, latest)] == [size // 2, size // 2, size]


def test_reading_makes_no_more_requests_than_of_a_lower_file(layers: Layers, scratch: Path) -> None:
    log = RequestLog(scratch / "requests.log")
    log.path.touch()
    for name in ("small", "plain"):
        (layers.lowers[0] / name).write_bytes(os.urandom(1000))
    with in_foreground(layers, ON, ("-f", "-d"), log.path):
        os.chmod(layers.mnt / "small", 0o600)
        counts = []
        for name in ("plain", "small"):
            log.skip()
            for _ in range(3):
                assert (layers.mnt / name).read_bytes() == (layers.lowers[0] / name).read_bytes()
            counts.append(log.count())
        assert counts[1]["READ"] == 0
        assert counts[1]["OPEN"] == counts[0]["OPEN"]
    assert is_marked(layers, "small")


def test_chown_of_a_tree_copies_no_data(layers: Layers) -> None:
    for number in range(20):
        (layers.lowers[0] / f"f{number}").write_bytes(os.urandom(MEGABYTE))
    with Unionfs().mount(layers, ON) as mnt:
        subprocess.run(["chown", "-R", "7:8", mnt], check=True)
        assert all((layers.top / f"f{number}").stat().st_blocks < 16 for number in range(20))
        for number in range(20):
            assert (mnt / f"f{number}").read_bytes() == (layers.lowers[0] / f"f{number}").read_bytes()
            assert (mnt / f"f{number}").stat().st_uid == 7
            assert (mnt / f"f{number}").stat().st_blocks >= MEGABYTE // 512


@pytest.mark.parametrize("size", [3000, MEGABYTE], ids=["small", "large"])
@pytest.mark.parametrize("name", ["data", "program.so"])
@pytest.mark.parametrize("mode", MODES)
def test_readers_live_on_while_the_data_move(mode: str, name: str, size: int, layers: Layers) -> None:
    """One reader from before the metadata changed, one from between, and a mapping: then comes a writer."""
    old, new = os.urandom(size), os.urandom(size)
    (layers.lowers[0] / name).write_bytes(old)
    with Unionfs().mount(layers, {**ON, **MODES[mode]}) as mnt, ExitStack() as stack:
        first = stack.enter_context(open(mnt / name, "rb", buffering=0))
        mapped = stack.enter_context(mmap.mmap(first.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
        assert mapped[:] == old
        os.fchmod(first.fileno(), 0o755)
        second = stack.enter_context(open(mnt / name, "rb", buffering=0))
        os.rename(mnt / name, mnt / f"{name}.so")
        for reader in (first, second):
            assert os.pread(reader.fileno(), size, 0) == old
        assert is_marked(layers, f"{name}.so")
        with open(mnt / f"{name}.so", "r+b", buffering=0) as writer:
            assert not is_marked(layers, f"{name}.so")
            assert writer.write(new) == size
            if mode != "straight":
                for reader in (first, second):
                    assert os.pread(reader.fileno(), size, 0) == new
            os.ftruncate(writer.fileno(), 10)
            assert os.fstat(second.fileno()).st_size == 10
        assert (mnt / f"{name}.so").read_bytes() == new[:10]
        assert (mnt / f"{name}.so").stat().st_mode & 0o777 == 0o755
    assert (layers.top / f"{name}.so").read_bytes() == new[:10]


def test_a_running_program_is_chowned_and_replaced(layers: Layers) -> None:
    subprocess.run(["cp", "-L", "/bin/sleep", str(layers.lowers[0] / "sleep")], check=True)
    with Unionfs().mount(layers, ON) as mnt:
        running = subprocess.Popen([str(mnt / "sleep"), "1"])
        os.chmod(mnt / "sleep", 0o700)
        assert subprocess.run([str(mnt / "sleep"), "0"], check=False).returncode == 0
        data = (mnt / "sleep").read_bytes()
        (mnt / "new").write_bytes(data)
        (mnt / "new").chmod(0o755)
        (mnt / "new").rename(mnt / "sleep")
        assert subprocess.run([str(mnt / "sleep"), "0"], check=False).returncode == 0
        assert running.wait(20) == 0


def test_metadata_change_while_a_large_file_comes_up(layers: Layers) -> None:
    """Whoever changes owner, name or attributes during the copy waits for it, and what he set stays."""
    data = os.urandom(64 * MEGABYTE)
    (layers.lowers[0] / "large").write_bytes(data)
    with Unionfs().mount(layers, ON) as mnt:
        os.chmod(mnt / "large", 0o640)
        start = threading.Barrier(2)

        def write() -> None:
            start.wait()
            with open(mnt / "large", "r+b", buffering=0) as file:
                file.write(b"new")

        writer = threading.Thread(target=write)
        writer.start()
        start.wait()
        for number in range(200):
            os.utime(mnt / "large", ns=(number, 10**18 + number))
            os.setxattr(mnt / "large", "user.number", b"%d" % number)
        os.rename(mnt / "large", mnt / "moved")
        writer.join()
        assert os.getxattr(mnt / "moved", "user.number") == b"199"
        assert (mnt / "moved").read_bytes() == b"new" + data[3:]
        assert (mnt / "moved").stat().st_mode & 0o777 == 0o640
    assert (layers.top / "moved").read_bytes() == b"new" + data[3:]


def test_an_upper_layer_full_of_them_goes_to_the_kernel_and_back(make_layers: LayersFactory) -> None:
    """Each changes what the other left, several times over one upper layer."""
    layers = make_layers()
    for number in range(12):
        (layers.lowers[0] / f"f{number}").write_bytes(b"%d " % number * 1000)
    expected = {f"f{number}": b"%d " % number * 1000 for number in range(12)}
    names = [f"f{number}" for number in range(12)]
    for turn in range(4):
        with (Kernel() if turn % 2 else Unionfs()).mount(layers, ON) as mnt:
            for place, name in enumerate(list(names)):
                assert (mnt / name).read_bytes() == expected[name]
                match (place + turn) % 4:
                    case 0:
                        os.chown(mnt / name, turn, place)
                    case 1:
                        os.rename(mnt / name, mnt / f"{name}x")
                        expected[f"{name}x"] = expected.pop(name)
                        names[place] = f"{name}x"
                    case 2:
                        with open(mnt / name, "ab") as file:
                            file.write(b"!")
                        expected[name] += b"!"
                    case 3:
                        os.makedirs(mnt / f"d{turn}", exist_ok=True)
                        os.rename(mnt / name, mnt / f"d{turn}" / name.replace("/", "-"))
                        moved = f"d{turn}/{name.replace('/', '-')}"
                        expected[moved] = expected.pop(name)
                        names[place] = moved


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("metacopy=on,redirect_dir=off", "redirect_dir"),
        ("metacopy=on,redirect_dir=follow", "redirect_dir"),
        ("redirect_dir=nofollow,metacopy=on", "redirect_dir"),
        ("userxattr,metacopy=on", "userxattr"),
        ("nfs_export=on,metacopy=on", "nfs_export=on"),
        ("metacopy=maybe", "off|on"),
        ("verity=maybe", "off|on|require"),
    ],
)
def test_contradictions(options: str, named: str, layers: Layers) -> None:
    lowers.watch(layers.lowers, layers.work)
    where = f"lowerdir={layers.lowers[0]},upperdir={layers.upper},workdir={layers.work}"
    done = unionfs("-o", f"{where},{options}", layers.mnt)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert named in done.stderr


def test_following_without_an_upper_layer(layers: Layers) -> None:
    read_only = replace(layers, upper=None, work=None)
    with Unionfs().mount(read_only, {"metacopy": "on", "redirect_dir": "follow"}) as mnt:
        assert os.listdir(mnt) == []


@pytest.mark.parametrize("options", ["metacopy=on", "verity=on", "datadir+=data"])
def test_an_ordinary_user_is_told_what_it_takes(options: str) -> None:
    with ordinary_user_place() as place:
        for name in ("lower", "data", "upper", "work", "mnt"):
            (place / name).mkdir()
            os.chown(place / name, 65534, 65534)
        done = as_ordinary_user(
            place, f"$PYTHON -m unionfs -o lowerdir+=lower,{options},upperdir=upper,workdir=work mnt || echo status $?"
        )
    assert done.stdout == "status 32\n"
    assert "CAP_SYS_ADMIN" in done.stderr
    assert done.stderr.count("\n") == 1


def test_data_only_layers_one_by_one(make_layers: LayersFactory) -> None:
    layers = make_layers(2)
    lower, first = layers.lowers
    odd = layers.mnt.parent / "sec:ond"
    odd.mkdir()
    (first / "store").mkdir()
    (first / "store/a").write_bytes(b"data of a")
    (odd / "b").write_bytes(b"data of b")
    for name, path in (("a", b"/store/a"), ("b", b"/b"), ("c", b"/missing")):
        (lower / name).touch()
        os.truncate(lower / name, 9)
        os.setxattr(lower / name, MARK, b"")
        os.setxattr(lower / name, "trusted.overlay.redirect", path)
    lowers.watch((lower, first, odd), layers.work)
    options = f"lowerdir+={lower},datadir+={first},datadir+={odd},upperdir={escape(layers.top)},workdir={layers.work}"
    done = unionfs("-o", options, layers.mnt)
    assert (done.returncode, done.stderr) == (0, "")
    try:
        assert (layers.mnt / "a").read_bytes() == b"data of a"
        assert (layers.mnt / "b").read_bytes() == b"data of b"
        assert sorted(os.listdir(layers.mnt)) == ["a", "b", "c"]
        assert (layers.mnt / "c").stat().st_size == 9
        with pytest.raises(FileNotFoundError):
            (layers.mnt / "c").read_bytes()
        with open(layers.mnt / "b", "ab") as file:
            file.write(b"!")
        assert (layers.mnt / "b").read_bytes() == b"data of b!"
    finally:
        unmount(layers.mnt)
    lowers.check((lower, first, odd))


def test_a_missing_data_only_layer_is_named(layers: Layers) -> None:
    done = unionfs("-o", f"lowerdir={layers.lowers[0]}::{layers.mnt}/gone", layers.mnt)
    assert done.returncode == 32
    assert "datadir+" in done.stderr
    assert "gone" in done.stderr
