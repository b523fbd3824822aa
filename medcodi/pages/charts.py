"""Charts as SVG text: lines, intervals (forest), values between floor and ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

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
    width, height, left, right, top, bottom = 520, 250, 62, 510, 26, 216
    x_axis = Axis(min(xs), max(max(xs), min(xs) + 1), left, right)
    y_axis = Axis.around(ys, bottom, top, logarithmic=min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO)
    canvas = Canvas(width, title, title_x=left)

    # Grid and tick labels.
    for tick in y_axis.ticks(4):
        canvas.line(left, y_axis(tick), right, y_axis(tick), GRID)
        canvas.text(left - 5, y_axis(tick) + 4, f"{tick:.3g}", anchor="end", size=11)
    for tick in x_axis.ticks():
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


@dataclass(frozen=True, kw_only=True)
class Range:
    """A value between its floor and its ceiling."""

    label: str  # at the left; neighbours with the same label share it
    value: float  # the value and its interval
    low: float | None = None
    high: float | None = None
    floor: float | None = None  # what it stands between; None: not drawn
    ceiling: float | None = None
    legible: float | None = None  # what a reader of the prompts alone reaches; None: not drawn
    series: int = 0  # index of the colour


def range_chart(title: str, rows: Sequence[Range], names: Sequence[str] = ()) -> str:
    """Rows of: floor (ring), interval (bar) with the value (dot), ceiling (green line), a pale band between.

    Args:
        title: Above the chart.
        rows: From top to bottom.
        names: Of the series, for the legend, where there are several.
    """
    left, right, top = 224.0, 568.0, 46.0
    bottom = top + ROW * len(rows)
    marks = [v for r in rows for v in (r.value, r.low, r.high, r.floor, r.ceiling, r.legible) if v is not None]
    axis = Axis.around(marks, left, right)
    canvas = Canvas(right + 16, title)
    for tick in axis.ticks():
        canvas.line(axis(tick), top - 6, axis(tick), bottom - 4, GRID)
        canvas.text(axis(tick), top - 10, f"{tick:g}", anchor="middle", colour=SOFT, size=11)

    # From back to front: band, floor, ceiling, legible, interval, value.
    for index, row in enumerate(rows):
        y, colour = top + ROW * (index + 0.5), SERIES[row.series % len(SERIES)]
        if index == 0 or rows[index - 1].label != row.label:
            canvas.text(0, y + 4, row.label)
        if row.floor is not None and row.ceiling is not None:
            start, end = sorted((axis(row.floor), axis(row.ceiling)))
            canvas.rectangle(start, y - 7, end - start, 14, "#eef2f7")
        if row.floor is not None:
            canvas.circle(axis(row.floor), y, 3.6, "#fff", outline=SOFT)
        if row.ceiling is not None:
            canvas.line(axis(row.ceiling), y - 8, axis(row.ceiling), y + 8, GREEN, width=2.5)
        if row.legible is not None:
            canvas.diamond(axis(row.legible), y, 5, "#fff", outline=GREEN)
        if row.low is not None and row.high is not None:
            canvas.line(axis(row.low), y, axis(row.high), y, colour, width=5, opacity=0.35)
        canvas.circle(axis(row.value), y, 4.2, colour, tip=f"{row.label}: {row.value:.3g}")

    # Legend: the names side by side.
    x = left
    for index, name in enumerate(names):
        canvas.circle(x, bottom + 12, 4, SERIES[index % len(SERIES)])
        canvas.text(x + 9, bottom + 16, name)
        x += 30 + 7 * len(name)
    return canvas.svg(bottom + (20 if names else 6))
