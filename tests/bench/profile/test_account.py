"""Does the account book every nanosecond, once, to the right row and stage?"""

from __future__ import annotations

import pytest

from tests.bench.profile import account as accounts
from tests.bench.profile.account import DECODING, READING, REPLYING, SESSION, SYSTEM, UNION, WAITING, Account


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The account's clock, which shows what the test writes into it."""
    shown = [0]
    monkeypatch.setattr(accounts, "_clock", lambda: shown[0])
    return shown


def test_the_way_of_a_request(now: list[int]) -> None:
    account = Account()
    account.adopt()
    account.await_request()
    now[0] = 10
    account.nothing_there()
    now[0] = 100
    account.await_request()
    now[0] = 103
    account.received()
    now[0] = 105
    before, _ = account.switch(DECODING)
    now[0] = 109
    account.identified("LOOKUP")
    account.switch(before)

    def call() -> int:
        now[0] += 20
        return 7

    def handle() -> int:
        now[0] += 5
        found = int(account.timed_call("statx", call)())
        now[0] += 1
        return found

    assert account.timed_stage(UNION, handle)() == 7
    now[0] += 2
    account.timed_stage(REPLYING, call)()
    account.await_request()
    row = account.rows["LOOKUP"]
    assert row.requests == 1
    assert row.calls == {"statx": 1}
    # What was waited for the first request is left out.
    assert row.times[WAITING] == 0
    assert [row.times[stage] for stage in (READING, SESSION, DECODING, UNION, SYSTEM, REPLYING)] == [3, 4, 4, 6, 20, 20]


def test_waiting_is_that_of_the_request_that_ends_it(now: list[int]) -> None:
    account = Account()
    for name, waited in (("OPEN", 50), ("READ", 70)):
        account.await_request()
        account.nothing_there()
        now[0] += waited
        account.await_request()
        account.received()
        account.identified(name)
    assert account.rows["OPEN"].times[WAITING] == 0
    assert account.rows["READ"].times[WAITING] == 70


def test_calls_outside_of_the_union_are_not_its_own() -> None:
    account = Account()
    account.adopt()
    assert account.timed_call("read", lambda: 3)() == 3
    assert account.row.calls == {}


def test_a_call_that_fails_is_booked_too(now: list[int]) -> None:
    account = Account()
    account.adopt()

    def fail() -> None:
        now[0] += 8
        raise OSError(2, "missing")

    def handle() -> None:
        account.timed_call("statx", fail)()

    with pytest.raises(OSError, match="missing"):
        account.timed_row("(scan)", handle)()
    assert account.rows["(scan)"].times[SYSTEM] == 8
    assert account.stage == WAITING
