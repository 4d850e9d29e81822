"""Which `-o` options are there?  One line each; the help text is made from this table and the manual page follows
it."""

from __future__ import annotations

import difflib
import os

from unionfs.cli.messages import CommandError
from unionfs.cli.option import (
    LABELS,
    Arity,
    Option,
    Section,
    bits,
    choice,
    directory,
    fixed,
    identity,
    label,
    mapping,
    nothing,
    seconds,
    split_data_only,
    split_options,
    to_path,
    unescape,
)
from unionfs.cli.settings import Settings
from unionfs.linux.mount import (
    MS_DIRSYNC,
    MS_LAZYTIME,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)
from unionfs.overlay.config import Fsync, RedirectDir, Uuid, Verity, XattrPermissions, Xino
from unionfs.serve.config import Binding, CpuIdle, InodePassthrough, LowerIo, Passthrough

_PROPAGATION = ("rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable")
_ATIME_KINDS = MS_NOATIME | MS_RELATIME | MS_STRICTATIME


def _replace_lowers(settings: Settings, value: str) -> None:
    """`lowerdir=`: the list given here is the whole list; what was named before is forgotten (overlayfs does the same).

    An empty value only forgets.
    """
    merged, data = split_data_only(value)
    settings.lowers = [to_path("lowerdir", part) for part in merged]
    settings.data = [to_path("lowerdir", part) for part in data]


def _append_lower(settings: Settings, value: str) -> None:
    """`lowerdir+=`: one more layer below those named so far; `:` is an ordinary character here."""
    if settings.data:
        raise CommandError(f"option lowerdir+={value}: it comes after a data-only layer; name the merged layers first")
    settings.lowers.append(to_path("lowerdir+", value))


def _append_data(settings: Settings, value: str) -> None:
    """`datadir+=`: one more data-only layer, searched after those named so far."""
    if not settings.lowers:
        raise CommandError(f"option datadir+={value}: a data-only layer needs a merged layer above it; name that first")
    settings.data.append(to_path("datadir+", value))


def _name_source(settings: Settings, value: str) -> None:
    if not value:
        raise CommandError("option fsname= is empty: name what to show as the source, or leave it out")
    settings.source = os.fsencode(unescape("fsname", value))


_LAYERS = (
    Option(
        "lowerdir",
        Section.LAYERS,
        "read-only layers, the topmost first; replaces what was named before",
        _replace_lowers,
        Arity.VALUE,
        "DIR[:DIR...][::DIR...]",
    ),
    Option(
        "lowerdir+",
        Section.LAYERS,
        "one more read-only layer, below those named before",
        _append_lower,
        Arity.VALUE,
        "DIR",
    ),
    Option(
        "datadir+",
        Section.LAYERS,
        "one more layer for data of files in the lower layers alone",
        _append_data,
        Arity.VALUE,
        "DIR",
    ),
    directory("upperdir", "the writable layer; without one the mount is read-only", "upper"),
    directory("workdir", "directory for changes in the making, on the upper layer's filesystem", "work"),
)

