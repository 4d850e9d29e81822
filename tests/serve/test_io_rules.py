"""Does any sequence of operations make the server give an answer that the kernel turns into EIO, or that shows wrong data?

Random programs on a few files, with several descriptors at once, in every mode of `lower_io` and with the draft of inode
passthrough: the fake kernel checks each reply, and what is read and shown is compared with plain byte strings.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule, run_state_machine_as_test

from tests.serve.fake_kernel import ROOT
from tests.serve.kernel_rules import Opened
from tests.serve.passthrough_kernel import PassthroughKernel, passthrough_kernel
from tests.support.mounts import Layers
from tests.wire import kernel
from unionfs.serve.config import LowerIo
from unionfs.wire import abi

EXEC = 0x20
NAMES = ("plain", "script", "lib.so", "one", "two", "own", "new", "other")
FLAGS = (os.O_RDONLY, os.O_RDONLY | EXEC, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_APPEND)
LayersFactory = Callable[..., Layers]


@dataclass(eq=False)
class File:
    """What a file should be.  running: descriptors by which it is executed."""

    data: bytes
    running: int = 0


@dataclass(eq=False)
class Descriptor:
    """An open file.  old: the data that it keeps if its reads pass through to the lower file."""

    file: File
    opened: Opened
    flags: int
    old: bytes
    closed: bool = field(default=False)


def fill(layers: Layers) -> dict[str, File]:
    """A plain file, what is mapped by nature, hard links, and a file on the upper layer."""
    lower = layers.lowers[0]
    contents = {"plain": b"plain file", "script": b"\x7fELF program", "lib.so": b"\x7fELF object", "one": b"two names"}
    for name, data in contents.items():
        (lower / name).write_bytes(data)
    (lower / "script").chmod(0o755)
    os.link(lower / "one", lower / "two")
    (layers.top / "own").write_bytes(b"own data")
    made = {name: File(data) for name, data in contents.items()}
    return made | {"two": File(b"two names"), "own": File(b"own data")}


class Program(RuleBasedStateMachine):
    """Operations of several programs at once."""

    descriptors = Bundle("descriptors")

    def __init__(self, layers: Layers, lower_io: LowerIo, draft: bool) -> None:
        super().__init__()
        self._stack = ExitStack()
        self.files = fill(layers)
        self._layers = layers
        self._keeps_old = lower_io is LowerIo.PASSTHROUGH
        self.kernel: PassthroughKernel = self._stack.enter_context(
            passthrough_kernel(layers, lower_io=lower_io, draft=draft)
        )

    def teardown(self) -> None:
        try:
            self._stack.close()
        finally:
            shutil.rmtree(self._layers.mnt.parent)

    def _descriptor(self, file: File, opened: Opened, flags: int) -> Descriptor:
        if flags & os.O_TRUNC:
            file.data = b""
        if flags & EXEC:
            file.running += 1
        return Descriptor(file, opened, flags, file.data)

    @rule(target=descriptors, name=st.sampled_from(NAMES), flags=st.sampled_from(FLAGS))
    def open(self, name: str, flags: int) -> Descriptor | None:
        file = self.files.get(name)
        try:
            opened = self.kernel.open(name, flags)
        except FileNotFoundError:
            assert file is None
            return None
        except OSError as error:
            if error.errno != errno.ETXTBSY or file is None or not file.running or not flags & os.O_ACCMODE:
                raise
            return None
        assert file is not None, f"{name} was opened and is not there"
        return self._descriptor(file, opened, flags)

    @rule(target=descriptors, held=descriptors, flags=st.sampled_from(FLAGS[:4]))
    def open_again(self, held: Descriptor | None, flags: int) -> Descriptor | None:
        """By /proc/self/fd: no name to look up, the VFS asks the same inode once more."""
        if held is None or held.closed:
            return None
        for last in (False, True):
            try:
                opened = self.kernel.open_inode(held.opened.nodeid, flags)
            except OSError as error:
                # ETXTBSY: the lower file can be neither written nor executed through an inode that is open on it.
                if error.errno not in (errno.ESTALE, errno.ETXTBSY) or (last and error.errno == errno.ESTALE):
                    raise
                if error.errno == errno.ETXTBSY:
                    return None
            else:
                return self._descriptor(held.file, opened, flags)
        return None

    @rule(held=consumes(descriptors))
    def close(self, held: Descriptor | None) -> None:
        if held is None or held.closed:
            return
        held.closed = True
        if held.flags & EXEC:
            held.file.running -= 1
        self.kernel.release(held.opened)

    @rule(held=descriptors)
    def read(self, held: Descriptor | None) -> None:
        if held is None or held.closed or held.flags & os.O_ACCMODE == os.O_WRONLY:
            return
        found = self.kernel.read(held.opened)
        if found != held.file.data:
            assert self._keeps_old, f"read {found!r} instead of {held.file.data!r}"
            assert found == held.old

    @rule(held=descriptors, data=st.binary(min_size=1, max_size=4), offset=st.integers(0, 12))
    def write(self, held: Descriptor | None, data: bytes, offset: int) -> None:
        if held is None or held.closed or held.flags & os.O_ACCMODE == os.O_RDONLY:
            return
        self.kernel.write(held.opened, data, offset)
        before = held.file.data.ljust(offset, b"\0")
        held.file.data = before[:offset] + data + before[offset + len(data) :]

    @rule(held=descriptors)
    def map(self, held: Descriptor | None) -> None:
        """mmap(2), shared."""
        if held is not None and not held.closed:
            self.kernel.rules.map_shared(held.opened)

    @rule(name=st.sampled_from(NAMES), size=st.integers(0, 12))
    def truncate(self, name: str, size: int) -> None:
        file = self.files.get(name)
        if file is None:
            return
        for last in (False, True):
            code = self.kernel.error(kernel.setattr_(self.kernel.find(name).nodeid, abi.FATTR_SIZE, size=size))
            if code != errno.ESTALE:
                break
            assert not last, "ESTALE reaches the caller"
        if code == errno.ETXTBSY:
            assert file.running
            return
        assert code == 0, os.strerror(code)
        file.data = file.data[:size].ljust(size, b"\0")

    @rule(held=descriptors, size=st.integers(0, 12))
    def ftruncate(self, held: Descriptor | None, size: int) -> None:
        if held is None or held.closed or held.flags & os.O_ACCMODE == os.O_RDONLY:
            return
        valid = abi.FATTR_SIZE | abi.FATTR_FH
        self.kernel.ok(kernel.setattr_(held.opened.nodeid, valid, fh=held.opened.fh, size=size))
        held.file.data = held.file.data[:size].ljust(size, b"\0")

    @rule(name=st.sampled_from(NAMES), mode=st.sampled_from((0o600, 0o755)))
    def chmod(self, name: str, mode: int) -> None:
        if name in self.files:
            self.kernel.ok(kernel.setattr_(self.kernel.find(name).nodeid, abi.FATTR_MODE, mode=mode))

    @rule(held=descriptors)
    def fchmod(self, held: Descriptor | None) -> None:
        """By a descriptor: never ESTALE."""
        if held is not None and not held.closed:
            self.kernel.ok(kernel.setattr_(held.opened.nodeid, abi.FATTR_MODE, mode=0o700))

    @rule(name=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def link(self, name: str, new: str) -> None:
        if name in self.files and new not in self.files:
            self.files[new] = self.files[name]
            self.kernel.ok(kernel.link(ROOT, new.encode(), self.kernel.find(name).nodeid))

    @rule(name=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def rename(self, name: str, new: str) -> None:
        if name in self.files and self.files.get(new) is not self.files[name]:
            if new in self.files:
                self.kernel.find(new)
            self.kernel.find(name)
            self.kernel.ok(kernel.rename(ROOT, name.encode(), ROOT, new.encode()))
            self.files[new] = self.files.pop(name)

    @rule(name=st.sampled_from(NAMES))
    def unlink(self, name: str) -> None:
        if self.files.pop(name, None) is not None:
            self.kernel.find(name)
            self.kernel.ok(kernel.unlink(ROOT, name.encode()))

    @rule(target=descriptors, name=st.sampled_from(NAMES))
    def create(self, name: str) -> Descriptor | None:
        if name in self.files:
            return None
        file = self.files[name] = File(b"")
        return Descriptor(file, self.kernel.create(ROOT, name), os.O_RDWR, b"")

    @rule(name=st.sampled_from(NAMES))
    def stat(self, name: str) -> None:
        file = self.files.get(name)
        if file is None:
            return
        nodeid = self.kernel.find(name).nodeid
        assert self.kernel.stat(nodeid).size == len(file.data)
        assert self.kernel.stat(nodeid) == self.kernel.asked_stat(nodeid)

    @rule(held=descriptors)
    def fstat(self, held: Descriptor | None) -> None:
        if held is not None and not held.closed:
            assert self.kernel.stat(held.opened.nodeid).size == len(held.file.data)

    @rule()
    def shrink_caches(self) -> None:
        """The kernel drops what nobody has open."""
        for nodeid, inode in list(self.kernel.rules.inodes.items()):
            if nodeid != ROOT and not inode.opens:
                self.kernel.send(kernel.forget(nodeid, inode.lookups))
        self.kernel.settle()

    @rule(plus=st.booleans())
    def list(self, plus: bool) -> None:
        names = {os.fsdecode(entry.name) for entry in self.kernel.listing(ROOT, plus=plus)}
        assert names - {".", ".."} == set(self.files)


@pytest.mark.parametrize("draft", [False, True], ids=["released", "draft"])
@pytest.mark.parametrize("lower_io", LowerIo)
def test_any_program(lower_io: LowerIo, draft: bool, make_layers: LayersFactory) -> None:
    class OnTheseLayers(Program):
        def __init__(self) -> None:
            super().__init__(make_layers(1), lower_io, draft)

    run_state_machine_as_test(
        OnTheseLayers,
        settings=settings(
            max_examples=40, stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
