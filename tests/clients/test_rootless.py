"""Rootless: does a union work with the ids, devices, xattrs and modes of an ordinary user, and is it said what is missing?"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from tests.clients.command import NOBODY, as_ordinary_user, check_refusal, ordinary_user_place, words
from tests.clients.test_unprivileged import MOUNT, WORK, fill, in_user_namespace
from tests.support import lowers
from tests.support.mounts import REPOSITORY, Layers, Unionfs, option_string

MOUNT_FAILED = 32
COMMAND = "$PYTHON -m unionfs -o lowerdir=lower,upperdir=upper,workdir=work mnt"
BACK = """
fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work mnt
look > fuse-overlayfs.txt
umount mnt
diff unionfs.txt fuse-overlayfs.txt
"""
LOOK = """
look() { (cd mnt && find . -printf '%p %y %m %s %l\\n' | sort && cat file directory/moved); }
"""
"""Shell: all that shows in the mount, but for the link counts of directories."""


@pytest.fixture
def base(layers: Layers) -> Path:
    """A directory with a lower layer for WORK, an upper and a work directory."""
    base = layers.lowers[0].parent
    (base / "lower0").rename(base / "lower")
    fill(base)
    lowers.watch([base / "lower"], layers.work)
    return base


def give(place: Path) -> None:
    """All of it belongs to the ordinary user."""
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


WITH_SUBIDS = """
mkdir "$place/dev/upper" "$place/dev/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$place/dev/upper,workdir=$place/dev/work" overlay /etc
for file in /etc/subuid /etc/subgid; do echo nobody:200000:65536 > $file; done
"""
"""Shell, as root: subordinate ids for the user, in the /etc of this mount namespace alone."""

IDS = f"""
unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child --mount-proc sh -euc '
cd "$1"
{COMMAND.replace("unionfs -o", "unionfs -v -o")}
chown 5:7 mnt/file
mkdir mnt/home; chown 1000:1000 mnt/home
setpriv --reuid=1000 --regid=1000 --clear-groups touch mnt/home/own
if setpriv --reuid=1000 --regid=1000 --clear-groups touch mnt/refused 2>/dev/null; then exit 1; fi
stat -c "%n %u:%g" mnt/file mnt/home/own mnt/gone
rm mnt/gone
umount mnt' sh "$PWD"
"""


def test_subordinate_ids() -> None:
    """With /etc/subuid, by newuidmap(1): files belong to whom they are given, and on disk to the user's subordinate ids."""
    with ordinary_user_place() as place:
        fill(place)
        give(place)
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, IDS, WITH_SUBIDS)
        assert done.returncode == 0, done.stderr
        status, *owners = done.stdout.splitlines()
        assert status.startswith("passthrough: off (needs CAP_SYS_ADMIN in the initial user namespace); userxattr, since")
        assert "single" not in status
        assert owners == ["mnt/file 5:7", "mnt/home/own 1000:1000", "mnt/gone 0:0"]
        found = {name: os.lstat(place / "upper" / name) for name in ("file", "home/own", "gone")}
        owned = {name: (found[name].st_uid, found[name].st_gid) for name in ("file", "home/own")}
        assert owned == {"file": (200004, 200006), "home/own": (200999, 200999)}
        assert stat.S_ISCHR(found["gone"].st_mode)


def test_a_single_id(base: Path) -> None:
    """Files can't be given away, which is said beforehand; what belongs to others isn't copied up (EOVERFLOW, as overlayfs)."""
    (base / "lower" / "others" / "own").mkdir(parents=True)
    os.chown(base / "lower" / "others", 5, 5)
    lowers.forget(base)
    lowers.watch([base / "lower"], base / "work")
    script = """
    if chown 5 mnt/file 2>/dev/null; then exit 1; fi
    if touch mnt/others/own/new 2>message; then exit 1; fi
    grep -q 'Value too large' message
    umount mnt
    """
    done = in_user_namespace(MOUNT.replace("unionfs -o", "unionfs -v -o") + script, str(base), "userxattr")
    assert done.returncode == 0, done.stderr
    assert "a single user id" in done.stdout
    assert "/etc/subuid" in done.stdout


def test_devices_that_can_not_be_made(base: Path) -> None:
    """Whiteouts are `.wh.` files then, which fuse-overlayfs reads as well."""
    script = LOOK + f"$PYTHON -m tests.support.without_mknod {COMMAND}" + WORK + "look > unionfs.txt\numount mnt" + BACK
    done = in_user_namespace('cd "$1"' + script, str(base))
    assert done.returncode == 0, done.stderr
    assert (base / "upper" / ".wh.gone").is_file()
    assert not any(stat.S_ISCHR(path.lstat().st_mode) for path in base.rglob("*"))


OURS_FIRST = COMMAND + " 2> warning" + WORK + """
mv mnt/old mnt/other && rmdir mnt/other
mkdir mnt/other mnt/old
rm mnt/directory/big mnt/directory/moved
echo > mnt/directory/moved
look > unionfs.txt
umount mnt
"""  # fmt: skip

