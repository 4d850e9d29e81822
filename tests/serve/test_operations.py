"""Is every operation served as the kernel that asks for it expects, also those that this kernel never asks for?"""

from __future__ import annotations

import errno
import os
import stat as modes
import struct
from pathlib import Path

import pytest

from tests.serve.conftest import LARGE
from tests.serve.fake_kernel import ROOT, FakeKernel
from tests.support.mounts import Layers
from tests.support.trees import data_extents
from tests.wire import answers, kernel
from unionfs.linux import fs
from unionfs.wire import abi

SEEK_DATA, SEEK_HOLE = 3, 4
PUNCH = 0x03


def opened(connection: FakeKernel, nodeid: int, flags: int) -> answers.Opened:
    """OPEN."""
    return answers.opened(connection.ok(kernel.open_(nodeid, flags)))


def attributes(connection: FakeKernel, nodeid: int) -> answers.Attributes:
    """GETATTR."""
    return answers.attributes(connection.ok(kernel.getattr_(nodeid)))[1]


class TestAttributes:
    """GETATTR, STATX, SETATTR."""

    def test_getattr(self, connection: FakeKernel, filled: Layers) -> None:
        lower = filled.lowers[0]
        for path in (lower / "file", lower / "dir", lower / "symlink", filled.top / "own"):
            node, real = connection.lookup(path.name), path.lstat()
            found = attributes(connection, node.nodeid)
            assert found == node.attr
            assert (found.mode, found.uid, found.gid, found.size) == (real.st_mode, real.st_uid, real.st_gid, real.st_size)
            assert (found.mtime, found.mtimensec) == divmod(real.st_mtime_ns, 10**9)
            assert (found.ctime, found.ctimensec) == divmod(real.st_ctime_ns, 10**9)
            assert (found.blocks, found.blksize, found.nlink) == (real.st_blocks, real.st_blksize, real.st_nlink)

    def test_statx(self, connection: FakeKernel, filled: Layers) -> None:
        """The birth time, which only this operation tells."""
        node = connection.lookup("own")
        body = connection.ok(kernel.statx(node.nodeid, 0, 0xFFF))
        # fuse_statx_out: attr_valid, nsec, flags, 2 spare words; then struct statx.
        mask, blksize, _, nlink, uid, gid, mode, ino, size = struct.unpack_from("=IIQIIIHxxQQ", body, 32)
        btime = struct.unpack_from("=qI", body, 32 + 80)
        assert mask & 0x800
        assert (nlink, uid, gid, mode, ino, size, blksize) == (1, 0, 0, node.attr.mode, node.attr.ino, 5, node.attr.blksize)
        assert abs(btime[0] - (filled.top / "own").stat().st_ctime) < 60

    def test_setattr(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("file").nodeid
        valid = abi.FATTR_MODE | abi.FATTR_UID | abi.FATTR_GID | abi.FATTR_SIZE | abi.FATTR_ATIME | abi.FATTR_MTIME
        message = kernel.setattr_(
            nodeid, valid, mode=0o100604, owner=(7, 8), size=3, times=(11, -5, 0), nanoseconds=(12, 13, 0)
        )
        answered = answers.attributes(connection.ok(message))[1]
        assert (answered.mode, answered.uid, answered.gid, answered.size) == (0o100604, 7, 8, 3)
        real = (filled.top / "file").stat()
        assert (real.st_atime_ns, real.st_mtime_ns) == (11 * 10**9 + 12, -5 * 10**9 + 13)
        assert (real.st_mode, real.st_uid, real.st_gid) == (0o100604, 7, 8)
        assert (filled.top / "file").read_bytes() == b"bel"
        assert (filled.lowers[0] / "file").read_bytes() == b"below"

    def test_times_of_now(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("own").nodeid
        os.utime(filled.top / "own", (1, 1))
        connection.ok(kernel.setattr_(nodeid, abi.FATTR_MTIME | abi.FATTR_MTIME_NOW))
        assert (filled.top / "own").stat().st_mtime > 10**9
        assert (filled.top / "own").stat().st_atime == 1

    def test_of_the_wrong_type(self, connection: FakeKernel) -> None:
        for name, code in (("dir", errno.EISDIR), ("symlink", errno.EINVAL)):
            assert connection.error(kernel.setattr_(connection.lookup(name).nodeid, abi.FATTR_SIZE, size=1)) == code


class TestNames:
    """What makes, moves and removes names."""

    def test_readlink(self, connection: FakeKernel) -> None:
        assert connection.ok(kernel.readlink(connection.lookup("symlink").nodeid)) == b"file"
        assert connection.error(kernel.readlink(connection.lookup("file").nodeid)) == errno.EINVAL

    def test_making(self, connection: FakeKernel, filled: Layers) -> None:
        who = {"uid": 1000, "gid": 1001}
        messages = {
            "d": kernel.mkdir(ROOT, b"d", 0o777, 0o022, uid=1000, gid=1001),
            "f": kernel.mknod(ROOT, b"f", modes.S_IFREG | 0o666, umask=0o022, uid=1000, gid=1001),
            "p": kernel.mknod(ROOT, b"p", modes.S_IFIFO | 0o600, uid=1000, gid=1001),
            "c": kernel.mknod(ROOT, b"c", modes.S_IFCHR | 0o600, os.makedev(1, 3), uid=1000, gid=1001),
            "s": kernel.symlink(ROOT, b"s", b"../away", uid=1000, gid=1001),
            "o": kernel.create(ROOT, b"o", os.O_RDWR | os.O_CREAT, modes.S_IFREG | 0o666, 0o077, uid=1000, gid=1001),
        }
        for name, message in messages.items():
            node = answers.node(connection.ok(message))
            assert (node.attr.uid, node.attr.gid) == tuple(who.values()), name
            real = (filled.top / name).lstat()
            assert (real.st_uid, real.st_gid, real.st_mode, real.st_rdev) == (1000, 1001, node.attr.mode, node.attr.rdev)
        assert modes.S_IMODE((filled.top / "d").stat().st_mode) == 0o755
        assert modes.S_IMODE((filled.top / "o").stat().st_mode) == 0o600
        assert os.readlink(filled.top / "s") == "../away"
        for name, message in messages.items():
            assert connection.error(message) == errno.EEXIST, name

    def test_no_whiteouts_from_users(self, connection: FakeKernel) -> None:
        assert connection.error(kernel.mknod(ROOT, b"w", modes.S_IFCHR, 0)) == errno.EPERM
        assert connection.error(kernel.rename2(ROOT, b"file", ROOT, b"w", 4)) == errno.EINVAL

    def test_removing(self, connection: FakeKernel, filled: Layers) -> None:
        directory = connection.lookup("dir").nodeid
        assert connection.error(kernel.unlink(ROOT, b"dir")) == errno.EISDIR
        assert connection.error(kernel.rmdir(ROOT, b"file")) == errno.ENOTDIR
        assert connection.error(kernel.rmdir(ROOT, b"dir")) == errno.ENOTEMPTY
        assert connection.error(kernel.unlink(ROOT, b"absent")) == errno.ENOENT
        for message in (kernel.unlink(directory, b"other"), kernel.rmdir(directory, b"inner"), kernel.rmdir(ROOT, b"dir")):
            connection.ok(message)
        assert (filled.top / "dir").is_char_device()

    @pytest.mark.parametrize("flags", [None, 0, 1, 2])
    def test_renaming(self, flags: int | None, connection: FakeKernel, filled: Layers) -> None:
        directory = connection.lookup("dir").nodeid
        one, two = connection.lookup("file").nodeid, connection.lookup("own").nodeid
        target = b"own" if flags == 2 else b"new"
        if flags is None:
            connection.ok(kernel.rename(ROOT, b"file", directory, target))
        elif flags == 2:
            connection.ok(kernel.rename2(ROOT, b"file", ROOT, target, 2))
            assert connection.lookup("file").nodeid == two
            assert (filled.top / "own").read_bytes() == b"below"
            return
        else:
            assert flags == 0 or connection.error(kernel.rename2(ROOT, b"file", directory, b"other", 1)) == errno.EEXIST
            connection.ok(kernel.rename2(ROOT, b"file", directory, target, flags))
        assert connection.lookup("new", directory).nodeid == one
        assert answers.node(connection.ok(kernel.lookup(ROOT, b"file"))).nodeid == 0
        assert (filled.top / "dir" / "new").read_bytes() == b"below"

    def test_in_what_is_no_directory(self, connection: FakeKernel) -> None:
        file = connection.lookup("file").nodeid
        for message in (
            kernel.lookup(file, b"x"),
            kernel.mkdir(file, b"x", 0o755),
            kernel.unlink(file, b"x"),
            kernel.create(file, b"x", os.O_RDWR, 0o600),
            kernel.tmpfile(file, os.O_RDWR, 0o600),
            kernel.rename(file, b"x", ROOT, b"y"),
            kernel.link(file, b"x", file),
        ):
            assert connection.error(message) == errno.ENOTDIR

    def test_statfs(self, connection: FakeKernel, filled: Layers) -> None:
        blocks, _, _, files, _, bsize, namelen, frsize = struct.unpack_from("=QQQQQIII", connection.ok(kernel.statfs(ROOT)))
        real = os.statvfs(filled.top)
        assert (blocks, files, bsize, namelen, frsize) == (real.f_blocks, real.f_files, real.f_bsize, 255, real.f_frsize)


class TestFiles:
    """What is done with open files, where every request comes to the server."""

    def test_reading(self, connection: FakeKernel) -> None:
        nodeid = connection.lookup("large").nodeid
        fh = opened(connection, nodeid, os.O_RDONLY).fh
        whole = b"".join(connection.ok(kernel.read(nodeid, fh, offset, 1 << 20)) for offset in range(0, LARGE, 1 << 20))
        assert whole == bytes(range(256)) * (LARGE // 256)
        assert connection.ok(kernel.read(nodeid, fh, LARGE - 3, 100)) == b"\xfd\xfe\xff"
        assert connection.ok(kernel.read(nodeid, fh, LARGE, 100)) == b""
        assert connection.ok(kernel.read(nodeid, fh, 1 << 60, 100)) == b""
        connection.ok(kernel.release(nodeid, fh))

    def test_a_small_file_is_pushed_into_the_page_cache(self, connection: FakeKernel) -> None:
        nodeid = connection.lookup("file").nodeid
        opened(connection, nodeid, os.O_RDONLY)
        (told,) = [answer for answer in connection.notifications if answer.error == 4]
        assert struct.unpack_from("=QQII", told.body) == (nodeid, 0, 5, 0)
        assert told.body[24:] == b"below"

    def test_writing(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("file").nodeid
        fh = opened(connection, nodeid, os.O_RDWR).fh
        for offset, data in ((0, b"B"), (5, b" and above"), (5 << 30, b"far")):
            assert struct.unpack_from("=I", connection.ok(kernel.write(nodeid, fh, offset, data))) == (len(data),)
        assert attributes(connection, nodeid).size == (5 << 30) + 3
        assert connection.ok(kernel.read(nodeid, fh, 0, 15)) == b"Below and above"
        assert (filled.lowers[0] / "file").read_bytes() == b"below"
        connection.ok(kernel.fsync(nodeid, fh))
        connection.ok(kernel.fsync(nodeid, fh, 1))
        connection.ok(kernel.release(nodeid, fh, os.O_RDWR))

    def test_largest_request(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("own").nodeid
        fh = opened(connection, nodeid, os.O_RDWR).fh
        data = os.urandom(1 << 20)
        assert struct.unpack_from("=I", connection.ok(kernel.write(nodeid, fh, 0, data))) == (1 << 20,)
        assert (filled.top / "own").read_bytes() == data
        assert connection.ok(kernel.read(nodeid, fh, 0, 1 << 20)) == data

    def test_truncating_at_open(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("large").nodeid
        opened(connection, nodeid, os.O_WRONLY | os.O_TRUNC)
        assert (filled.top / "large").stat().st_size == 0
        assert (filled.lowers[0] / "large").stat().st_size == LARGE

    @pytest.mark.parametrize("uid", [0, 1000])
    def test_set_id_bits_go_with_a_write(self, uid: int, connection: FakeKernel, filled: Layers) -> None:
        (filled.top / "own").chmod(0o6755)
        nodeid = connection.lookup("own").nodeid
        fh = opened(connection, nodeid, os.O_RDWR).fh
        flags = abi.WRITE_KILL_SUIDGID if uid else 0
        connection.ok(kernel.write(nodeid, fh, 0, b"x", flags, uid=uid))
        assert modes.S_IMODE(attributes(connection, nodeid).mode) == (0o755 if uid else 0o6755)

    def test_an_unnamed_file(self, connection: FakeKernel, filled: Layers) -> None:
        body = connection.ok(kernel.tmpfile(ROOT, os.O_RDWR, modes.S_IFREG | 0o600, uid=1000, gid=1000))
        node, file = answers.node(body), answers.opened(body, 128)
        assert (node.attr.nlink, node.attr.uid) == (0, 1000)
        connection.ok(kernel.write(node.nodeid, file.fh, 0, b"data"))
        assert "named" not in os.listdir(filled.top)
        linked = answers.node(connection.ok(kernel.link(ROOT, b"named", node.nodeid)))
        assert (linked.nodeid, linked.attr.nlink, linked.attr.ino) == (node.nodeid, 1, node.attr.ino)
        assert (filled.top / "named").read_bytes() == b"data"

    def test_holes(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("large").nodeid
        fh = opened(connection, nodeid, os.O_RDWR).fh
        connection.ok(kernel.fallocate(nodeid, fh, 65536, 65536, PUNCH))
        assert data_extents(os.fspath(filled.top / "large"))[:2] == [(0, 65536), (131072, LARGE)]
        for offset, whence, found in ((0, SEEK_HOLE, 65536), (65536, SEEK_DATA, 131072), (0, SEEK_DATA, 0)):
            assert struct.unpack_from("=Q", connection.ok(kernel.lseek(nodeid, fh, offset, whence))) == (found,)
        assert connection.error(kernel.lseek(nodeid, fh, LARGE, SEEK_DATA)) == errno.ENXIO
        connection.ok(kernel.fallocate(nodeid, fh, LARGE, 4096, 0))
        assert attributes(connection, nodeid).size == LARGE + 4096

    @pytest.mark.parametrize(("opcode", "layout"), [(47, "=I"), (53, "=Q")])
    @pytest.mark.parametrize("length", [100, LARGE])
    def test_copying_a_range(self, opcode: int, layout: str, length: int, connection: FakeKernel, filled: Layers) -> None:
        source, target = connection.lookup("large").nodeid, connection.lookup("own").nodeid
        from_fh, to_fh = opened(connection, source, os.O_RDONLY).fh, opened(connection, target, os.O_RDWR).fh
        done = 0
        while done < length:
            wanted = kernel.Range(from_fh, done, target, to_fh, 5 + done, length - done)
            (copied,) = struct.unpack_from(layout, connection.ok(kernel.copy_file_range(opcode, source, wanted)))
            assert copied > 0
            done += copied
        assert (filled.top / "own").read_bytes() == b"above" + (bytes(range(256)) * (LARGE // 256))[:length]

    def test_changes_through_a_file_that_was_not_copied_up(self, connection: FakeKernel) -> None:
        """No kernel asks for that without an open for writing."""
        nodeid = connection.lookup("file").nodeid
        fh = opened(connection, nodeid, os.O_RDONLY).fh
        assert connection.error(kernel.write(nodeid, fh, 0, b"x")) == errno.EIO
        assert connection.error(kernel.fallocate(nodeid, fh, 0, 1, 0)) == errno.EBADF
        wanted = kernel.Range(fh, 0, nodeid, fh, 0, 1)
        assert connection.error(kernel.copy_file_range(47, nodeid, wanted)) == errno.EBADF

    def test_of_a_directory(self, connection: FakeKernel) -> None:
        for message in (kernel.open_(ROOT, os.O_RDONLY), kernel.read(ROOT, 0, 0, 10), kernel.write(ROOT, 0, 0, b"x")):
            assert connection.error(message) == errno.EISDIR
        connection.ok(kernel.fsyncdir(ROOT, 0))

    def test_syncing_all(self, connection: FakeKernel) -> None:
        connection.ok(kernel.syncfs(ROOT))


class TestXattrs:
    """GETXATTR, SETXATTR, LISTXATTR, REMOVEXATTR."""

    def test_round_trip(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("file").nodeid
        assert connection.ok(kernel.getxattr(nodeid, b"user.colour", 10)) == b"red"
        connection.ok(kernel.setxattr(nodeid, b"user.new", b"\0value"))
        assert connection.ok(kernel.listxattr(nodeid, 1000)).split(b"\0") == [b"user.colour", b"user.new", b""]
        assert os.getxattr(filled.top / "file", "user.new") == b"\0value"
        connection.ok(kernel.removexattr(nodeid, b"user.colour"))
        assert connection.error(kernel.getxattr(nodeid, b"user.colour", 10)) == errno.ENODATA
        assert connection.error(kernel.removexattr(nodeid, b"user.colour")) == errno.ENODATA
        assert os.getxattr(filled.lowers[0] / "file", "user.colour") == b"red"

    def test_marks_are_out_of_reach(self, connection: FakeKernel, filled: Layers) -> None:
        """A user's mark of that name is another one, one level deeper."""
        nodeid = connection.lookup("dir").nodeid
        connection.ok(kernel.setxattr(nodeid, b"trusted.overlay.opaque", b"y"))
        assert os.getxattr(filled.top / "dir", "trusted.overlay.overlay.opaque") == b"y"
        assert "trusted.overlay.opaque" not in os.listxattr(filled.top / "dir")
        assert connection.ok(kernel.getxattr(nodeid, b"trusted.overlay.opaque", 10)) == b"y"
        assert connection.error(kernel.getxattr(nodeid, b"trusted.overlay.origin", 100)) == errno.ENODATA
        assert connection.error(kernel.setxattr(nodeid, b"user.fuseoverlayfs.opaque", b"y")) == errno.EOPNOTSUPP

    def test_trusted_ones_show_to_the_privileged(self, connection: FakeKernel) -> None:
        nodeid = connection.lookup("own").nodeid
        connection.ok(kernel.setxattr(nodeid, b"trusted.x", b"y"))
        assert b"trusted.x" in connection.ok(kernel.listxattr(nodeid, 1000, pid=os.getpid()))
        assert b"trusted.x" in connection.ok(kernel.listxattr(nodeid, 1000, pid=0))
        assert connection.ok(kernel.listxattr(nodeid, 1000, uid=1000, pid=0)) == b""


class TestIoctls:
    """IOCTL."""

    def test_inode_flags(self, connection: FakeKernel, filled: Layers) -> None:
        nodeid = connection.lookup("file").nodeid
        asked = kernel.ioctl(nodeid, 0, fs.FS_IOC_GETFLAGS, out_size=8)
        (before,) = struct.unpack_from("=I", connection.ok(asked), 16)
        wanted = struct.pack("=Q", before | fs.FS_NOATIME_FL)
        connection.ok(kernel.ioctl(nodeid, 0, fs.FS_IOC_SETFLAGS, data=wanted))
        assert struct.unpack_from("=I", connection.ok(asked), 16) == (before | fs.FS_NOATIME_FL,)
        assert flags_of(filled.top / "file") & fs.FS_NOATIME_FL
        assert not flags_of(filled.lowers[0] / "file") & fs.FS_NOATIME_FL

    @pytest.mark.parametrize("cmd", [0, 0x5401, 0xC020660B, 0x40049409])
    def test_others(self, cmd: int, connection: FakeKernel) -> None:
        assert connection.error(kernel.ioctl(connection.lookup("file").nodeid, 0, cmd, out_size=100)) == errno.ENOTTY

    def test_arguments_that_are_missing(self, connection: FakeKernel) -> None:
        nodeid = connection.lookup("own").nodeid
        assert connection.error(kernel.ioctl(nodeid, 0, fs.FS_IOC_SETFLAGS, data=b"\1")) == errno.EINVAL
        assert connection.error(kernel.ioctl(nodeid, 0, fs.FS_IOC_FSSETXATTR, data=b"\1" * 20)) == errno.EINVAL


def flags_of(path: Path) -> int:
    """The inode flags of a file (chattr(1))."""
    with open(path, "rb") as file:
        return fs.inode_flags(file.fileno())
