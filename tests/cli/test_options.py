"""The `-o` table and its parsing rules: escapes, lists, what overrides what, and what the errors name."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from unionfs.cli.messages import CommandError, ExitStatus
from unionfs.cli.option import Arity, Option, split_unescaped, unescape
from unionfs.cli.options import OPTIONS, UNSUPPORTED, find, read_options
from unionfs.cli.settings import Settings
from unionfs.linux import mount
from unionfs.overlay.config import Fsync, RedirectDir, Uuid, Xino
from unionfs.serve.config import InodePassthrough, Passthrough


def parsed(*texts: str) -> Settings:
    """The settings after these `-o` arguments."""
    settings = Settings()
    for text in texts:
        read_options(text, settings)
    return settings


def refusal(call: Callable[[], object]) -> str:
    """The message of the usage error that `call` must raise."""
    with pytest.raises(CommandError) as caught:
        call()
    assert caught.value.status == ExitStatus.USAGE
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("", ",", [""]),
        ("a,b", ",", ["a", "b"]),
        (r"a\,b,c", ",", [r"a\,b", "c"]),
        (r"a\\,b", ",", [r"a\\", "b"]),
        (r"a\:b:c", ":", [r"a\:b", "c"]),
        ("a::b", ":", ["a", "", "b"]),
        (":a:", ":", ["", "a", ""]),
        ("a\\", ",", ["a\\"]),
    ],
)
def test_splitting_respects_escapes(text: str, separator: str, parts: list[str]) -> None:
    assert split_unescaped(text, separator) == parts


@pytest.mark.parametrize(
    ("value", "plain"),
    [("a", "a"), (r"a\:b", "a:b"), (r"a\,b", "a,b"), (r"a\\b", "a\\b"), (r"a\b", "ab"), (r"\\\:", "\\:")],
)
def test_a_backslash_protects_one_character(value: str, plain: str) -> None:
    assert unescape("fsname", value) == plain


def test_a_lone_backslash_at_the_end_is_refused() -> None:
    assert "backslash" in refusal(lambda: parsed("upperdir=/a\\"))


@pytest.mark.parametrize(
    ("texts", "lowers"),
    [
        (["lowerdir=/a"], [b"/a"]),
        (["lowerdir=/a:b/c:/d"], [b"/a", b"b/c", b"/d"]),
        ([r"lowerdir=/a\:b:/c\,d:/e\\f"], [b"/a:b", b"/c,d", b"/e\\f"]),
        (["lowerdir=/a=b"], [b"/a=b"]),
        (["lowerdir=/a b:/\u00e9"], [b"/a b", "/\u00e9".encode()]),
        (["lowerdir=/a,lowerdir=/b"], [b"/b"]),
        (["lowerdir=/a", "lowerdir=/b"], [b"/b"]),
        (["lowerdir+=/a,lowerdir+=/b"], [b"/a", b"/b"]),
        (["lowerdir=/a:/b,lowerdir+=/c"], [b"/a", b"/b", b"/c"]),
        (["lowerdir+=/a,lowerdir=/b"], [b"/b"]),
        (["lowerdir=/a,lowerdir="], []),
        (["lowerdir+=/a:b"], [b"/a:b"]),
        ([r"lowerdir+=/a\,b\:c"], [b"/a,b:c"]),
        (["lowerdir=" + ":".join(f"/layer/{n}" for n in range(600))], [b"/layer/%d" % n for n in range(600)]),
    ],
)
def test_lists_of_lower_layers(texts: list[str], lowers: list[bytes]) -> None:
    assert parsed(*texts).lowers == lowers


def test_paths_may_hold_bytes_that_are_not_text() -> None:
    word = os.fsdecode(b"lowerdir=/\xff\xfe,upperdir=/\x80")
    settings = parsed(word)
    assert (settings.lowers, settings.upper) == ([b"/\xff\xfe"], b"/\x80")


@pytest.mark.parametrize("value", [":/a", "/a:", "/a::", "::/a", ":", "::", "/a::::/b", "/a::/b::", "/a::/b:"])
def test_an_empty_element_of_the_list_is_refused(value: str) -> None:
    message = refusal(lambda: parsed(f"lowerdir={value}"))
    assert f"lowerdir={value}" in message
    assert "empty" in message


@pytest.mark.parametrize(
    ("text", "merged", "data"),
    [
        ("lowerdir=/a::/b", [b"/a"], [b"/b"]),
        (r"lowerdir=/a:/b::/c\:c::/d", [b"/a", b"/b"], [b"/c:c", b"/d"]),
        ("lowerdir=/a::/b,lowerdir=/c", [b"/c"], []),
        ("lowerdir=/a::/b,lowerdir=/c:/d::/e", [b"/c", b"/d"], [b"/e"]),
        ("lowerdir=/a::/b,datadir+=/c", [b"/a"], [b"/b", b"/c"]),
        ("lowerdir+=/a,lowerdir+=/b,datadir+=/c:c,datadir+=/d", [b"/a", b"/b"], [b"/c:c", b"/d"]),
        ("lowerdir+=/a,datadir+=/c,lowerdir=/b", [b"/b"], []),
    ],
)
def test_data_only_layers(text: str, merged: list[bytes], data: list[bytes]) -> None:
    settings = parsed(text)
    assert (settings.lowers, settings.data) == (merged, data)


@pytest.mark.parametrize(
    "text",
    [
        "lowerdir=/a:::/b", "lowerdir=/a::/b:/c", "lowerdir=/a::/b::/c:/d",
        "lowerdir+=/a,datadir+=/b,lowerdir+=/c", "lowerdir=/a::/b,lowerdir+=/c", "datadir+=/a",
    ],
)  # fmt: skip
def test_what_cannot_be_data_only_layers(text: str) -> None:
    assert "data-only" in refusal(lambda: parsed(text))


@pytest.mark.parametrize("name", ["lowerdir+", "upperdir", "workdir"])
def test_an_empty_directory_name_is_refused(name: str) -> None:
    assert f"{name}=" in refusal(lambda: parsed(f"{name}="))


def test_a_nul_byte_in_a_path_is_refused() -> None:
    assert "NUL" in refusal(lambda: parsed("upperdir=/a\0b"))


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("upperdir=/u", "upper", b"/u"),
        ("upperdir=/u,upperdir=/v", "upper", b"/v"),
        ("workdir=w", "work", b"w"),
        ("xino=off", "xino", Xino.OFF),
        ("xino=on,xino=auto", "xino", Xino.AUTO),
        ("uuid=null", "uuid", Uuid.NULL),
        ("uuid=off", "uuid", Uuid.OFF),
        ("userxattr", "userxattr", True),
        ("volatile", "fsync", Fsync.VOLATILE),
        ("volatile,fsync=strict", "fsync", Fsync.STRICT),
        ("redirect_dir=on", "redirect_dir", RedirectDir.ON),
        ("redirect_dir=follow", "redirect_dir", RedirectDir.FOLLOW),
        ("redirect_dir=off", "redirect_dir", RedirectDir.FOLLOW),
        ("redirect_dir=nofollow", "redirect_dir", RedirectDir.NOFOLLOW),
        ("fsync=0", "fsync", Fsync.VOLATILE),
        ("fsync=1", "fsync", Fsync.AUTO),
        ("noxattrs", "noxattrs", True),
        ("noxattrs=1,noxattrs=0", "noxattrs", False),
        ("noacl", "noacl", True),
        ("timeout=0", "timeout", 0.0),
        ("timeout=1.5", "timeout", 1.5),
        ("timeout=1000000000", "timeout", 1e9),
        ("passthrough=on", "passthrough", Passthrough.ON),
        ("passthrough=off", "passthrough", Passthrough.OFF),
        ("max_stack_depth=2", "max_stack_depth", 2),
        ("max_stack_depth=0", "max_stack_depth", 0),
        ("max_stack_depth=1,max_stack_depth=auto", "max_stack_depth", None),
        ("inode_passthrough=draft", "inode_passthrough", InodePassthrough.DRAFT),
        ("inode_passthrough=draft,inode_passthrough=off", "inode_passthrough", InodePassthrough.OFF),
        ("allow_other", "allow_other", True),
        ("ro", "read_only", True),
        ("ro,rw", "read_only", False),
        (r"fsname=a\,b", "source", b"a,b"),
        ("nosuid,nodev,noexec", "mount_flags", mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC),
        ("nosuid,nodev,suid", "mount_flags", mount.MS_NODEV),
        ("noexec,exec,nodev,dev", "mount_flags", 0),
        ("sync,dirsync,lazytime", "mount_flags", mount.MS_SYNCHRONOUS | mount.MS_DIRSYNC | mount.MS_LAZYTIME),
        ("sync,async,lazytime,nolazytime", "mount_flags", 0),
        ("noatime,nodiratime", "mount_flags", mount.MS_NOATIME | mount.MS_NODIRATIME),
        ("noatime,relatime", "mount_flags", mount.MS_RELATIME),
        ("relatime,strictatime", "mount_flags", mount.MS_STRICTATIME),
        ("strictatime,nostrictatime,nodiratime,diratime", "mount_flags", 0),
        ("noatime,atime,relatime,norelatime", "mount_flags", 0),
        ("index=on", "index", True),
        ("index=on,index=off", "index", False),
        ("nfs_export=on", "nfs_export", True),
        ("uuid=on", "uuid", Uuid.ON),
    ],
)
def test_what_an_option_stores(text: str, field: str, value: object) -> None:
    assert getattr(parsed(text), field) == value


@pytest.mark.parametrize(
    "text",
    [
        "metacopy=off,nfs_export=off,verity=off",
        "defaults,auto,noauto,nofail,_netdev,user,users,nouser,user=me,owner,group,comment=any thing",
        "x-systemd.automount,x-systemd.requires=/a,X-mount.mkdir=0755,x-gvfs-hide",
        "default_permissions,kernel_cache,splice_read,splice_write,splice_move,noforget,max_write=131072",
        "threaded=0,threaded=1,static_nlink,fast_ino,xattr_permissions=0,user_id=0,group_id=0,subtype=unionfs",
        "",
        ",,",
    ],
)
def test_options_that_change_nothing(text: str) -> None:
    assert parsed(text) == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lowerdirs=/a", "lowerdir"),
        ("uperdir=/a", "upperdir"),
        ("wrokdir=/a", "workdir"),
        ("passthru", "passthrough"),
        ("max_stack_dept=1", "max_stack_depth"),
        ("readonly", "unionfs -h"),
        ("=5", "unionfs -h"),
    ],
)
def test_an_unknown_option_names_the_nearest(text: str, named: str) -> None:
    message = refusal(lambda: parsed(text))
    assert message.startswith(f"unknown option '{text.partition('=')[0]}'")
    assert named in message


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("xino=maybe", "off|auto|on"),
        ("xino=", "off|auto|on"),
        ("XINO=on,xino=ON", "xino"),
        ("redirect_dir=always", "on|follow|nofollow|off"),
        ("metacopy=yes", "off|on"),
        ("index=auto", "off|on"),
        ("nfs_export=yes", "off|on"),
        ("verity=1", "off|on|require"),
        ("uuid=yes", "auto|on|null|off"),
        ("fsync=2", "auto|strict|volatile|0|1"),
        ("max_stack_depth=3", "auto|0|1|2"),
        ("lower_io=fast", "auto|passthrough|cached"),
        ("passthrough=1", "auto|on|off"),
        ("inode_passthrough=on", "off|draft"),
        ("writeback=yes", "0|1"),
        ("xattr_permissions=2", "0"),
    ],
)
def test_a_bad_value_names_the_possible_ones(text: str, possible: str) -> None:
    assert possible in refusal(lambda: parsed(text))


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1s"])
def test_a_bad_time_is_refused(value: str) -> None:
    assert f"timeout={value}" in refusal(lambda: parsed(f"timeout={value}"))


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.arity is Arity.VALUE], ids=str)
def test_an_option_without_its_value_is_refused(option: Option) -> None:
    assert str(option) in refusal(lambda: parsed(option.name))


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.arity is Arity.ALONE], ids=str)
def test_a_flag_with_a_value_is_refused(option: Option) -> None:
    assert "takes no value" in refusal(lambda: parsed(f"{option.name}=1"))


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_option_that_peers_know_is_refused_with_the_reason(name: str) -> None:
    assert refusal(lambda: parsed(f"{name}=1")) == f"option {name}: {UNSUPPORTED[name]}"


def test_every_name_stands_in_the_table_once() -> None:
    names = [option.name for option in OPTIONS]
    assert len(names) == len(set(names))
    assert not set(names) & set(UNSUPPORTED)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_is_found_by_its_name(option: Option) -> None:
    assert find(option.name.replace("*", "any")) is option


def test_an_option_refused_leaves_the_message_for_the_first_fault() -> None:
    assert "'no-such'" in refusal(lambda: parsed("xino=on,no-such,other-fault"))