THEIRS_FIRST = "fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work mnt" + WORK + """
look > fuse-overlayfs.txt
umount mnt
$PYTHON -m unionfs -o lowerdir=lower,upperdir=upper,workdir=work mnt 2> warning
look > unionfs.txt
umount mnt
diff fuse-overlayfs.txt unionfs.txt
"""  # fmt: skip


@pytest.mark.parametrize("devices", [True, False], ids=["devices", "no devices"])
@pytest.mark.parametrize("first", ["unionfs", "fuse-overlayfs"])
def test_an_upper_filesystem_without_xattrs(devices: bool, first: str, base: Path) -> None:
    """Opaque directories are marked by files then, and both programs read what the other wrote."""
    bare = """
    cd "$1"; mount -t ramfs ramfs bare
    mkdir bare/upper bare/work; ln -s bare/upper upper; ln -s bare/work work
    """
    run = ("" if devices else "exec $PYTHON -m tests.support.without_mknod ") + 'sh -euc "$2"'
    for name in ("upper", "work"):
        (base / name).rmdir()
    (base / "bare").mkdir()
    done = in_user_namespace(bare + run, str(base), LOOK + (OURS_FIRST + BACK if first == "unionfs" else THEIRS_FIRST))
    assert done.returncode == 0, done.stderr
    warning = (base / "warning").read_text()
    assert warning.startswith("unionfs: upperdir: the filesystem of ")
    assert "no xattrs user.overlay.*" in warning


ACLS = """
cd "$1"; mount -t ramfs ramfs bare
mkdir bare/upper bare/work
$PYTHON -m unionfs -o $2,lowerdir=lower,upperdir=bare/upper,workdir=bare/work mnt 2> /dev/null
echo more >> mnt/new
if echo more >> mnt/listed; then ls -l mnt/listed > shown; fi
umount mnt
"""


@pytest.mark.parametrize(
    ("noacl", "user", "said"),
    [(True, 0, ""), (True, 7, ""), (False, 0, "Operation not supported"), (False, 7, "Value too large")],
)
def test_acls_that_the_upper_filesystem_refuses(noacl: bool, user: int, said: str, base: Path) -> None:
    """Without its ACL a file might be open to more than before, so it is not copied up; unless ACLs mean nothing here."""
    (base / "bare").mkdir()
    (base / "lower" / "listed").write_bytes(b"below\n")
    subprocess.run(["setfacl", "-m", f"u:{user}:rw", base / "lower" / "listed"], check=True)
    lowers.forget(base)
    lowers.watch([base / "lower"], base / "work")
    done = in_user_namespace(ACLS, str(base), "noacl" if noacl else "userxattr")
    assert done.returncode == 0, done.stderr
    if noacl:
        assert (base / "shown").read_text().split()[4] == "11"
    assert said in done.stderr


MODES = f"""
{COMMAND}
chmod 644 mnt/sealed
echo more >> mnt/sealed
chmod u+w mnt/modules/one
test "$(stat -c %a mnt/modules)" = 555
chmod -R u+w mnt/modules
echo more >> mnt/modules/one
rm -r mnt/old
mkdir -m 555 mnt/old
test -z "$(ls -A mnt/old)"
mv mnt/modules/one mnt/two
$PYTHON -c 'import os; os.umask(0); os.rmdir("mnt/old"); os.mkdir("mnt/old", 0o555)'
fusermount3 -u mnt
"""


def test_modes_that_deny_the_owner() -> None:
    """What nobody may write has to be marked all the same, and its own xattrs copied."""
    with ordinary_user_place() as place:
        fill(place)
        lower = place / "lower"
        (lower / "sealed").write_bytes(b"sealed\n")
        (lower / "modules").mkdir()
        (lower / "modules" / "one").write_bytes(b"one\n")
        os.setxattr(lower / "sealed", "user.name", b"value")
        os.setxattr(lower / "modules", "user.name", b"value")
        for name, mode in (("sealed", 0o444), ("modules/one", 0o444), ("modules", 0o555)):
            (lower / name).chmod(mode)
        give(place)
        with lowers.untouched([lower], None):
            done = as_ordinary_user(place, MODES)
        assert done.returncode == 0, done.stderr
        upper = place / "upper"
        assert (upper / "sealed").read_bytes() == b"sealed\nmore\n"
        assert (upper / "two").read_bytes() == b"one\nmore\n"
        assert stat.S_IMODE((upper / "old").stat().st_mode) == 0o555
        assert os.getxattr(upper / "old", "user.overlay.opaque") == b"y"
        for name in ("sealed", "modules"):
            assert os.getxattr(upper / name, "user.name") == b"value"
            assert os.getxattr(upper / name, "user.overlay.origin")


