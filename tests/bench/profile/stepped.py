"""How is a coroutine's own time told from the time it waits?  It is driven step by step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from tests.bench.profile.account import UNION, Account, Row


class Stepped:
    """Awaits `inner`; each of its steps is the union's work for the row that `find_row` names when it begins."""

    __slots__ = ("_account", "_find_row", "_inner")

    def __init__(self, account: Account, inner: Awaitable[Any], find_row: Callable[[], Row]) -> None:
        self._account = account
        self._inner = inner
        self._find_row = find_row

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        advance: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            before = self._account.switch(UNION, self._find_row())
            try:
                waits_for = advance()
            except StopIteration as end:
                return end.value
            finally:
                self._account.switch(*before)
            try:
                value = yield waits_for
            except BaseException as error:
                advance = _throwing(steps, error)
            else:
                advance = _sending(steps, value)


def _throwing(steps: Generator[Any, Any, Any] | Any, error: BaseException) -> Callable[[], Any]:
    return lambda: steps.throw(error)


def _sending(steps: Generator[Any, Any, Any] | Any, value: Any) -> Callable[[], Any]:
    return lambda: steps.send(value)
