"""Mappings: how is a file mapped beyond its end, and looked at there without a SIGBUS?

Python's mmap refuses to map more than a file has, and a mapping that its file no longer fills kills who touches it. Here the
kernel copies between the mapping and a file in memory, and answers EFAULT for a page that is not there.
"""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
for _call in (_libc.pread, _libc.pwrite):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]

MAP_FAILED = ctypes.c_void_p(-1).value
MS_SYNC = 4
"""linux/mman.h."""


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class Mapping:
    """`length` bytes from the start of a file, mapped shared or private, readable, and writable if so wanted."""

    def __init__(self, fd: int, length: int, shared: bool = True, writable: bool = False) -> None:
        self.length = length
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _libc.mmap(None, length, protection, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, fd, 0)
        if address == MAP_FAILED:
            raise _failed()
        self.address: int = address
        self._memory = os.memfd_create("copied")

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes; fewer where a page in them is behind the end of the file, EFAULT where that is the first."""
        done = _libc.pwrite(self._memory, self.address + offset, size, 0)
        if done < 0:
            raise _failed()
        return os.pread(self._memory, done, 0)

    def write(self, offset: int, data: bytes) -> int:
        """Stores, and msyncs; how many bytes there was a page for, EFAULT for none."""
        os.pwrite(self._memory, data, 0)
        done: int = _libc.pread(self._memory, self.address + offset, len(data), 0)
        if done < 0:
            raise _failed()
        if _libc.msync(self.address, self.length, MS_SYNC) < 0:
            raise _failed()
        return done

    def resident(self) -> list[bool]:
        """Of each page, whether it is in the page cache (mincore(2))."""
        pages = ctypes.create_string_buffer(-(-self.length // mmap.PAGESIZE))
        if _libc.mincore(self.address, self.length, pages) < 0:
            raise _failed()
        return [bool(byte & 1) for byte in pages.raw]

    def close(self) -> None:
        """munmap(2)."""
        _libc.munmap(self.address, self.length)
        os.close(self._memory)
