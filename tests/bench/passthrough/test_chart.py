"""Does the chart show every number, each at its length? It is read as the XML that it is."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench.passthrough import chart
from tests.bench.passthrough.places import BIND, PASSTHROUGH, PLAIN
from tests.bench.passthrough.results import Results, RowResult

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*rows: tuple[str, float, float]) -> ElementTree.Element:
    """The chart of rows given as name, ratio of plain FUSE and ratio of passthrough; 0 is one that was not measured."""
    made = []
    for name, plain, passthrough in rows:
        result = RowResult(name, f"<{name}>", "MiB/s", True)
        result.samples = {PLAIN: [plain or None], PASSTHROUGH: [passthrough or None], BIND: [1.0]}
        made.append(result)
    return ElementTree.fromstring(chart.svg(Results("tmpfs", 1, made)))


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def bars(svg: ElementTree.Element) -> list[float]:
    """The lengths of the bars in pixels, from the top: without the background and the legend's squares."""
    widths = [rect.attrib["width"] for rect in svg.iter(f"{SVG}rect") if "x" in rect.attrib]
    return [float(width) for width in widths if width != "12.0"]


def test_lengths_are_in_proportion() -> None:
    plain, passthrough = bars(drawn(("read-1M", 0.4, 0.8)))
    assert passthrough == pytest.approx(2 * plain, abs=0.2)


def test_every_number_and_title_is_there() -> None:
    found = texts(drawn(("read-1M", 0.41, 0.87), ("mmap-read", 0.02, 0.99)))
    assert {"<read-1M>", "<mmap-read>", "0.41", "0.87", "0.02", "0.99", PLAIN, PASSTHROUGH} <= set(found)


def test_the_patches_figures_are_marks() -> None:
    """Two in the legend, and two beside the one row for which there are any."""
    assert len(list(drawn(("read-1M", 0.4, 0.8)).iter(f"{SVG}path"))) == 2
    assert len(list(drawn(("read-1M", 0.4, 0.8), ("write-4k", 0.4, 0.8)).iter(f"{SVG}path"))) == 4


def test_what_was_not_measured_has_no_bar() -> None:
    svg = drawn(("read-1M", 0, 0.8))
    assert len(bars(svg)) == 1
    assert "not measured" in texts(svg)


def test_a_bar_ends_at_the_edge() -> None:
    svg = drawn(("read-1M", 0.5, 40.0))
    assert max(bars(svg)) < float(svg.attrib["width"])
    assert "40.00" in texts(svg)
