"""With the draft of inode passthrough: does every directory show by itself what the server would say, whatever moves where?

Random changes of a small tree on both layers.  The fake kernel checks each reply; after every step each object is stat'ed and
each directory listed twice, once where the kernel may do it by itself and once by asking the server.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.serve.fake_kernel import ROOT
from tests.serve.passthrough_kernel import PassthroughKernel, passthrough_kernel
from tests.support.mounts import Layers
from tests.wire import kernel
from unionfs.wire import abi

DIRECTORY, SYMLINK = 4, 10
NAMES = ("a", "b", "c")
EXCHANGE = 2
#: What a change of names may be refused with: the kernel's overlayfs says the same.
REFUSALS = frozenset((errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR))
LayersFactory = Callable[..., Layers]


def fill(layers: Layers) -> None:
    """Directories on one layer, on the other and on both, each with a file and a directory."""
    for base, names in ((layers.lowers[0], ("low", "both")), (layers.top, ("up", "both"))):
        for name in names:
            (base / name / "inner").mkdir(parents=True)
            (base / name / "inner" / "deep").write_bytes(b"deep")
            (base / name / base.name).write_bytes(b"file")
    os.link(layers.lowers[0] / "low" / "lower0", layers.lowers[0] / "low" / "second")


class Changes(RuleBasedStateMachine):
    """One program that moves things about."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        fill(layers)
        self._layers = layers
        self._tree: dict[str, int] = {}
        self._stack = ExitStack()
        self.kernel: PassthroughKernel = self._stack.enter_context(passthrough_kernel(layers, draft=True))

    def teardown(self) -> None:
        try:
            self._stack.close()
        finally:
            shutil.rmtree(self._layers.mnt.parent)

    def _walk(self) -> dict[str, int]:
        """All paths below the root, and their types (DT_)."""
        found: dict[str, int] = {}
        waiting = [("", ROOT)]
        while waiting:
            path, nodeid = waiting.pop()
            for name, (_, kind) in sorted(self.kernel.asked_names(nodeid).items()):
                if name not in (".", ".."):
                    below = f"{path}/{name}".lstrip("/")
                    found[below] = kind
                    if kind == DIRECTORY:
                        waiting.append((below, self.kernel.find(below).nodeid))
        return found

    def _some(self, choice: int, *, directory: bool) -> str:
        """Some path, of a directory if that is asked for; the root is the empty one."""
        tree = self._tree
        paths = ["", *(path for path, kind in tree.items() if kind == DIRECTORY)] if directory else [*tree]
        return paths[choice % len(paths)] if paths else ""

    def _id(self, path: str) -> int:
        return self.kernel.find(path).nodeid if path else ROOT

    def _do(self, message: bytes) -> None:
        code = self.kernel.error(message)
        assert code in REFUSALS | {0}, os.strerror(code)

    @rule(where=st.integers(0, 99), name=st.sampled_from(NAMES), what=st.sampled_from(("mkdir", "create", "symlink")))
    def make(self, where: int, name: str, what: str) -> None:
        parent = self._id(self._some(where, directory=True))
        if name in self.kernel.asked_names(parent):
            return
        if what == "create":
            self.kernel.release(self.kernel.create(parent, name))
        elif what == "mkdir":
            self._do(kernel.mkdir(parent, name.encode(), 0o755))
        else:
            self._do(kernel.symlink(parent, name.encode(), b"target"))

    @rule(which=st.integers(0, 99), mode=st.sampled_from((0o700, 0o755)))
    def chmod(self, which: int, mode: int) -> None:
        """A copy-up, if it is on the lower layer."""
        path = self._some(which, directory=False)
        if path and self._tree[path] != SYMLINK:
            self._do(kernel.setattr_(self._id(path), abi.FATTR_MODE, mode=mode))

    @rule(which=st.integers(0, 99), where=st.integers(0, 99), name=st.sampled_from(NAMES))
    def link(self, which: int, where: int, name: str) -> None:
        path, parent = self._some(which, directory=False), self._id(self._some(where, directory=True))
        if path and self._tree[path] != DIRECTORY and name not in self.kernel.asked_names(parent):
            self._do(kernel.link(parent, name.encode(), self._id(path)))

    @rule(which=st.integers(0, 99), where=st.integers(0, 99), name=st.sampled_from(NAMES))
    def rename(self, which: int, where: int, name: str) -> None:
        path, target = self._some(which, directory=False), self._some(where, directory=True)
        new = f"{target}/{name}".lstrip("/")
        # The VFS lets nothing move into itself or over what it lies in.
        if path and not f"{new}/".startswith(f"{path}/") and not path.startswith(f"{new}/"):
            parent, _, old = path.rpartition("/")
            self._do(kernel.rename(self._id(parent), old.encode(), self._id(target), name.encode()))

    @rule(which=st.integers(0, 99), other=st.integers(0, 99))
    def exchange(self, which: int, other: int) -> None:
        one, two = self._some(which, directory=False), self._some(other, directory=False)
        if one and two and not f"{two}/".startswith(f"{one}/") and not f"{one}/".startswith(f"{two}/"):
            (first, _, old), (second, _, new) = one.rpartition("/"), two.rpartition("/")
            self._do(kernel.rename2(self._id(first), old.encode(), self._id(second), new.encode(), EXCHANGE))

    @rule(which=st.integers(0, 99))
    def remove(self, which: int) -> None:
        if path := self._some(which, directory=False):
            parent, _, name = path.rpartition("/")
            remove = kernel.rmdir if self._tree[path] == DIRECTORY else kernel.unlink
            self._do(remove(self._id(parent), name.encode()))

    @rule()
    def shrink_caches(self) -> None:
        """The kernel drops what nobody has open, children first."""
        for nodeid, inode in reversed(list(self.kernel.rules.inodes.items())):
            if nodeid != ROOT and not inode.opens:
                self.kernel.send(kernel.forget(nodeid, inode.lookups))
        self.kernel.settle()

    @invariant()
    def everything_shows_what_the_server_says(self) -> None:
        self._tree = self._walk()
        for path, kind in self._tree.items():
            nodeid = self.kernel.find(path).nodeid
            assert self.kernel.stat(nodeid) == self.kernel.asked_stat(nodeid), path
            if kind == DIRECTORY:
                assert self.kernel.names(nodeid) == self.kernel.asked_names(nodeid), path


def test_any_changes(make_layers: LayersFactory) -> None:
    class OnFreshLayers(Changes):
        def __init__(self) -> None:
            super().__init__(make_layers(1))

    run_state_machine_as_test(
        OnFreshLayers,
        settings=settings(
            max_examples=25, stateful_step_count=15, suppress_health_check=list(HealthCheck)
        ),
    )
