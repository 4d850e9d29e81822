"""Why can't a measurement go on?"""


class BenchError(Exception):
    """A reason in one line, with which the benchmark ends."""
