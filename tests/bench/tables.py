"""How is a table written as text?"""

from collections.abc import Sequence


def table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in the syntax of Markdown: the first column to the left, the others to the right."""
    rows = [list(heading), *(list(line) for line in lines)]
    widths = [max(3, *(len(row[index]) for row in rows)) for index in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(row, widths) for row in [rows[0], rule, *rows[1:]])


def number(value: float | None, form: str) -> str:
    """A value in a format, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = [value.rjust(width) for value, width in zip(row[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *rest])} |"
