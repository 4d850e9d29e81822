"""How do a file's pages get into a reply without passing through the server's memory?  By a pipe (splice(2))."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Final, NamedTuple

_PIPE_SIZE: Final = 1 << 20
_PAGE: Final = 4096
#: The most data that fit beside the header, which takes a page of the pipe for itself, wherever in a page they begin.
LIMIT: Final = _PIPE_SIZE - 2 * _PAGE


class FileRange(NamedTuple):
    """Part of an open file as the answer to a READ; it has to be sent before anything else is done with `fd`."""

    fd: int
    offset: int
    length: int


class Splicer:
    """A pipe between files and one device."""

    __slots__ = ("_device", "_reader", "_size", "_writer")

    def __init__(self, device: int) -> None:
        self._device = device
        self._size = 0
        self._open()

    def _open(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._size = fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            # The user's share of pipe pages is used up: everything goes by read and write.
            self._size = 0

    def send(self, header: bytes, part: FileRange) -> None:
        """Write `header` and the part of the file as one message.  Raises OSError as write(2) to the device does."""
        if part.length <= self._size - 2 * _PAGE and self._fill(header, part):
            os.splice(self._reader, self._device, len(header) + part.length)
            return
        data = os.pread(part.fd, part.length, part.offset)
        # The file may have become shorter meanwhile: the message must say how long it is now (its first u32).
        os.writev(self._device, [(len(header) + len(data)).to_bytes(4, sys.byteorder) + header[4:], data])

    def _fill(self, header: bytes, part: FileRange) -> bool:
        """Put the message into the pipe; False, and the pipe empty, when the file doesn't yield all of it that way."""
        done = 0
        try:
            os.write(self._writer, header)
            while done < part.length:
                step = os.splice(part.fd, self._writer, part.length - done, part.offset + done)
                if step == 0:
                    break
                done += step
        except OSError:
            pass
        if done == part.length:
            return True
        self.close()
        self._open()
        return False

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)
