"""Do the numbers have the values of <linux/fuse.h>? Those whose value is not plain from their place in a list."""

from unionfs.wire import abi


def test_operations_have_the_gaps_of_the_protocol() -> None:
    numbers = {int(opcode) for opcode in abi.Opcode}
    assert numbers == set(range(1, 54)) - {7, 19} | {4096}


def test_some_operations_by_number() -> None:
    assert abi.Opcode(26) is abi.Opcode.INIT
    assert abi.Opcode(44) is abi.Opcode.READDIRPLUS
    assert abi.Opcode(50) is abi.Opcode.SYNCFS
    assert abi.Opcode(51) is abi.Opcode.TMPFILE
    assert abi.Opcode(52) is abi.Opcode.STATX


def test_the_flags_a_linux_6_18_kernel_offers_have_names() -> None:
    flags = [
        *(abi.ASYNC_READ, abi.POSIX_LOCKS, abi.ATOMIC_O_TRUNC, abi.EXPORT_SUPPORT, abi.BIG_WRITES, abi.DONT_MASK),
        *(abi.SPLICE_WRITE, abi.SPLICE_MOVE, abi.SPLICE_READ, abi.FLOCK_LOCKS, abi.HAS_IOCTL_DIR, abi.AUTO_INVAL_DATA),
        *(abi.DO_READDIRPLUS, abi.READDIRPLUS_AUTO, abi.ASYNC_DIO, abi.WRITEBACK_CACHE, abi.NO_OPEN_SUPPORT),
        *(abi.PARALLEL_DIROPS, abi.HANDLE_KILLPRIV, abi.POSIX_ACL, abi.ABORT_ERROR, abi.MAX_PAGES, abi.CACHE_SYMLINKS),
        *(abi.NO_OPENDIR_SUPPORT, abi.EXPLICIT_INVAL_DATA, abi.HANDLE_KILLPRIV_V2, abi.SETXATTR_EXT, abi.INIT_EXT),
        *(abi.SECURITY_CTX, abi.CREATE_SUPP_GROUP, abi.HAS_EXPIRE_ONLY, abi.DIRECT_IO_ALLOW_MMAP, abi.PASSTHROUGH),
        *(abi.NO_EXPORT_SUPPORT, abi.HAS_RESEND, abi.ALLOW_IDMAP, abi.REQUEST_TIMEOUT),
    ]
    assert sum(flags) == 0x73FFFFFB | 0x5FD << 32


def test_the_draft_of_inode_passthrough() -> None:
    """FUSE_PASSTHROUGH_OP(op) is 1 << (op - 1)."""
    draft = abi.INODE_PASSTHROUGH_DRAFT
    assert (draft.read, draft.write, draft.readdir) == (1 << 14, 1 << 15, 1 << 27)
    assert (draft.getattr, draft.setattr) == (1 << 2, 1 << 3)
    assert draft.operations == 0x800C00C
    assert draft.init_flag == abi.HAS_IO_URING_BUFPOOL
