"""Does the chart show every row and every point? It is read as the XML that it is."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench import chart
from tests.bench.mounts import KERNEL, OURS, REFERENCE
from tests.bench.report import Results, text
from tests.bench.scaling import points_of_files, points_of_layers

SVG = "{http://www.w3.org/2000/svg}"
COLUMNS = [OURS, KERNEL, REFERENCE]


def results(columns: list[str] | None = None) -> Results:
    return Results(columns or COLUMNS, {})


def drawn(found: Results) -> ElementTree.Element:
    return ElementTree.fromstring(chart.svg(found))


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in svg.iter(f"{SVG}text")]


def with_points() -> Results:
    """Every point: ours costs the same always, the kernel's grows with the layers."""
    found = results()
    for point in [*points_of_layers((1, 500)), *points_of_files((1_000, 10_000))]:
        found.points[point.title] = point
        found.add(point.title, OURS, point.names / 1e3 * 20)
        found.add(point.title, KERNEL, point.names / 1e3 * point.layers)
    return found


def test_bars_show_each_ratio() -> None:
    found = results()
    for column, milliseconds in zip(COLUMNS, (30.0, 20.0, 10.0), strict=True):
        found.add("<find>", column, milliseconds)
    shown = texts(drawn(found))
    assert {"<find>", "1.50", "0.50", *COLUMNS} <= set(shown)


def test_bars_are_in_proportion() -> None:
    """On a logarithmic axis 4 is twice as far from 1 as 2."""
    found = results([OURS, KERNEL])
    for title, milliseconds in (("one", 20.0), ("two", 40.0)):
        found.add(title, OURS, milliseconds)
        found.add(title, KERNEL, 10.0)
    widths = [float(rect.attrib["width"]) for rect in drawn(found).iter(f"{SVG}rect") if "x" in rect.attrib]
    one, two = [width for width in widths if width != 12.0]
    assert two == pytest.approx(2 * one, rel=0.01)


def test_what_was_not_measured_is_said() -> None:
    found = results()
    found.add("find", OURS, 1.0)
    assert "not measured" in texts(drawn(found))


def test_curves_have_every_point() -> None:
    svg = drawn(with_points())
    curves = [curve.attrib["points"].split() for curve in svg.iter(f"{SVG}polyline")]
    # Two file systems, three operations, against layers and against files, where the layers' own 16 count as well.
    assert [len(curve) for curve in curves] == [2] * 12
    flat = [len({place.split(",")[1] for place in curve}) for curve in curves]
    assert flat == [1, 2] * 3 + [1, 1] * 3


def test_growth_is_told() -> None:
    shown = text(with_points())
    assert "| cold lookups" in shown
    assert "1.00" in shown
    assert "500.00" in shown
