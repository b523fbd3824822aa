"""Ticks, axes and shapes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from medcodi.pages.svg import Axis, Canvas, ticks


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 1.0, 4, [0.0, 0.5, 1.0]),
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (3, 97, 5, [20.0, 40.0, 60.0, 80.0]),
        (-0.0004, 0.0011, 5, [0.0, 0.0005, 0.001]),
        (0, 123_456, 4, [0, 50_000, 100_000]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == expected


def test_an_axis_maps_its_ends_and_keeps_values_inside() -> None:
    axis = Axis(10, 20, 100, 300)
    assert [axis(value) for value in (10, 15, 20, 5, 99)] == [100, 200, 300, 100, 300]
    upward = Axis(0, 1, 200, 0)
    assert upward(0) == 200 and upward(0.25) == 150


def test_equal_ratios_have_equal_lengths_on_a_logarithmic_axis() -> None:
    axis = Axis(1, 1000, 0, 300, logarithmic=True)
    assert [axis(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 300])
    assert axis.ticks(3) == pytest.approx([1, 10, 100, 1000])


def test_an_axis_around_values_leaves_a_margin_and_survives_a_single_value() -> None:
    axis = Axis.around([0, 10], 0, 120, margin=0.1)
    assert (axis.low, axis.high) == (-1, 11) and axis(5) == 60
    assert Axis.around([0.0], 0, 100)(0.0) == 50  # no range: the value stands in the middle
    around = Axis.around([1, 100], 0, 1, logarithmic=True)
    assert around.low == pytest.approx(10**-0.1) and around.high == pytest.approx(10**2.1)


def test_every_shape_is_valid_escaped_and_has_a_title() -> None:
    canvas = Canvas(200, 'a "chart" of <b>')
    canvas.text(1, 2, "x < y", upward=True)
    canvas.line(0, 0, 9, 9, "#000", dash="4 3")
    canvas.path([(0, 0), (1, 2), (3, 4)], "#111", opacity=0.5, tip="a & b")
    canvas.rectangle(0, 0, 5, 5, "#222")
    canvas.circle(1, 1, 2, "#333", tip="1 < 2")
    canvas.diamond(5, 5, 2, "#fff", outline="#444")
    root = ElementTree.fromstring(canvas.svg(100))
    assert root.get("role") == "img" and root.get("aria-label") == 'a "chart" of <b>' == root.findtext("title")
    assert root.get("viewBox") == "0 0 200 100"
    assert [child.tag for child in root] == ["title", "text", "text", "path", "path", "rect", "circle", "path"]
    assert [tip.text for tip in root.iterfind("*/title") if tip.text] == ["a & b", "1 < 2"]
