"""Charts of reader studies as SVG text: ROC of each reader, stacked bars of ratings, accuracy by trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcodi.pages.svg import BLUE, GREY, GRID, INK, ROW, SERIES, SOFT, Axis, Canvas

# From the lowest rating to the highest; one row for each number of ratings a scale may have.
RATING_COLOURS = {
    5: ("#b35806", "#f1a340", "#e6e6e6", "#8fb8de", "#2166ac"),
    10: ("#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#d1e5f0", "#92c5de", "#5b9bd0", "#2166ac", "#053061"),
}


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
