"""What do the kernel and the server agree on? The INIT handshake: what is offered, what is wanted, what both have.

Rules: process_init_reply() in the kernel's fs/fuse/inode.c. It does not check a reply against what it offered, and two
flags that exclude each other silently cost one of the features; so the choice is made here.
"""

import errno
import mmap
import struct
from typing import Final, NamedTuple

from unionfs.wire import abi
from unionfs.wire.kinds import Init

_MESSAGE: Final = struct.Struct("=IiQ64s")
_MAJOR_ONLY: Final = struct.Struct("=IiQI60x")
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHIIH22x")
_LOW: Final = (1 << 32) - 1
_SECURITY_CTX_MINOR: Final = 38


class Wanted(NamedTuple):
    """What the server would like. Sizes in bytes, `time_gran` in nanoseconds, `request_timeout` in seconds.

    `flags` are INIT flags; `max_stack_depth` is 1 or 2 with PASSTHROUGH (2: backing files may be on a stacked file
    system, and nothing can be stacked on the mount), 0 turns it off. Zero in `congestion_threshold` is three quarters
    of `max_background`. `inode_passthrough` is the version of passthrough of inode operations that is wanted, if any; it
    comes with PASSTHROUGH or not at all.
    """

    flags: int
    max_write: int = 1 << 20
    max_pages: int = 256
    max_readahead: int = 1 << 20
    max_background: int = abi.MAX_BACKGROUND
    congestion_threshold: int = 0
    time_gran: int = 1
    max_stack_depth: int = 0
    request_timeout: int = 0
    page_size: int = mmap.PAGESIZE
    inode_passthrough: abi.InodePassthrough | None = None


class Capabilities(NamedTuple):
    """What was agreed: `flags` has a bit only when both sides have it. Units as in `Wanted`."""

    minor: int
    flags: int
    max_write: int
    max_pages: int
    max_readahead: int
    max_background: int
    congestion_threshold: int
    time_gran: int
    max_stack_depth: int
    request_timeout: int
    inode_passthrough: abi.InodePassthrough | None = None


def negotiate(init: Init, wanted: Wanted) -> tuple[Capabilities, bytes]:
    """What comes of the kernel's offer and the server's wishes, and the fuse_init_out (64 bytes) that says so.

    Of features that exclude each other, passthrough is taken before the writeback cache, HANDLE_KILLPRIV_V2 before
    the first version, AUTO_INVAL_DATA before EXPLICIT_INVAL_DATA, EXPORT_SUPPORT before NO_EXPORT_SUPPORT. A kernel
    with a newer major version has to be answered with `encode_major` first and then sends another INIT.

    Raises OSError EPROTO when the kernel's version is not 7.31 or a later 7.x.
    """
    if init.major != abi.MAJOR or init.minor < abi.MIN_MINOR:
        raise OSError(
            errno.EPROTO,
            f"the kernel speaks FUSE {init.major}.{init.minor}; {abi.MAJOR}.{abi.MIN_MINOR} or later is needed",
        )
    minor = min(init.minor, abi.MINOR)
    inodes = wanted.inode_passthrough
    if inodes is None:
        flags = _agreed_flags(init.flags & wanted.flags, minor, wanted)
    else:
        # The bit may have another meaning too, which is not what is asked for here.
        asked = wanted.flags & ~inodes.init_flag | (inodes.init_flag if init.minor < inodes.until_minor else 0)
        flags = _agreed_flags(init.flags & asked, minor, wanted)
        if not flags & abi.PASSTHROUGH:
            flags &= ~inodes.init_flag
    max_pages = max(1, min(wanted.max_pages, 0xFFFF)) if flags & abi.MAX_PAGES else abi.DEFAULT_MAX_PAGES
    max_background = min(wanted.max_background, 0xFFFF)
    congestion_threshold = min(wanted.congestion_threshold or max_background * 3 // 4, max_background)
    caps = Capabilities(
        minor=minor,
        flags=flags,
        max_write=max(abi.MIN_MAX_WRITE, min(wanted.max_write, max_pages * wanted.page_size)),
        max_pages=max_pages,
        max_readahead=min(init.max_readahead, wanted.max_readahead),
        max_background=max_background,
        congestion_threshold=congestion_threshold,
        time_gran=wanted.time_gran,
        max_stack_depth=wanted.max_stack_depth if flags & abi.PASSTHROUGH else 0,
        request_timeout=min(wanted.request_timeout, 0xFFFF) if flags & abi.REQUEST_TIMEOUT else 0,
        inode_passthrough=inodes if inodes is not None and flags & inodes.init_flag else None,
    )
    return caps, encode_body(caps)


def _agreed_flags(flags: int, minor: int, wanted: Wanted) -> int:
    """`flags`, which both sides have, without those that something else rules out."""
    if not flags & abi.INIT_EXT:
        flags &= _LOW
    if not 1 <= wanted.max_stack_depth <= abi.MAX_STACK_DEPTH:
        flags &= ~abi.PASSTHROUGH
    if not wanted.request_timeout:
        flags &= ~abi.REQUEST_TIMEOUT
    if minor < _SECURITY_CTX_MINOR:
        # Kernels 7.36 and 7.37 append the context without saying so in the header; a name could not be told from it.
        flags &= ~abi.SECURITY_CTX
    for winner, loser in _EXCLUSIVE:
        if flags & winner:
            flags &= ~loser
    if not flags & abi.DO_READDIRPLUS:
        flags &= ~abi.READDIRPLUS_AUTO
    return flags


_EXCLUSIVE: Final = (
    (abi.PASSTHROUGH, abi.WRITEBACK_CACHE),
    (abi.HANDLE_KILLPRIV_V2, abi.HANDLE_KILLPRIV),
    (abi.AUTO_INVAL_DATA, abi.EXPLICIT_INVAL_DATA),
    (abi.EXPORT_SUPPORT, abi.NO_EXPORT_SUPPORT),
)


def encode_body(caps: Capabilities) -> bytes:
    """fuse_init_out, 64 bytes."""
    return _INIT_OUT.pack(
        abi.MAJOR,
        caps.minor,
        caps.max_readahead,
        caps.flags & _LOW,
        caps.max_background,
        caps.congestion_threshold,
        caps.max_write,
        caps.time_gran,
        caps.max_pages,
        0,  # map_alignment, for DAX only
        caps.flags >> 32,
        caps.max_stack_depth,
        caps.request_timeout,
    )


def encode_init(unique: int, caps: Capabilities) -> bytes:
    """The complete reply to INIT, 80 bytes."""
    return _MESSAGE.pack(_MESSAGE.size, 0, unique, encode_body(caps))


def encode_major(unique: int) -> bytes:
    """The reply to a kernel whose major version is newer: our major version only, all else zero.

    The kernel then sends INIT again with this major version (<linux/fuse.h>, "Version negotiation").
    """
    return _MAJOR_ONLY.pack(_MAJOR_ONLY.size, 0, unique, abi.MAJOR)
