"""Does the server look out for the next request for a short while only, and sleep at rest?"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients.command import in_foreground
from tests.support.mounts import Layers
from unionfs.linux import cpuidle
from unionfs.serve import polling
from unionfs.serve.config import CpuIdle
from unionfs.serve.polling import Poller, idle_cpus


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


class Usage(NamedTuple):
    """What getrusage(2) says of involuntary context switches."""

    ru_nivcsw: int


class Clock:
    """A clock that goes on by a microsecond with every look at it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1000
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands for the time, of which so much passes as is looked at, on a machine of two cores that nobody else wants."""
    made = Clock()
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage(0))
    monkeypatch.setattr(polling, "_clock", made)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    return made


def test_what_is_there_is_seen_at_once(pipe: tuple[int, int], clock: Clock) -> None:
    poller = Poller(pipe[0])
    assert not poller.look()
    os.write(pipe[1], b"x")
    assert poller.look()
    assert clock.now == 0
    assert poller.ready()


def test_it_gives_up_sooner_and_sooner(pipe: tuple[int, int], clock: Clock) -> None:
    poller = Poller(pipe[0])
    spent = []
    for _ in range(30):
        before = clock.now
        assert not poller.ready()
        spent.append(clock.now - before)
    assert spent == sorted(spent, reverse=True)
    assert spent[0] < 100_000
    assert 0 < spent[-1] == spent[-2] < spent[0]


def test_it_looks_longer_where_that_pays(pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while it looks makes it look longer the next time, up to a bound."""
    poller = Poller(pipe[0])

    def comes_after(looks: int) -> None:
        answers = iter([False] * looks)
        monkeypatch.setattr(poller, "_poll", lambda timeout: next(answers, True))

    for _ in range(100):
        comes_after(5)
        assert poller.ready()
    comes_after(1000)
    before = clock.now
    assert not poller.ready()
    assert 50_000 < clock.now - before <= 110_000


