"""How are the samples summed up: medians, ratios to the bind mount, the patches' own figures and the bars to be met?"""

from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from tests.bench.passthrough.places import BIND, PASSTHROUGH, PLAIN

PLACES = (PLAIN, PASSTHROUGH, BIND)


class Published(NamedTuple):
    """Figures of one version of "fuse: Add support for passthrough read/write": by place, in a unit that cancels out."""

    plain: float
    passthrough: float
    bind: float

    def speed(self, place: str, more_is_better: bool) -> float:
        """The speed at a place as a ratio to the bind mount's."""
        own = {PLAIN: self.plain, PASSTHROUGH: self.passthrough, BIND: self.bind}[place]
        return own / self.bind if more_is_better else self.bind / own


V6 = "v6"
V12 = "v12"
PUBLISHED: dict[str, dict[str, Published]] = {
    # 2020, Linux 5.8, Xeon E5-2678v3, ext4 on an SSD, fio on a file of 50 GiB, KiB/s; a kernel build, seconds.
    V6: {
        "read-4k": Published(468_897, 502_085, 516_830),
        "randread-4k": Published(15_773, 26_632, 21_386),
        "write-4k": Published(58_185, 141_272, 141_671),
        "randwrite-4k": Published(59_892, 75_236, 76_486),
        "compile": Published(144.6, 133.8, 109.4),
    },
    # 2021, MiB/s.
    V12: {
        "read-4k": Published(471, 1791, 1839),
        "randread-4k": Published(25, 860, 1135),
        "write-4k": Published(95, 1068, 1322),
        "randwrite-4k": Published(76, 813, 1005),
    },
}
"""By version of the patches and row name."""

_LARGE_BLOCKS = 0.97
_BARS = {
    "read-1M": (_LARGE_BLOCKS, None),
    "randread-1M": (_LARGE_BLOCKS, None),
    "write-1M": (_LARGE_BLOCKS, None),
    "randwrite-1M": (_LARGE_BLOCKS, None),
    "randread-4k": (0.85, "tmpfs"),
    "randwrite-4k": (0.55, "tmpfs"),
    "write-4k": (0.55, "tmpfs"),
}
"""The least speed of passthrough, as a ratio to the bind mount's, and the disk it is asked of (None: every one)."""


class Pair(NamedTuple):
    """Passthrough beside the bind mount, block by block: quartiles of the speed ratio over so many `pairs`.

    `control` is the median ratio of the bind mount to itself, measured in the same way: its distance from 1 is noise.
    """

    low: float
    middle: float
    high: float
    pairs: int
    control: float


@dataclass
class RowResult:
    """The samples of one row: by place, one for each round, None where the measurement failed."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    samples: dict[str, list[float | None]] = field(default_factory=lambda: {place: [] for place in PLACES})
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, place: str) -> float | None:
        """The median in the row's unit; None where nothing was measured."""
        found = [sample for sample in self.samples[place] if sample is not None]
        return median(found) if found else None

    def speed(self, place: str) -> float | None:
        """The median over the rounds of the speed as a ratio to the bind mount's in the same round.

        Within a round the measurements follow one another at once, so what disturbs the machine for longer cancels out.
        """
        ratios = self.speeds(place)
        return median(ratios) if ratios else None

    def speeds(self, place: str) -> list[float]:
        """The ratio to the bind mount in each round in which both were measured."""
        pairs = zip(self.samples[place], self.samples[BIND], strict=False)
        both = [(own, base) for own, base in pairs if own and base]
        return [own / base if self.more_is_better else base / own for own, base in both]

    def published(self, version: str, place: str) -> float | None:
        """The patches' own ratio for this row, None where they give none."""
        figures = PUBLISHED[version].get(self.name)
        return figures.speed(place, self.more_is_better) if figures else None

    def bar(self, disk: str) -> float | None:
        """The least ratio that passthrough is to reach on this disk, None where there is none."""
        least, only_on = _BARS.get(self.name, (None, None))
        return least if only_on in (None, disk) else None


@dataclass
class Results:
    """A whole run: the disk it was made on, its rows in the order of the table, and by row name what was measured in pairs."""

    disk: str
    file_bytes: int
    rows: list[RowResult]
    versions: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, Pair] = field(default_factory=dict)

    def measured(self) -> list[RowResult]:
        """The rows that have a sample or a failure."""
        return [row for row in self.rows if row.failures or any(row.samples.values())]
