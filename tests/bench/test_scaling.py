"""Are the many layers what they are meant to be, and can the kernel be told of all of them?"""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench.mounts import Cell
from tests.bench.scaling import DIRECTORY, LISTING, LOOKUP, Point, layer_names, make_stack, stack_of

PAGE = 4096


def test_files_are_dealt_out(tmp_path: Path) -> None:
    point = Point(LOOKUP, 3, 10)
    make_stack(tmp_path, point)
    make_stack(tmp_path, point)
    held = [os.listdir(stack_of(tmp_path, point) / name / DIRECTORY) for name in layer_names(point)]
    assert [len(names) for names in held] == [4, 3, 3]
    assert len({name for names in held for name in names}) == 10


def test_a_listing_counts_all_names_and_a_lookup_not() -> None:
    assert Point(LISTING, 1, 100_000).names == 100_000
    assert Point(LOOKUP, 1, 100_000).names < 100_000


def test_five_hundred_layers_fit_in_the_options_of_mount() -> None:
    base = Path("/dev/shm/unionfs-bench-12345678/ext4/cells/cell")
    cell = Cell(base, base / "upper", base / "work", base / "mount", layer_names(Point(LOOKUP, 500, 5_000)))
    assert len(cell.overlay_options) < PAGE
