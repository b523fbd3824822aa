"""Charts as SVG text: lines, intervals (forest), ROC of each reader, accuracy by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from medcodi.pages.svg import BLUE, DASHES, GREEN, GREY, GRID, INK, ORANGE, RED, ROW, SERIES, SOFT, Axis, Canvas

MAX_POINTS = 600  # of one line; longer ones are thinned out
LOG_RATIO = 50.0  # a line chart of positive values is logarithmic where greatest / least exceeds this
_TONES = {"single": BLUE, "pooled": ORANGE, "faint": GREY, "better": GREEN, "worse": RED, "alike": SOFT}


class _Stroke(TypedDict):
    colour: str
    dash: str


@dataclass(frozen=True)
class Curve:
    """One line of a line chart."""

    label: str  # in the legend
    points: Sequence[tuple[int, float]]  # (x, y), in order of x; a single one is drawn as a dot
    colour: int = 0  # index of the colour
    dash: int = 0  # index of the dash pattern; 0 is unbroken
    bars: Sequence[tuple[float, float]] = ()  # interval (low, high) of each point, drawn as a bar; (): none

    @property
    def stroke(self) -> _Stroke:
        """Colour and dash pattern; when the colours run out, the pattern changes."""
        dash = DASHES[(self.dash + self.colour // len(SERIES)) % len(DASHES)]
        return {"colour": SERIES[self.colour % len(SERIES)], "dash": dash}


def line_chart(title: str, curves: Sequence[Curve], x_label: str = "step") -> str:
    """Lines over a common x axis, with a legend where there are several; "" without a point."""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points] + [
        end for curve in curves for bar in curve.bars for end in bar
    ]
    if not xs:
        return ""
    width, height, left, right, top, bottom = 520, 250, 62, 492, 26, 216  # right: half of the last tick's text fits
    alone = min(xs) == max(xs)  # in the middle, with its own tick
    x_axis = Axis(min(xs) - alone, max(xs) + alone, left, right)
    y_axis = Axis.around(ys, bottom, top, logarithmic=min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO)
    canvas = Canvas(width, title, title_x=left)

    # Grid and tick labels.
    for tick in y_axis.ticks(4):
        canvas.line(left, y_axis(tick), right, y_axis(tick), GRID)
        canvas.text(left - 5, y_axis(tick) + 4, f"{tick:.3g}", anchor="end", size=11)
    for tick in [xs[0]] if alone else x_axis.ticks():
        canvas.text(x_axis(tick), bottom + 16, f"{tick:,.6g}", anchor="middle", size=11)
    canvas.text(right, height - 4, x_label, anchor="end", colour=SOFT, size=11)

    # Lines. A long one is thinned, but its last point stays.
    for curve in curves:
        if not curve.points:
            continue
        stride = -(-len(curve.points) // MAX_POINTS)
        points = [*curve.points[::stride], *([curve.points[-1]] if stride > 1 else [])]
        pixels = [(x_axis(x), y_axis(y)) for x, y in points]
        for (x, _), (low, high) in zip(curve.points, curve.bars, strict=False):
            canvas.line(x_axis(x), y_axis(low), x_axis(x), y_axis(high), curve.stroke["colour"], opacity=0.6)
        tip = f"{curve.label}: {curve.points[-1][1]:.5g} at {curve.points[-1][0]:,}"
        if len(pixels) == 1:
            canvas.circle(*pixels[0], 3, curve.stroke["colour"], tip=tip)
        else:
            canvas.path(pixels, **curve.stroke, tip=tip)

    # Legend, a line each below the chart.
    legend = curves if len(curves) > 1 else ()
    for number, curve in enumerate(legend):
        y = height + 16 * number + 8
        canvas.line(left, y, left + 28, y, **curve.stroke, width=1.5)
        canvas.text(left + 34, y + 4, curve.label, size=11)
    return canvas.svg(height + 16 * len(legend) + 4)


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One estimate with its interval; without a value it is a heading."""

    label: str  # at the left
    value: float | None = None  # estimate and its bounds
    low: float | None = None
    high: float | None = None
    # Decides colour and mark. Of readers: "single", "pooled" (a diamond: all together), "faint" (the second
    # population). Of differences: "better", "worse", "alike"
    tone: Literal["single", "pooled", "faint", "better", "worse", "alike"] = "single"

    @classmethod
    def of(cls, label: str, figure: Mapping[str, Any], tone: Any = "single") -> ForestRow:
        """The row of a figure with ``value``, ``low`` and ``high``."""
        return cls(label=label, value=figure["value"], low=figure["low"], high=figure["high"], tone=tone)


