"""Charts show what they are given: marks at the right places, labels, colours."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest

from medcodi.pages.bars import Range, range_chart, rating_chart
from medcodi.pages.charts import (
    MAX_POINTS,
    Curve,
    ForestRow,
    forest_chart,
    line_chart,
    roc_chart,
    trial_chart,
)
from medcodi.pages.svg import GREEN, GREY, RED, SERIES


def shapes(svg: str, tag: str, **attributes: str) -> list[ElementTree.Element]:
    """Elements with these attributes; the text is parsed, so it is valid."""
    return [
        element
        for element in ElementTree.fromstring(svg).iter(tag)
        if all(element.get(name) == value for name, value in attributes.items())
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in shapes(svg, "text")]


def corners(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, corner.split())) for corner in path.get("d", "")[1:].split("L")]


def test_a_line_rises_with_its_values_and_one_point_is_a_dot() -> None:
    (line,) = shapes(line_chart("loss", [Curve("a", [(1, 1.0), (2, 3.0), (3, 2.0)])]), "path", stroke=SERIES[0])
    (x1, y1), (x2, y2), (x3, y3) = corners(line)
    assert x3 - x2 == pytest.approx(x2 - x1) and y2 < y3 < y1 and y3 == pytest.approx((y1 + y2) / 2, abs=0.1)
    assert len(shapes(line_chart("a", [Curve("a", [(1, 2.0)])]), "circle")) == 1
    assert line_chart("a", []) == ""


def test_a_point_with_an_interval_has_a_bar_through_it() -> None:
    curve = Curve("a", [(0, 1.0), (10, 2.0)], bars=[(0.5, 1.5), (1.0, 4.0)])
    line, *bars = sorted(
        shapes(line_chart("a", [curve]), "path", stroke=SERIES[0]), key=lambda path: path.get("stroke-opacity", "")
    )
    for (x, y), bar in zip(corners(line), bars, strict=True):
        (x1, low), (x2, high) = corners(bar)
        assert x1 == x2 == x and high < y < low


def test_values_of_very_different_size_get_a_logarithmic_axis() -> None:
    (line,) = shapes(line_chart("loss", [Curve("a", [(0, 0.01), (1, 1.0), (2, 100.0)])]), "path", stroke=SERIES[0])
    ys = [y for _, y in corners(line)]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    points = [(step, float(step)) for step in range(5 * MAX_POINTS + 1)]
    thin = line_chart("a", [Curve("a", points)])
    ends = line_chart("a", [Curve("a", [points[0], points[-1]])])
    (line,), (straight,) = (shapes(svg, "path", stroke=SERIES[0]) for svg in (thin, ends))
    assert len(corners(line)) <= MAX_POINTS + 2
    assert (corners(line)[0], corners(line)[-1]) == (corners(straight)[0], corners(straight)[-1])


def test_several_curves_have_a_legend_and_differ_in_colour_or_dash() -> None:
    curves = [Curve(f"curve {number}", [(0, 1.0), (1, 2.0)], number) for number in range(len(SERIES) + 1)]
    svg = line_chart("all", curves)
    assert {f"curve {number}" for number in range(len(curves))} <= set(texts(svg))
    assert len({tuple(curve.stroke.items()) for curve in curves}) == len(curves)


def test_a_forest_has_a_reference_a_margin_and_the_numbers() -> None:
    rows = [
        ForestRow(label="accuracy"),
        ForestRow(label="reader 1", value=0.4, low=0.3, high=0.5),
        ForestRow(label="all", value=0.6, tone="pooled"),
        ForestRow(label="new", value=0.6, low=0.2, high=0.9, tone="faint"),
    ]
    svg = forest_chart("Accuracy", rows, x_label="share", reference=0.5, margin=0.1, limits=(0.0, 1.0))
    assert {"accuracy", "0.40 [0.30, 0.50]", "0.60", "share"} <= set(texts(svg))
    band = shapes(svg, "rect")[0]
    assert float(band.get("x", "")) == pytest.approx(270 + 0.4 * 360) and float(band.get("width", "")) == pytest.approx(
        72
    )
    assert len(shapes(svg, "path", fill=GREY)) == 1  # the diamond of the second population


@pytest.mark.parametrize(("tone", "colour"), [("better", GREEN), ("worse", RED)])
def test_a_difference_has_the_colour_of_its_verdict(tone: str, colour: str) -> None:
    def marks(tone: str) -> list[ElementTree.Element]:
        row = ForestRow(label="one", value=0.1, low=0.05, high=0.15, tone=tone)  # pyright: ignore[reportArgumentType]
        return shapes(forest_chart("", [row], reference=0.0), "rect", fill=colour)

    assert len(marks(tone)) == 1 and not marks("alike")


def test_a_value_stands_between_its_floor_and_its_ceiling() -> None:
    rows = [Range(label="a", value=0.5, floor=0.1, ceiling=0.9, legible=0.7), Range(label="a", value=0.2, series=1)]
    svg = range_chart("F1", rows, ["one", "two"])
    (band,) = shapes(svg, "rect")
    (ring,) = shapes(svg, "circle", fill="#fff")
    value = next(circle for circle in shapes(svg, "circle", fill=SERIES[0]))
    left = float(band.get("x", ""))
    right = left + float(band.get("width", ""))
    assert float(ring.get("cx", "")) == left and float(value.get("cx", "")) == pytest.approx(
        (left + right) / 2, abs=0.1
    )
    assert texts(svg).count("a") == 1 and {"one", "two"} <= set(texts(svg))


def test_roc_curves_run_from_corner_to_corner() -> None:
    svg = roc_chart("ROC", {"reader 1": [(0, 0), (0.25, 0.75), (1, 1)]}, {"reader 1": 0.75})
    (curve,) = shapes(svg, "path", stroke=SERIES[0])
    assert corners(curve) == [(56, 348), (136, 108), (376, 28)]
    assert "reader 1, area 0.75" in texts(svg) and len(shapes(svg, "circle")) == 1


@pytest.mark.parametrize("counts", [(1, 0, 2, 0, 1), (0, 0, 0, 0, 0), (1,) * 10])
def test_bars_of_ratings_fill_the_width_and_state_the_mean(counts: Sequence[int]) -> None:
    svg = rating_chart("Ratings", {"real": {"reader 1": counts, "reader 2": counts}})
    bars = [float(bar.get("width", "")) for bar in shapes(svg, "rect", height="19.0")]
    assert sum(bars) == pytest.approx(470 if any(counts) else 0, abs=0.5)
    mean = sum((k + 1) * count for k, count in enumerate(counts)) / max(sum(counts), 1)
    assert (f"mean {mean:.2f} (n {2 * sum(counts)})" in texts(svg)) == any(counts)


def test_trials_without_an_answer_are_left_out() -> None:
    def block(first: int, value: float | None) -> dict:
        accuracy = {"value": value, "low": None if value is None else value - 0.1, "high": 0.9}
        return {"first": first, "last": first + 9, "accuracy": accuracy, "median_seconds": None}

    svg = trial_chart("Accuracy by trial", [block(1, 0.5), block(11, None), block(21, 0.75)])
    assert [circle.get("cy") for circle in shapes(svg, "circle")] == ["130.0", "80.0"]
    assert {"1 to 10", "21 to 30"} <= set(texts(svg)) and "11 to 20" not in texts(svg)
    trial_chart("none", [block(1, None)])