def test_on_a_single_core_it_never_looks_twice(pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    poller = Poller(pipe[0])
    assert not poller.ready()
    assert clock.now == 0
    os.write(pipe[1], b"x")
    assert poller.ready()


def test_where_others_want_the_core_it_does_not_look(
    pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a look that took this thread milliseconds, for a while; twice as long each time that it was no use to begin again."""
    clock.now = 10_000_000_000
    poller = Poller(pipe[0])
    lost = [0]

    def held_up(timeout: int) -> bool:
        clock.now += lost[0]
        return False

    monkeypatch.setattr(poller, "_poll", held_up)

    def looks() -> bool:
        before = clock.now
        assert not poller.ready()
        return clock.now - before > 5_000

    for pause in (20_000_000, 40_000_000, 80_000_000):
        assert looks()
        lost[0] = 3_000_000
        assert not poller.ready()
        lost[0] = 0
        began = clock.now
        assert not looks()
        clock.now = began + pause - 5_000_000
        assert not looks()
        clock.now = began + pause + 100_000
    assert looks()
    clock.now += 10_000_000_000
    lost[0] = 3_000_000
    assert not poller.ready()
    lost[0] = 0
    assert not looks()
    clock.now += 20_000_000
    assert looks()


def test_where_it_has_to_leave_the_core_again_and_again_it_does_not_look(
    pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now = 10_000_000_000
    poller = Poller(pipe[0])
    displaced = [0]
    monkeypatch.setattr(resource, "getrusage", lambda who: Usage(displaced[0]))

    def looks_after(pause: int, often: int) -> bool:
        """Does it look, so many nanoseconds later, in which the thread had to leave the core so often?"""
        clock.now += pause
        displaced[0] += often
        before = clock.now
        assert not poller.ready()
        return clock.now - before > 5_000

    assert looks_after(20_000_000, 0)
    assert looks_after(20_000_000, 2)
    assert not looks_after(20_000_000, 20)
    assert looks_after(20_100_000, 1)
    assert not looks_after(20_000_000, 20)
    assert not looks_after(20_100_000, 1)
    assert looks_after(20_000_000, 1)


class Cores:
    """What was asked of idle cores."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def keep_awake(self) -> None:
        self.asked.append("wake")

    def let_sleep(self) -> None:
        self.asked.append("sleep")


class Requests:
    """Polled in the descriptor's place: how many times in vain before the next request; times with a nap count, too.

    takes: nanoseconds of each look.
    """

    def __init__(self, poller: Poller, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.naps: list[int] = []
        self.in_vain = 0
        self.takes = 0
        self._clock = clock
        monkeypatch.setattr(poller, "_poll", self._poll)

    def _poll(self, timeout: int) -> bool:
        if timeout:
            self.naps.append(timeout)
        self._clock.now += self.takes
        self.in_vain -= 1
        return self.in_vain < 0


def test_cores_are_awake_while_requests_follow_one_another(
    pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the fourth on; and as long as the next one comes before the end of a short nap."""
    cores = Cores()
    poller = Poller(pipe[0], cores)
    requests = Requests(poller, clock, monkeypatch)
    asked = []
    for _ in range(6):
        requests.in_vain = 3
        assert poller.ready()
        asked.append(list(cores.asked))
    assert asked == [[], [], [], ["wake"], ["wake"], ["wake"]]
    # Three looks, and then the nap that ends with a request.
    poller._budget = 3_000
    requests.in_vain = 3
    assert poller.ready()
    assert (requests.naps, cores.asked) == ([1], ["wake"])
    requests.in_vain = 100
    poller._budget = 3_000
    assert not poller.ready()
    assert (requests.naps, cores.asked) == ([1, 1, 20], ["wake", "sleep"])
    requests.in_vain = 3
    poller._budget = 50_000
    assert poller.ready()
    assert cores.asked == ["wake", "sleep"]


@pytest.mark.parametrize("why", ["others want the core", "a task is waited for"])
def test_cores_may_sleep_when_nothing_is_looked_for(
    why: str, pipe: tuple[int, int], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = Cores()
    poller = Poller(pipe[0], cores)
    requests = Requests(poller, clock, monkeypatch)
    for _ in range(4):
        requests.in_vain = 3
        assert poller.ready()
    assert cores.asked == ["wake"]
    if why == "a task is waited for":
        poller.rest()
    else:
        requests.takes = 3_000_000
        assert poller.ready()
    assert cores.asked == ["wake", "sleep"]
    poller.rest()
    assert cores.asked == ["wake", "sleep"]


def test_few_cores_of_a_virtual_machine_are_kept_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where sleeping costs little, and not many for the sake of one mount; unless that is insisted on."""
    for in_host, cores, expected in [(True, 4, True), (True, 5, False), (False, 2, False)]:
        monkeypatch.setattr(cpuidle, "sleeps_in_host", lambda answer=in_host: answer)
        monkeypatch.setattr(os, "cpu_count", lambda answer=cores: answer)
        assert idle_cpus(CpuIdle.SLEEP) is None
        for wanted, there in [(CpuIdle.AUTO, expected), (CpuIdle.POLL, True)]:
            found = idle_cpus(wanted)
            assert (found is not None) is there
            if found is not None:
                found.close()


@pytest.mark.parametrize("wanted", ["poll", "sleep"])
def test_the_request_is_the_mounts(wanted: str, layers: Layers) -> None:
    """The server holds the device while it is mounted, and only if it is to make use of it."""
    with in_foreground(layers, {"cpu_idle": wanted}) as server:
        held = {os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()}
    assert (cpuidle.DEVICE in held) is (wanted == "poll")


def cpu_seconds(pid: int) -> float:
    """What the process has used, in user and system mode, to the nanosecond (proc(5), /proc/PID/schedstat)."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


@pytest.mark.parametrize("held", [False, True], ids=["unused", "with files open"])
def test_at_rest_no_time_is_used(held: bool, layers: Layers) -> None:
    (layers.lowers[0] / "file").write_bytes(b"below")
    with in_foreground(layers) as server:
        for number in range(50):
            (layers.mnt / f"file{number}").write_bytes(b"x")
        reader = os.open(layers.mnt / "file", os.O_RDONLY)
        writer = os.open(layers.mnt / "file0", os.O_RDWR)
        if not held:
            os.close(reader)
            os.close(writer)
        time.sleep(0.3)
        before = cpu_seconds(server.pid)
        time.sleep(1.5)
        assert cpu_seconds(server.pid) - before < 0.005
        if held:
            os.close(reader)
            os.close(writer)
