"""In use: is an upper layer or work directory never served by two mounts at once, wherever they are and however one ended?"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.command import check_refusal, in_foreground, unionfs, wait_for, words
from tests.support.mounts import Driver, Kernel, Layers, Unionfs, is_mounted, option_string, servers_of, unmount

LayersFactory = Callable[..., Layers]
MOUNT_FAILED = 32


@contextmanager
def container(layers: Layers) -> Iterator[int]:
    """A mount of these layers in namespaces of its own, for mounts, processes and hostname; the pid of its first process."""
    script = 'mount -t proc proc /proc && "$@" && mountpoint -q "$mnt" && touch "$ready" && exec sleep 100'
    ready = layers.mnt.parent / "ready"
    isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--fork", "--kill-child"]
    command = [*isolated, "sh", "-c", script, "sh", *words("-o", option_string(layers, {}), layers.mnt)]
    environment = {**Unionfs().environment(), "mnt": str(layers.mnt), "ready": str(ready)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: ready.exists() or process.poll() is not None, "the mount in the container")
            assert process.poll() is None
            yield process.pid
        finally:
            process.kill()
    wait_for(lambda: not servers_of(layers.mnt), "the end of the container")
    ready.unlink()


def test_by_a_container(layers: Layers, make_layers: LayersFactory) -> None:
    """The lock is seen from other mount and process namespaces, where the mount itself is not; it ends with the container."""
    with container(layers):
        assert not is_mounted(layers.mnt)
        for other in (layers, replace(make_layers(), upper=layers.upper), replace(make_layers(), work=layers.work)):
            done = unionfs("-o", option_string(other, {}), other.mnt)
            check_refusal(done, MOUNT_FAILED, "in use", "choose another directory")
    with Unionfs().mount(layers) as mnt:
        (mnt / "file").write_bytes(b"")


def test_by_two_containers(layers: Layers) -> None:
    elsewhere = layers.mnt.parent / "elsewhere"
    elsewhere.mkdir()
    with container(layers):
        script = 'mount -t proc proc /proc && exec "$@"'
        isolated = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]
        done = subprocess.run(
            [*isolated, *words("-o", option_string(layers, {}), elsewhere)], env=Unionfs().environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        # Who it is can't be seen from there.
        check_refusal(done, MOUNT_FAILED, "in use by another unionfs mount")


@pytest.mark.parametrize("when", ["before the unmount", "after it"])
def test_a_server_that_was_killed(when: str, layers: Layers) -> None:
    """Nothing is left of its lock, though its mount point may still be there, and files of it open."""
    other = layers.mnt.parent / "other"
    other.mkdir()
    Unionfs().start(layers)
    (layers.mnt / "file").write_bytes(b"data")
    held = os.open(layers.mnt / "file", os.O_RDWR)
    try:
        (server,) = servers_of(layers.mnt)
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: not servers_of(layers.mnt), "its end")
        if when == "after it":
            subprocess.run(["umount", "-l", layers.mnt], check=True)
        with Unionfs().mount(replace(layers, mnt=other)) as mnt:
            assert (mnt / "file").read_bytes() == b"data"
    finally:
        os.close(held)
        if is_mounted(layers.mnt):
            unmount(layers.mnt)


def test_many_at_once(layers: Layers) -> None:
    """Of several commands started at the same time for the same directories one mounts, the others say who has them."""
    points = [layers.mnt.parent / f"mnt{number}" for number in range(4)]
    for point in points:
        point.mkdir()
    commands = [words("-o", option_string(layers, {}), point) for point in points]
    started = [
        subprocess.Popen(command, env=Unionfs().environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=60)[1] for process in started]
    try:
        assert sorted(process.returncode for process in started) == [0, *[MOUNT_FAILED] * 3], said
        assert sum(is_mounted(point) for point in points) == 1
    finally:
        for point in points:
            if is_mounted(point):
                unmount(point)


@pytest.mark.parametrize("holder", [Unionfs(), Kernel()], ids=["unionfs", "overlay"])
def test_a_lower_layer_that_is_written_to(holder: Driver, layers: Layers, make_layers: LayersFactory, scratch: Path) -> None:
    """The upper layer of a live mount as another's lower one: a warning, as in overlayfs."""
    reader = replace(make_layers(), lowers=(layers.top,))
    log = scratch / "log"
    with holder.mount(layers), in_foreground(reader, log=log):
        assert os.listdir(reader.mnt) == []
    said = f"lowerdir: {layers.top} is the upper layer or work directory of a live mount ({holder_name(holder)}"
    assert said in log.read_text()
    with in_foreground(reader, log=log):
        pass
    assert "live mount" not in log.read_text()


def holder_name(holder: Driver) -> str:
    """How the warning about this kind of mount begins."""
    return "process" if holder.name == "unionfs" else ""


def test_layers_are_shared_without_a_word(layers: Layers, make_layers: LayersFactory, scratch: Path) -> None:
    other = replace(make_layers(), lowers=layers.lowers)
    log = scratch / "log"
    with Unionfs().mount(layers), in_foreground(other, log=log):
        time.sleep(0.1)
    assert log.read_text() == ""