_UNION = (
    choice(
        "redirect_dir",
        Section.UNION,
        "how directories of lower layers are renamed",
        {"on": RedirectDir.ON, "follow": RedirectDir.FOLLOW, "nofollow": RedirectDir.NOFOLLOW, "off": RedirectDir.FOLLOW},
        field="redirect_dir",
    ),
    choice("index", Section.UNION, "index of hard links copied up", {"off": False, "on": True}, field="index"),
    choice("metacopy", Section.UNION, "copy-up of metadata alone", {"off": False, "on": True}, field="metacopy"),
    choice("nfs_export", Section.UNION, "file handles for NFS", {"off": False, "on": True}, field="nfs_export"),
    choice(
        "verity",
        Section.UNION,
        "fs-verity digests of data below",
        {"off": Verity.OFF, "on": Verity.ON, "require": Verity.REQUIRE},
        field="verity",
    ),
    choice(
        "uuid",
        Section.UNION,
        "filesystem uuids in origin handles",
        {"auto": Uuid.AUTO, "on": Uuid.ON, "null": Uuid.NULL, "off": Uuid.OFF},
        field="uuid",
    ),
    choice(
        "xino",
        Section.UNION,
        "inode numbers unique over several filesystems",
        {"off": Xino.OFF, "auto": Xino.AUTO, "on": Xino.ON},
        field="xino",
    ),
    fixed("userxattr", Section.UNION, "keep marks in user.overlay. instead of trusted.overlay.", "userxattr", True),
    fixed("volatile", Section.UNION, "same as fsync=volatile", "fsync", Fsync.VOLATILE),
    choice(
        "fsync",
        Section.UNION,
        "what is forced to disk (0: volatile, 1: auto)",
        {
            "auto": Fsync.AUTO,
            "strict": Fsync.STRICT,
            "volatile": Fsync.VOLATILE,
            "0": Fsync.VOLATILE,
            "1": Fsync.AUTO,
        },
        field="fsync",
    ),
    choice(
        "noxattrs",
        Section.UNION,
        "show and accept no extended attributes",
        {"0": False, "1": True},
        field="noxattrs",
        alone="1",
    ),
    choice(
        "xattr_permissions",
        Section.UNION,
        "owner and mode kept in an xattr (1: security., 2: user.)",
        {"0": XattrPermissions.OFF, "1": XattrPermissions.SECURITY, "2": XattrPermissions.USER},
        field="xattr_permissions",
    ),
    fixed("static_nlink", Section.UNION, "every directory has the link count 1", "static_nlink", True),
    fixed("ino32_t", Section.UNION, "inode numbers of at most 32 bits, which may coincide", "ino32", True),
)

_OWNERS = (
    mapping("uidmapping", Section.OWNERS, "user ids of the layers and those shown for them", "uid_ranges"),
    mapping("gidmapping", Section.OWNERS, "the same for group ids", "gid_ranges"),
    fixed("squash_to_root", Section.OWNERS, "show everything as root's", "squash_to_root", True),
    identity("squash_to_uid", Section.OWNERS, "show everything as this user's", "squash_uid", "UID"),
    identity("squash_to_gid", Section.OWNERS, "show everything as of this group", "squash_gid", "GID"),
)

_SESSION = (
    choice(
        "passthrough",
        Section.SESSION,
        "file I/O straight at the backing file (on: or fail)",
        {"auto": Passthrough.AUTO, "on": Passthrough.ON, "off": Passthrough.OFF},
        field="passthrough",
    ),
    choice(
        "max_stack_depth",
        Section.SESSION,
        "how deep filesystems may be stacked for passthrough",
        {"auto": None, "0": 0, "1": 1, "2": 2},
        field="max_stack_depth",
    ),
    choice(
        "lower_io",
        Section.SESSION,
        "how files of lower layers that may still be copied up are served",
        {"auto": LowerIo.AUTO, "passthrough": LowerIo.PASSTHROUGH, "cached": LowerIo.CACHED},
        field="lower_io",
    ),
    choice(
        "inode_passthrough",
        Section.SESSION,
        "stat and listing at the backing file too (a draft of the kernel's)",
        {"off": InodePassthrough.OFF, "draft": InodePassthrough.DRAFT},
        field="inode_passthrough",
    ),
    choice(
        "binding",
        Section.SESSION,
        "what speaks to the kernel (pyfuse3: slower, without passthrough)",
        {"native": Binding.NATIVE, "pyfuse3": Binding.PYFUSE3},
        field="binding",
    ),
    choice(
        "cpu_idle",
        Section.SESSION,
        "how idle CPUs wait while requests follow one another",
        {"auto": CpuIdle.AUTO, "poll": CpuIdle.POLL, "sleep": CpuIdle.SLEEP},
        field="cpu_idle",
    ),
    choice(
        "writeback",
        Section.SESSION,
        "without passthrough, collect writes until the file is closed",
        {"0": False, "1": True},
        field="writeback",
        alone="1",
    ),
    seconds("timeout", Section.SESSION, "how long names and attributes are cached", "timeout"),
    fixed("noacl", Section.SESSION, "no POSIX access control lists", "noacl", True),
    fixed("allow_other", Section.SESSION, "let other users in (always so for root)", "allow_other", True),
)

