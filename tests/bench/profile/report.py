"""How is a profile shown?  One table of times and one of system calls for each workload, a line for each kind of request."""

from __future__ import annotations

from typing import Any

from tests.bench.profile.account import STAGES
from tests.bench.tables import number, table

Rows = dict[str, dict[str, Any]]


def text(title: str, plain_ms: list[float], measured_ms: list[float], rows: Rows) -> str:
    """The profile of one workload; `plain_ms` are its times without, `measured_ms` with the measuring."""
    happened = [item for item in rows.items() if item[1]["requests"] or item[1]["system_calls"] or item[1]["worker_ns"]]
    shown = sorted(happened, key=lambda item: -_busy(item[1]))
    total = sum(row["requests"] for row in rows.values())
    times = " + ".join(f"{value:.0f}" for value in plain_ms)
    with_account = " + ".join(f"{value:.0f}" for value in measured_ms)
    head = f"{title}: {times} ms ({with_account} ms while measured), {total:,} requests"
    heading = ["us per request", "requests", *STAGES, "in threads", "in all, ms"]
    calls = [[name, _calls(row)] for name, row in shown if row["system_calls"]]
    parts = [head, table(heading, [_line(name, row) for name, row in shown])]
    if calls:
        parts.append(table(["system calls per request", "of the union"], calls))
    return "\n\n".join(parts)


def _busy(row: dict[str, Any]) -> int:
    """Nanoseconds of work: all but waiting."""
    return sum(spent for stage, spent in row["ns"].items() if stage != STAGES[0])


def _line(name: str, row: dict[str, Any]) -> list[str]:
    requests = row["requests"]
    each = [row["ns"][stage] / 1e3 / requests if requests else None for stage in STAGES]
    threads = row["worker_ns"] / 1e3 / requests if requests else None
    cells = [number(value, ".1f") for value in [*each, threads]]
    return [name, f"{requests:,}" if requests else "-", *cells, f"{_busy(row) / 1e6:.1f}"]


def _calls(row: dict[str, Any]) -> str:
    """Calls by name and number per request, of rows that are no requests in all; the rare ones left out."""
    requests = row["requests"] or 1
    most = sorted(row["system_calls"].items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count / requests:.2f}" for name, count in most if count / requests >= 0.005)