OTHERS = """
$PYTHON -m unionfs -o allow_other,lowerdir=lower,upperdir=upper,workdir=work mnt
ls mnt > /dev/null
echo mounted
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_allow_other(allowed: bool) -> None:
    """An ordinary user needs the administrator's leave for it, in /etc/fuse.conf."""
    first = f"""
    echo '{"user_allow_other" if allowed else "# nothing"}' > "$place/fuse.conf"
    mount --bind "$place/fuse.conf" /etc/fuse.conf
    (until grep -q " $place/mnt fuse.unionfs" /proc/self/mounts; do sleep 0.05; done
    cat "$place/mnt/file" > "$place/seen") &
    """
    wait = "until test -s seen; do sleep 0.05; done; fusermount3 -u mnt" if allowed else ""
    with ordinary_user_place() as place:
        fill(place)
        give(place)
        (place / "seen").touch()
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, OTHERS + wait, first)
        if allowed:
            assert (done.returncode, done.stdout, done.stderr) == (0, "mounted\n", "")
            assert (place / "seen").read_text() == "below\n"
        else:
            check_refusal(done, MOUNT_FAILED, "allow_other", "user_allow_other", "/etc/fuse.conf")


@pytest.mark.parametrize(
    ("script", "first", "status", "named"),
    [
        (f"PATH=/nowhere {COMMAND}", "", MOUNT_FAILED, ("fusermount3", "fuse3")),
        (f"{COMMAND} -o nosymfollow", "", MOUNT_FAILED, ("fusermount3", "nosymfollow")),
        (f"setpriv --no-new-privs {COMMAND}", "", MOUNT_FAILED, ("no_new_privs", "unshare")),
        (f"unshare --user --map-root-user {COMMAND}", "", MOUNT_FAILED, ("mnt", "mount namespace", "--mount")),
        (COMMAND, 'chmod 600 "$place/dev/fuse"', 2, ("/dev/fuse", "chmod 666")),
        (COMMAND, 'mount --bind /bin/true "$(command -v fusermount3)"', MOUNT_FAILED, ("no descriptor",)),
        (COMMAND, 'mount --bind /bin/false "$(command -v fusermount3)"', MOUNT_FAILED, ("chmod u+s",)),
    ],
    ids=[
        "no helper", "a flag it does not know", "no new privileges", "foreign mount namespace", "closed device", "idle helper",
        "helper without privilege",
    ],
)  # fmt: skip
def test_the_one_thing_that_is_missing(script: str, first: str, status: int, named: tuple[str, ...]) -> None:
    with ordinary_user_place() as place:
        fill(place)
        give(place)
        done = as_ordinary_user(place, script, first)
        check_refusal(done, status, *named)
        assert os.listdir(place / "upper") == []


def test_root_that_may_not_mount(layers: Layers) -> None:
    """As in a container by default."""
    command = words("-o", option_string(layers, {}), layers.mnt)
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", *command], env=Unionfs().environment(),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    check_refusal(done, MOUNT_FAILED, "CAP_SYS_ADMIN", "--cap-add SYS_ADMIN", "/dev/fuse")


ALL_IDS = """
mkfifo gate
unshare --user --mount sh -c 'read go < gate; exec "$@"' sh "$@" & inner=$!
until test "$(readlink /proc/$inner/ns/user)" != "$(readlink /proc/self/ns/user)"; do sleep 0.01; done
for kind in uid gid; do echo 0 0 4294967295 > /proc/$inner/${kind}_map; done
echo go > gate
wait $inner
"""


def test_another_namespace_with_all_ids(layers: Layers) -> None:
    """It is not the initial one, though the ids are the same: `trusted.` xattrs are not for its root."""
    use = 'mnt=$1; shift; "$@"; mkdir "$mnt/new"; rmdir "$mnt/new"; umount "$mnt"'
    command = words("-v", "-o", option_string(layers, {}), layers.mnt)
    done = subprocess.run(
        ["sh", "-euc", ALL_IDS, "sh", "sh", "-euc", use, "sh", os.fspath(layers.mnt), *command], cwd=layers.mnt.parent,
        env=Unionfs().environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "userxattr" in done.stdout


AWAY_FROM_TMP = """
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/place
mount --rbind "$place" /srv/place
export PYTHONPATH="/srv/place/source:/srv/place/packages" LD_LIBRARY_PATH=/srv/place/python/lib HOME=/srv/place/lower
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
printf '#!/bin/sh\\nexec %s -m unionfs "$@"\\n' "/srv/place/python/${PYTHON#"$place"/python/}" > /usr/local/bin/unionfs
chmod 755 /usr/local/bin/unionfs
export PATH="/usr/local/bin:$PATH"
place=/srv/place
"""


def test_the_example_of_the_manual() -> None:
    """What is changed is thrown away when the shell ends, and so is the server."""
    page = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=120n", REPOSITORY / "man" / "unionfs.8"], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    example = re.search(r"^ *(unshare --user .*?&& exec bash')$", page, re.DOTALL | re.MULTILINE)
    assert example is not None
    script = """
    echo 'cat file; echo more >> file; cat file; id -u' | sh ./example
    pgrep -a -f -- '^[^ ]*python[^ ]* -m unionfs' || echo ended
    """
    with ordinary_user_place() as place:
        fill(place)
        (place / "example").write_text(f"{example[1]}\n")
        give(place)
        with lowers.untouched([place / "lower"], None):
            done = as_ordinary_user(place, script, AWAY_FROM_TMP)
        assert (done.returncode, done.stdout) == (0, "below\nbelow\nmore\n0\nended\n"), done.stderr