_MOUNT = (
    fixed("ro", Section.MOUNT, "refuse every change", "read_only", True),
    fixed("rw", Section.MOUNT, "allow changes (default with an upper layer)", "read_only", False),
    bits("suid", "honour set-user-ID bits and file capabilities", take=MS_NOSUID),
    bits("nosuid", "ignore set-user-ID bits and file capabilities", put=MS_NOSUID),
    bits("dev", "allow device nodes to be opened", take=MS_NODEV),
    bits("nodev", "do not open device nodes", put=MS_NODEV),
    bits("exec", "allow programs to be run", take=MS_NOEXEC),
    bits("noexec", "run no programs", put=MS_NOEXEC),
    bits("sync", "write synchronously", put=MS_SYNCHRONOUS),
    bits("async", "do not write synchronously", take=MS_SYNCHRONOUS),
    bits("dirsync", "change directories synchronously", put=MS_DIRSYNC),
    bits("atime", "take back noatime", take=MS_NOATIME),
    bits("noatime", "do not update access times", put=MS_NOATIME, take=_ATIME_KINDS),
    bits("relatime", "update access times now and then", put=MS_RELATIME, take=_ATIME_KINDS),
    bits("norelatime", "take back relatime", take=MS_RELATIME),
    bits("strictatime", "update access times always", put=MS_STRICTATIME, take=_ATIME_KINDS),
    bits("nostrictatime", "take back strictatime", take=MS_STRICTATIME),
    bits("diratime", "take back nodiratime", take=MS_NODIRATIME),
    bits("nodiratime", "do not update access times of directories", put=MS_NODIRATIME),
    bits("nosymfollow", "follow no symbolic links", put=MS_NOSYMFOLLOW),
    bits("symfollow", "follow symbolic links", take=MS_NOSYMFOLLOW),
    bits("lazytime", "keep changed times in memory for a while", put=MS_LAZYTIME),
    bits("nolazytime", "take back lazytime", take=MS_LAZYTIME),
    *(label(name) for name in LABELS),
    fixed("private", Section.MOUNT, "as for a volume: the upper layer may lie in a lower one", "nested", True),
    fixed("remount", Section.MOUNT, "change these flags of a union that is mounted already", "remount", True),
    Option("fsname", Section.MOUNT, "what to show as the mount's source", _name_source, Arity.VALUE, "NAME"),
)


#: What fuse-overlayfs can be told to do faster, one way or the other.
_SWITCHES = ("threaded", "fast_ino", "fast_ino_check")


