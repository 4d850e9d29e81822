"""Where do the server's messages go?  Standard error while the user sees it, the system log after that."""

from __future__ import annotations

import logging
import logging.handlers
import os
from contextlib import suppress

from unionfs.cli.messages import one_line
from unionfs.linux.process import in_initramfs

_SYSTEM_LOG = "/dev/log"
_KERNEL_LOG = "/dev/kmsg"


class _OneLine(logging.Formatter):
    """`unionfs: message`, one line unless an exception comes with it: its traceback is worth its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"unionfs: {one_line(record.message)}"


def log_to_standard_error(*, debug: bool) -> None:
    """Warnings, and with `debug` every request, go to standard error."""
    _use(logging.StreamHandler(), logging.DEBUG if debug else logging.WARNING)


def log_to_system() -> None:
    """Warnings go to syslog as facility `daemon`, or nowhere when the machine has no /dev/log.

    Started from the initramfs, to the kernel's log: it stays when the root changes, and is found again without a path, which
    might lead through the mount itself.
    """
    handler: logging.Handler = logging.NullHandler()
    if in_initramfs():
        with suppress(OSError):
            handler = logging.StreamHandler(open(_KERNEL_LOG, "w", buffering=1, encoding="utf-8", errors="replace"))  # noqa: SIM115
    elif os.path.exists(_SYSTEM_LOG):
        try:
            handler = logging.handlers.SysLogHandler(_SYSTEM_LOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        except OSError:
            # A system log nobody listens to is the same as none; the mount must not fail for it.
            handler = logging.NullHandler()
    _use(handler, logging.WARNING)


def _use(handler: logging.Handler, level: int) -> None:
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("unionfs")
    for former in tuple(logger.handlers):
        logger.removeHandler(former)
        former.close()
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
