"""Asynchronous I/O: how does a test read and write through io_uring and Linux AIO, for which Python has no calls?

One request at a time, waited for: what counts is that the kernel takes another way to the file than for read(2) and write(2).
Layouts are those of linux/io_uring.h and linux/aio_abi.h; both calls have the numbers below on every architecture that is
tested here.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct

from tests.support.syscalls import checked

SYS_IO_URING_SETUP, SYS_IO_URING_ENTER = 425, 426
SYS_IO_SETUP, SYS_IO_DESTROY, SYS_IO_GETEVENTS, SYS_IO_SUBMIT = (
    (206, 207, 208, 209) if platform.machine() == "x86_64" else (0, 1, 4, 2)
)

IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC = 1, 2, 3
IORING_OP_READ, IORING_OP_WRITE = 22, 23
IORING_ENTER_GETEVENTS = 1
IORING_OFF_SQ_RING, IORING_OFF_CQ_RING, IORING_OFF_SQES = 0, 0x8000000, 0x10000000
IOCB_CMD_PREAD, IOCB_CMD_PWRITE, IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC = 0, 1, 2, 3

ENTRIES = 4
SQE_BYTES = 64
CQE_BYTES = 16

_libc = ctypes.CDLL(None, use_errno=True)


class _Memory:
    """Anonymous pages whose address is known: `write` goes in, `read` comes out. Aligned for O_DIRECT."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, max(size, 1))
        self._view = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._view)

    def write(self, data: bytes) -> None:
        self._map[: len(data)] = data

    def read(self, size: int) -> bytes:
        return self._map[:size]

    def close(self) -> None:
        del self._view
        self._map.close()


def _outcome(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class _Ring:
    """An io_uring of ENTRIES entries; `run` submits one entry and waits for its completion."""

    def __init__(self) -> None:
        params = ctypes.create_string_buffer(120)
        self.fd = checked(_libc.syscall(ctypes.c_long(SYS_IO_URING_SETUP), ENTRIES, params))
        entries, completions = struct.unpack_from("=II", params.raw, 0)
        # struct io_sqring_offsets and io_cqring_offsets: head, tail, ring_mask, ring_entries, and
        # flags, dropped, array; or overflow, cqes, flags.
        self._sq = struct.unpack_from("=7I", params.raw, 40)
        self._cq = struct.unpack_from("=7I", params.raw, 80)
        self._submissions = mmap.mmap(self.fd, self._sq[6] + entries * 4, offset=IORING_OFF_SQ_RING)
        self._completions = mmap.mmap(self.fd, self._cq[5] + completions * CQE_BYTES, offset=IORING_OFF_CQ_RING)
        self._entries = mmap.mmap(self.fd, entries * SQE_BYTES, offset=IORING_OFF_SQES)

    def run(self, sqe: bytes) -> int:
        self._entries[:SQE_BYTES] = sqe.ljust(SQE_BYTES, b"\0")
        (tail,) = struct.unpack_from("=I", self._submissions, self._sq[1])
        (mask,) = struct.unpack_from("=I", self._submissions, self._sq[2])
        struct.pack_into("=I", self._submissions, self._sq[6] + (tail & mask) * 4, 0)
        struct.pack_into("=I", self._submissions, self._sq[1], tail + 1)
        call = ctypes.c_long(SYS_IO_URING_ENTER)
        checked(_libc.syscall(call, self.fd, 1, 1, IORING_ENTER_GETEVENTS, None, ctypes.c_size_t(0)))
        (head,) = struct.unpack_from("=I", self._completions, self._cq[0])
        (mask,) = struct.unpack_from("=I", self._completions, self._cq[2])
        _data, result, _flags = struct.unpack_from("=QiI", self._completions, self._cq[5] + (head & mask) * CQE_BYTES)
        struct.pack_into("=I", self._completions, self._cq[0], head + 1)
        return _outcome(result)

    def close(self) -> None:
        for mapping in (self._submissions, self._completions, self._entries):
            mapping.close()
        os.close(self.fd)


def _on_ring(opcode: int, fd: int, memory: _Memory | None, size: int, offset: int) -> int:
    ring = _Ring()
    try:
        address = memory.address if memory else 0
        return ring.run(struct.pack("=BBHiqQI", opcode, 0, 0, fd, offset, address, size))
    finally:
        ring.close()


def uring_read(fd: int, size: int, offset: int) -> bytes:
    """IORING_OP_READ of up to `size` bytes at `offset`."""
    memory = _Memory(size)
    try:
        return memory.read(_on_ring(IORING_OP_READ, fd, memory, size, offset))
    finally:
        memory.close()


def uring_write(fd: int, data: bytes, offset: int) -> int:
    """IORING_OP_WRITE; the number of bytes written. An `offset` of -1 is the descriptor's own (or the end, with O_APPEND)."""
    memory = _Memory(len(data))
    memory.write(data)
    try:
        return _on_ring(IORING_OP_WRITE, fd, memory, len(data), offset)
    finally:
        memory.close()


def uring_fsync(fd: int) -> int:
    """IORING_OP_FSYNC."""
    return _on_ring(IORING_OP_FSYNC, fd, None, 0, 0)


def _by_aio(opcode: int, fd: int, address: int, size: int, offset: int) -> int:
    context = ctypes.c_ulong(0)
    checked(_libc.syscall(ctypes.c_long(SYS_IO_SETUP), 1, ctypes.byref(context)))
    try:
        # struct iocb: data, key, rw_flags, lio_opcode, reqprio, fildes, buf, nbytes, offset, and what is not used.
        control = ctypes.create_string_buffer(struct.pack("=QIIHhIQQq", 0, 0, 0, opcode, 0, fd, address, size, offset), 64)
        controls = (ctypes.c_void_p * 1)(ctypes.addressof(control))
        checked(_libc.syscall(ctypes.c_long(SYS_IO_SUBMIT), context, ctypes.c_long(1), controls))
        event = ctypes.create_string_buffer(32)
        one = ctypes.c_long(1)
        while True:
            try:
                checked(_libc.syscall(ctypes.c_long(SYS_IO_GETEVENTS), context, one, one, event, None))
                break
            except InterruptedError:  # also by what an io_uring closed before leaves to be done, without any signal
                pass
        return _outcome(struct.unpack_from("=QQqq", event.raw, 0)[2])
    finally:
        _libc.syscall(ctypes.c_long(SYS_IO_DESTROY), context)


def aio_read(fd: int, size: int, offset: int) -> bytes:
    """IOCB_CMD_PREAD of up to `size` bytes at `offset`."""
    memory = _Memory(size)
    try:
        return memory.read(_by_aio(IOCB_CMD_PREAD, fd, memory.address, size, offset))
    finally:
        memory.close()


def aio_write(fd: int, data: bytes, offset: int) -> int:
    """IOCB_CMD_PWRITE; the number of bytes written."""
    memory = _Memory(len(data))
    memory.write(data)
    try:
        return _by_aio(IOCB_CMD_PWRITE, fd, memory.address, len(data), offset)
    finally:
        memory.close()


def aio_fsync(fd: int) -> int:
    """IOCB_CMD_FSYNC."""
    return _by_aio(IOCB_CMD_FSYNC, fd, 0, 0, 0)
