"""Bars as SVG text: values between floor and ceiling, stacked bars of ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcodi.pages.svg import GREEN, GRID, INK, ROW, SERIES, SOFT, Axis, Canvas

# From the lowest rating to the highest; one row for each number of ratings a scale may have.
RATING_COLOURS = {
    5: ("#b35806", "#f1a340", "#e6e6e6", "#8fb8de", "#2166ac"),
    10: ("#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#d1e5f0", "#92c5de", "#5b9bd0", "#2166ac", "#053061"),
}


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


def rating_chart(title: str, distributions: Mapping[str, Mapping[str, Sequence[int]]]) -> str:
    """Stacked bars of ratings: for each arm all readers together, then each reader.

    Args:
        title: Above the chart.
        distributions: Arm -> reader -> how often each rating was given, from the lowest.
    """
    left, width = 190.0, 470.0
    size = len(next(iter(next(iter(distributions.values())).values())))
    colours = RATING_COLOURS[size]
    canvas = Canvas(left + width + 150, title)

    # Legend: the colour of each rating.
    for k, colour in enumerate(colours):
        x = left + k * min(46.0, width / size)
        canvas.rectangle(x, 26, 13, 13, colour)
        canvas.text(x + 18, 37, str(k + 1), colour=SOFT)

    # A bar for each arm, and a thinner one for each of its readers.
    y = 52.0
    for arm, readers in distributions.items():
        total = [sum(counts) for counts in zip(*readers.values(), strict=True)]
        for position, (name, counts) in enumerate([(arm, total), *readers.items()]):
            pooled, answers, x = position == 0, sum(counts), left
            canvas.text(
                0 if pooled else 14, y + 14, name, weight=600 if pooled else 400, colour=INK if pooled else SOFT
            )
            for k, count in enumerate(counts):
                length = width * count / max(answers, 1)
                canvas.rectangle(x, y if pooled else y + 3, length, 19 if pooled else 14, colours[k])
                if pooled and length > 26:  # wide enough for its percentage, white on the dark ends of the scale
                    dark = k in (0, size - 1) or (size == 10 and k in (1, 8))
                    share = f"{100 * count / answers:.0f}"
                    canvas.text(x + length / 2, y + 14, share, anchor="middle", colour="#fff" if dark else INK, size=11)
                x += length
            if answers:
                mean = sum((k + 1) * count for k, count in enumerate(counts)) / answers
                canvas.text(left + width + 12, y + 14, f"mean {mean:.2f} (n {answers})", colour=SOFT)
            y += 25 if pooled else 20
        y += 10
    return canvas.svg(y + 4)