def forest_chart(
    title: str,
    rows: Sequence[ForestRow],
    *,
    x_label: str = "",
    reference: float | None = None,
    margin: float | None = None,
    margin_rows: int | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Estimates with intervals below each other.

    Args:
        title: Above the chart.
        rows: From top to bottom.
        x_label: Below the chart.
        reference: A vertical line: no difference, or guessing.
        margin: Half width of a shaded band around the reference: the declared margin.
        margin_rows: How many rows from the top the band covers; None: all.
        limits: Ends of the axis; None: what the rows need.
    """
    left, right, top = 270.0, 630.0, 26.0
    bottom = top + ROW * len(rows) + 2
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    if reference is not None:
        values += [reference - (margin or 0), reference + (margin or 0)]
    axis = Axis(*limits, left, right) if limits else Axis.around(values, left, right)
    canvas = Canvas(800, title)

    # Band of the margin, grid and reference line.
    if margin and reference is not None:
        start, end = axis(reference - margin), axis(reference + margin)
        height = bottom - top if margin_rows is None else ROW * margin_rows
        canvas.rectangle(start, top, end - start, height, "#e6f0e6")
    for tick in axis.ticks():
        canvas.line(axis(tick), top, axis(tick), bottom, GRID)
        canvas.text(axis(tick), bottom + 16, f"{tick:g}", anchor="middle", colour=SOFT)
    if reference is not None:
        canvas.line(axis(reference), top, axis(reference), bottom, SOFT, width=1.2, dash="4 3")

    # Label, interval, mark and numbers of each row.
    for index, row in enumerate(rows):
        y = top + ROW * (index + 0.5)
        if row.value is None:
            canvas.text(0, y + 4, row.label, weight=600)
            continue
        colour, ink = _TONES[row.tone], SOFT if row.tone == "faint" else INK
        spread = ""
        canvas.text(12, y + 4, row.label, colour=ink, weight=600 if row.tone == "pooled" else 400)
        if row.low is not None and row.high is not None:
            canvas.line(axis(row.low), y, axis(row.high), y, colour, width=2)
            spread = f" [{row.low:.2f}, {row.high:.2f}]"
        x = axis(row.value)
        if row.tone in ("pooled", "faint"):
            canvas.diamond(x, y, 6.5, colour)
        else:
            canvas.rectangle(x - 4, y - 4, 8, 8, colour)
        canvas.text(right + 16, y + 4, f"{row.value:.2f}{spread}", colour=ink)
    canvas.text((left + right) / 2, bottom + 34, x_label, anchor="middle", colour=SOFT)
    return canvas.svg(bottom + (42 if x_label else 24))


# ---- of reader studies -------------------------------------------------------------------------------------------------
def roc_chart(title: str, curves: Mapping[str, Sequence[Sequence[float]]], areas: Mapping[str, float | None]) -> str:
    """ROC curves with the diagonal of guessing.

    Args:
        title: Above the chart.
        curves: Reader -> (false positive rate, true positive rate), in order.
        areas: Reader -> area under its curve, for the legend.
    """
    size, left, top = 320.0, 56.0, 28.0
    x_axis, y_axis = Axis(0, 1, left, left + size), Axis(0, 1, top + size, top)
    canvas = Canvas(left + size + 220, title, title_x=left)

    # Grid, tick labels and the diagonal.
    for tick in (0, 0.25, 0.5, 0.75, 1):
        canvas.line(x_axis(tick), top, x_axis(tick), top + size, GRID)
        canvas.line(left, y_axis(tick), left + size, y_axis(tick), GRID)
        canvas.text(x_axis(tick), top + size + 17, f"{tick:g}", anchor="middle", colour=SOFT)
        canvas.text(left - 8, y_axis(tick) + 4, f"{tick:g}", anchor="end", colour=SOFT)
    canvas.line(x_axis(0), y_axis(0), x_axis(1), y_axis(1), GREY, dash="4 3")

    # One curve a reader, with its name and area beside the chart.
    for index, (name, points) in enumerate(curves.items()):
        colour, y = SERIES[index % len(SERIES)], top + 16 + ROW * index
        pixels = [(x_axis(x), y_axis(y)) for x, y in points]
        canvas.path(pixels, colour, width=2)
        for pixel in pixels[1:-1]:
            canvas.circle(*pixel, 2.6, colour)
        area = areas.get(name)
        canvas.rectangle(left + size + 22, y - 9, 14, 4, colour)
        canvas.text(left + size + 44, y, name + ("" if area is None else f", area {area:.2f}"))
    canvas.text(
        left + size / 2, top + size + 38, "real called generated (1 - specificity)", anchor="middle", colour=SOFT
    )
    canvas.text(
        16, top + size / 2, "generated called generated (sensitivity)", anchor="middle", colour=SOFT, upward=True
    )
    return canvas.svg(top + size + 50)


def trial_chart(title: str, blocks: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy with intervals over blocks of trials, and the median time of an answer below.

    Args:
        title: Above the chart.
        blocks: Each with ``first`` and ``last`` trial, ``accuracy`` (value, low, high) and ``median_seconds``.
    """
    left, top, width, height = 56.0, 30.0, 520.0, 200.0
    axis = Axis(0, 1, top + height, top)
    canvas = Canvas(left + width + 20, title, title_x=left)

    # Grid, with a dashed line at guessing.
    for tick in (0, 0.25, 0.5, 0.75, 1):
        canvas.line(left, axis(tick), left + width, axis(tick), GRID)
        canvas.text(left - 8, axis(tick) + 4, f"{100 * tick:.0f} %", anchor="end", colour=SOFT)
    canvas.line(left, axis(0.5), left + width, axis(0.5), GREY, dash="4 3")

    # Blocks without an answer are left out, the others keep their places.
    shown = [
        (left + (index + 0.5) / len(blocks) * width, block, block["accuracy"])
        for index, block in enumerate(blocks)
        if block["accuracy"]["value"] is not None
    ]
    if shown:
        canvas.path([(x, axis(accuracy["value"])) for x, _, accuracy in shown], BLUE, width=2)
    for x, block, accuracy in shown:
        if accuracy["low"] is not None:
            canvas.line(x, axis(accuracy["low"]), x, axis(accuracy["high"]), BLUE, width=1.5)
        canvas.circle(x, axis(accuracy["value"]), 4, BLUE)
        canvas.text(x, top + height + 18, f"{block['first']} to {block['last']}", anchor="middle", colour=SOFT)
        if block["median_seconds"] is not None:
            canvas.text(x, top + height + 35, f"{block['median_seconds']:.1f} s", anchor="middle", colour=SOFT)
    canvas.text(
        left + width / 2, top + height + 54, "trials of each reader, and median time", anchor="middle", colour=SOFT
    )
    return canvas.svg(top + height + 62)
