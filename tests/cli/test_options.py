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
from unionfs.overlay.config import Fsync, RedirectDir, Uuid, XattrPermissions, Xino
from unionfs.serve.config import Binding, CpuIdle, InodePassthrough, Passthrough


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


@pytest.mark.parametrize("name", ["lowerdir+", "upperdir", "workdir", "fsname"])
def test_an_empty_name_is_refused(name: str) -> None:
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
        ("writeback=0", "writeback", False),
        ("writeback=0,writeback", "writeback", True),
        ("writeback=1", "writeback", True),
        ("binding=pyfuse3", "binding", Binding.PYFUSE3),
        ("cpu_idle=poll", "cpu_idle", CpuIdle.POLL),
        ("cpu_idle=poll,cpu_idle=auto", "cpu_idle", CpuIdle.AUTO),
        ("cpu_idle=sleep", "cpu_idle", CpuIdle.SLEEP),
        ("binding=pyfuse3,binding=native", "binding", Binding.NATIVE),
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
        ("uidmapping=0:1000:1:1:110000:65536", "uid_ranges", ((0, 1000, 1), (1, 110000, 65536))),
        (r"gidmapping=0:1000:1\,1:110000:65536", "gid_ranges", ((0, 1000, 1), (1, 110000, 65536))),
        ("uidmapping=:0:5:1:", "uid_ranges", ((0, 5, 1),)),
        ("uidmapping=0:0:4294967295", "uid_ranges", ((0, 0, 4294967295),)),
        ("uidmapping=0:5:1,uidmapping=1:6:1", "uid_ranges", ((1, 6, 1),)),
        ("squash_to_root", "squash_to_root", True),
        ("squash_to_uid=1000", "squash_uid", 1000),
        ("squash_to_gid=4294967294", "squash_gid", 4294967294),
        ("static_nlink", "static_nlink", True),
        ("ino32_t", "ino32", True),
        ("xattr_permissions=1", "xattr_permissions", XattrPermissions.SECURITY),
        ("xattr_permissions=2", "xattr_permissions", XattrPermissions.USER),
        ("context=system_u:object_r:usr_t:s0", "labels", {"context": "system_u:object_r:usr_t:s0"}),
        ('context="a:b:c:s0:c1,c2",ro', "labels", {"context": "a:b:c:s0:c1,c2"}),
        ('rw,fscontext="a:s0:c1,c2,c3",context="b"', "labels", {"fscontext": "a:s0:c1,c2,c3", "context": "b"}),
        ('context="a:c1,c2",ro', "read_only", True),
        ('upperdir="/a,ro', "read_only", True),
        ('upperdir="/a,ro', "upper", b'"/a'),
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
        "threaded=0,threaded=1,threaded,fast_ino,fast_ino=0,fast_ino_check=1,xattr_permissions=0,user_id=0,group_id=0",
        "subtype=unionfs",
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
        ("binding=libfuse", "native|pyfuse3"),
        ("cpu_idle=mwait", "auto|poll|sleep"),
        ("writeback=yes", "0|1"),
        ("xattr_permissions=3", "0|1|2"),
        ("noxattrs=yes", "0|1"),
        ("threaded=2", "0|1"),
        ("fast_ino=x", "0|1"),
    ],
)
def test_a_bad_value_names_the_possible_ones(text: str, possible: str) -> None:
    assert possible in refusal(lambda: parsed(text))


@pytest.mark.parametrize("name", ["uidmapping", "gidmapping"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "not a mapping"),
        (":", "not a mapping"),
        ("0", "not a mapping"),
        ("0:1", "not a mapping"),
        ("0:1:2:3", "not a mapping"),
        ("a:b:c", "not a mapping"),
        ("0:-1:5", "not a mapping"),
        ("0:4294967295:1", "0:4294967295:1 is no range"),
        ("0:99999999999:1", "not a mapping"),
        ("0: 1:5", "not a mapping"),
        ("0:1:0", "0:1:0 is no range"),
        ("1:4294967294:2", "1:4294967294:2 is no range"),
        ("0:1000:10:5:2000:1", "0:1000:10 and 5:2000:1 overlap"),
        ("0:1000:10:50:1009:1", "0:1000:10 and 50:1009:1 overlap"),
    ],
)
def test_a_bad_mapping_is_refused(name: str, value: str, said: str) -> None:
    message = refusal(lambda: parsed(f"{name}={value}"))
    assert f"option {name}={value}: " in message
    assert said in message


@pytest.mark.parametrize("value", ["", "root", "-1", "4294967295", "1.5", "0x10", "+1"])
@pytest.mark.parametrize("name", ["squash_to_uid", "squash_to_gid"])
def test_a_bad_id_is_refused(name: str, value: str) -> None:
    assert f"option {name}={value}: not an id" in refusal(lambda: parsed(f"{name}={value}"))


@pytest.mark.parametrize("value", ["", '"', '""', '"a', 'a"', '"a,b', 'a"b', '"a"b"'])
def test_a_bad_label_is_refused(value: str) -> None:
    assert "not a label" in refusal(lambda: parsed(f"context={value}"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nfs_export=on,ino32_t", ("nfs_export=on", "ino32_t")),
        ("inode_passthrough=draft,uidmapping=0:1:1", ("inode_passthrough=draft", "uidmapping=")),
        ("inode_passthrough=draft,squash_to_root", ("inode_passthrough=draft", "squash_to_root")),
        ("inode_passthrough=draft,squash_to_gid=0", ("inode_passthrough=draft", "squash_to_gid=")),
        ("inode_passthrough=draft,xattr_permissions=2", ("inode_passthrough=draft", "xattr_permissions=")),
        ("inode_passthrough=draft,ino32_t", ("inode_passthrough=draft", "ino32_t")),
        ("inode_passthrough=draft,static_nlink", ("inode_passthrough=draft", "static_nlink")),
    ],
)
def test_options_that_contradict_each_other(text: str, named: tuple[str, str]) -> None:
    message = refusal(lambda: parsed(f"lowerdir=/a,{text}").check())
    assert "contradict" in message
    assert all(name in message for name in named)


@pytest.mark.parametrize(
    ("text", "uid", "gid"),
    [
        ("squash_to_root", 0, 0),
        ("squash_to_root,squash_to_uid=5", 5, 0),
        ("squash_to_gid=6,squash_to_root", 0, 6),
        ("squash_to_uid=5", 5, None),
        ("ro", None, None),
    ],
)
def test_who_everything_is_shown_as(text: str, uid: int | None, gid: int | None) -> None:
    """squash_to_uid and squash_to_gid say more than squash_to_root, wherever they stand."""
    config = parsed(f"lowerdir=/a,{text}").union()
    assert (config.squash_uid, config.squash_gid) == (uid, gid)


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