def _passed_over() -> tuple[Option, ...]:
    alone = {
        "defaults": "the defaults",
        "auto": "for mount -a",
        "noauto": "for mount -a",
        "nofail": "for the boot",
        "_netdev": "for the boot",
        "users": "for mount(8)",
        "nouser": "for mount(8)",
        "owner": "for mount(8)",
        "group": "for mount(8)",
        "silent": "for mount(8)",
        "loud": "for mount(8)",
        "iversion": "for mount(8)",
        "noiversion": "for mount(8)",
        "mand": "for mount(8); gone from the kernel",
        "nomand": "for mount(8); gone from the kernel",
        **dict.fromkeys(_PROPAGATION, "for mount(8)"),
        "default_permissions": "always so: the kernel checks permissions",
        "nooverride_creds": "as of overlayfs; always so",
        "kernel_cache": "libfuse; what is cached is decided file by file",
        "auto_cache": "libfuse; what is cached is decided file by file",
        "noforget": "libfuse",
        "nonempty": "libfuse; always so",
        "big_writes": "libfuse; always so",
        "async_read": "libfuse; always so",
        "clone_fd": "libfuse",
        "splice_read": "libfuse",
        "splice_write": "libfuse",
        "splice_move": "libfuse",
        "no_splice_read": "libfuse",
        "no_splice_write": "libfuse",
        "no_splice_move": "libfuse",
    }
    valued = {
        "comment": ("TEXT", "for people"),
        "subtype": ("NAME", "the type is always fuse.unionfs"),
        "helper": ("NAME", "for umount(8)"),
        "uhelper": ("NAME", "for umount(8)"),
        "max_write": ("BYTES", "libfuse; always 1 MiB"),
        "max_read": ("BYTES", "libfuse; always 1 MiB"),
        "max_readahead": ("BYTES", "libfuse"),
        "max_background": ("NUMBER", "libfuse"),
    }
    either = {
        "user": ("NAME", "for mount(8)"),
        "x-*": ("TEXT", "for systemd and others"),
        "X-*": ("TEXT", "for mount(8) and others"),
    }
    section = Section.PASSED_OVER
    return (
        *(nothing(name, section, summary) for name, summary in alone.items()),
        *(nothing(name, section, summary, Arity.VALUE, shown) for name, (shown, summary) in valued.items()),
        *(nothing(name, section, summary, Arity.EITHER, shown) for name, (shown, summary) in either.items()),
        *(choice(name, section, "fuse-overlayfs", {"0": None, "1": None}, alone="1") for name in _SWITCHES),
    )


#: mount(8) repeats them for a remount, as it finds them in the table of mounts.
_SET_BY_MOUNT = (
    *(nothing(name, Section.PASSED_OVER, "set by the mount itself", Arity.VALUE, shown) for name, shown in (
        ("user_id", "UID"), ("group_id", "GID"), ("rootmode", "MODE"), ("blksize", "BYTES"),
    )),
    nothing("seclabel", Section.PASSED_OVER, "set by the mount itself"),
)  # fmt: skip

OPTIONS: tuple[Option, ...] = (*_LAYERS, *_UNION, *_OWNERS, *_SESSION, *_MOUNT, *_passed_over(), *_SET_BY_MOUNT)

UNSUPPORTED: dict[str, str] = {
    "plugins": "layers from plugins are not supported; mount what they give, and name the mount point in lowerdir=",
    "override_creds": "not supported: the server acts for each caller; leave it out",
    "uid": "not supported; squash_to_uid= shows everything as one user's, uidmapping= maps ids",
    "gid": "not supported; squash_to_gid= shows everything as of one group, gidmapping= maps ids",
    "umask": "not supported; files have the modes they have in their layers",
    "allow_root": "not supported; use allow_other, the kernel still checks every access against owner and mode",
    "auto_unmount": "not supported; the server unmounts when it ends by a signal, and after a crash `umount` does",
}
"""Options of overlayfs, fuse-overlayfs and libfuse that are refused, each with the reason and what to do instead."""

_BY_NAME = {option.name: option for option in OPTIONS if not option.name.endswith("*")}
_FAMILIES = tuple(option for option in OPTIONS if option.name.endswith("*"))


def find(name: str) -> Option:
    """The option of that name; raises CommandError (status 1) that names the nearest known one if there is none."""
    option = _BY_NAME.get(name)
    if option is not None:
        return option
    for family in _FAMILIES:
        if name.startswith(family.name[:-1]):
            return family
    if name in UNSUPPORTED:
        raise CommandError(f"option {name}: {UNSUPPORTED[name]}")
    nearest = difflib.get_close_matches(name.lower(), _BY_NAME, n=1)
    advice = f"did you mean {nearest[0]}?" if nearest else "unionfs -h lists the options"
    raise CommandError(f"unknown option '{name}': {advice}")


def read_options(text: str, settings: Settings) -> None:
    """Reads one `-o` argument, options separated by commas, into the settings; an empty option is passed over.

    Raises CommandError with status 1 for an unknown option or a value that cannot be.
    """
    for item in split_options(text):
        if item:
            name, equals, value = item.partition("=")
            find(name).read(settings, value if equals else None)
