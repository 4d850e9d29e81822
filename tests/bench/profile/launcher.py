"""How is a measured server started?  `python -m tests.bench.profile.launcher FILE ARGUMENTS`: the command, with its time kept.

On SIGUSR1 the account begins anew, on SIGUSR2 it is written to FILE as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.bench.profile import instruments
from tests.bench.profile.account import Account


def launch(report: Path, arguments: list[str]) -> int:
    """Runs the command `unionfs ARGUMENTS` under an account; its exit status."""
    account = Account()
    instruments.wrap_system_calls(account)
    instruments.wrap_session(account)

    def write() -> None:
        rows = {name: row.as_json() for name, row in account.rows.items()}
        unfinished = report.with_suffix(".new")
        unfinished.write_text(json.dumps(rows), encoding="ascii")
        os.replace(unfinished, report)

    signal.signal(signal.SIGUSR1, lambda *_: account.reset())
    signal.signal(signal.SIGUSR2, lambda *_: write())
    from unionfs.cli.main import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), sys.argv[2:]))
