"""Figures of the report as SVG text: forest plot, ROC, stacked Likert bars, accuracy by trial. Nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

INK, SOFT, GRID = "#1c2430", "#5d6b7a", "#e3e8ee"
BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#8a97a6"
LINES = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#b83280", "#2c7a7b", "#718096")
LIKERT = {
    5: ("#b35806", "#f1a340", "#e6e6e6", "#8fb8de", "#2166ac"),
    10: ("#7f3b08", "#b35806", "#e08214", "#fdb863", "#fee0b6", "#d1e5f0", "#92c5de", "#5b9bd0", "#2166ac", "#053061"),
}


def _svg(width: float, height: float, body: Sequence[str], title: str) -> str:
    head = (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="system-ui,sans-serif" font-size="12.5">'
    )
    return head + f"<title>{escape(title)}</title>" + "".join(body) + "</svg>"


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK, weight: int = 400, size: float = 12.5
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" '
        f'font-size="{size}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def ticks(low: float, high: float, num: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    raw = (high - low) / max(num - 1, 1)
    magnitude = 10 ** np.floor(np.log10(raw)) if raw > 0 else 1.0
    step = next(float(magnitude * m) for m in (1, 2, 2.5, 5, 10) if magnitude * m >= raw)
    first = np.ceil(low / step - 1e-9) * step
    return [float(round(v, 10)) + 0.0 for v in np.arange(first, high + step * 1e-6, step)]


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One line of a forest plot; without numbers it is a heading."""

    label: str  # at the left
    value: float | None = None  # estimate
    low: float | None = None  # lower bound
    high: float | None = None  # upper bound
    pooled: bool = False  # A diamond instead of a square: all readers together
    faint: bool = False  # for the second population


def forest(
    rows: Sequence[ForestRow],
    *,
    title: str,
    axis: str,
    reference: float | None = None,
    margin: float | None = None,
    limits: tuple[float, float] | None = None,
    margin_rows: int | None = None,
) -> str:
    """A forest plot.

    Args:
        rows: From top to bottom.
        title: Read by screen readers.
        axis: Words below.
        reference: A vertical line: no difference, or guessing.
        margin: Shaded to both sides of the reference: the declared margin.
        limits: Ends of the axis; None: what the rows need.
        margin_rows: How many rows from the top the margin is about; None: all.
    """
    numbers = [n for row in rows for n in (row.value, row.low, row.high) if n is not None]
    if reference is not None:
        numbers += [reference] + ([reference - margin, reference + margin] if margin else [])
    low, high = limits or (min(numbers), max(numbers))
    if limits is None:
        pad = 0.06 * ((high - low) or 1.0)
        low, high = low - pad, high + pad
    left, right, top, step = 250.0, 610.0, 8.0, 23.0
    width, height = 800.0, top + step * len(rows) + 46

    def place(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    bottom = top + step * len(rows) + 2
    body = []
    if margin and reference is not None:
        x1, x2 = place(reference - margin), place(reference + margin)
        shaded = bottom - top if margin_rows is None else step * margin_rows
        body.append(f'<rect x="{x1:.1f}" y="{top}" width="{x2 - x1:.1f}" height="{shaded:.1f}" fill="#e6f0e6"/>')
    for tick in ticks(low, high):
        body += [
            _line(place(tick), top, place(tick), bottom, GRID),
            _text(place(tick), bottom + 16, f"{tick:g}", anchor="middle", colour=SOFT),
        ]
    if reference is not None:
        body.append(_line(place(reference), top, place(reference), bottom, SOFT, width=1.2, dash="4 3"))
    for index, row in enumerate(rows):
        y = top + step * (index + 0.5)
        if row.value is None:
            body.append(_text(4, y + 4, row.label, weight=650))
            continue
        colour = GREY if row.faint else ORANGE if row.pooled else BLUE
        body.append(_text(16, y + 4, row.label, colour=SOFT if row.faint else INK, weight=600 if row.pooled else 400))
        if row.low is not None and row.high is not None:
            body.append(_line(place(row.low), y, place(row.high), y, colour, width=2))
        x = place(row.value)
        if row.pooled:
            body.append(
                f'<path d="M{x - 7:.1f} {y}L{x:.1f} {y - 6}L{x + 7:.1f} {y}L{x:.1f} {y + 6}Z" fill="{colour}"/>'
            )
        else:
            body.append(f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" fill="{colour}"/>')
        spread = "" if row.low is None or row.high is None else f" [{row.low:.2f}, {row.high:.2f}]"
        body.append(_text(right + 16, y + 4, f"{row.value:.2f}{spread}", colour=SOFT if row.faint else INK))
    body.append(_text((left + right) / 2, bottom + 36, axis, anchor="middle", colour=SOFT))
    return _svg(width, height, body, title)


def roc(curves: Mapping[str, Sequence[Sequence[float]]], areas: Mapping[str, float | None], *, title: str) -> str:
    """ROC curves of the readers, with the diagonal of guessing."""
    size, left, top = 320.0, 56.0, 12.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    body = [f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="{GRID}"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, _), (_, y) = at(tick, 0), at(0, tick)
        body += [_line(x, top, x, top + size, GRID), _line(left, y, left + size, y, GRID)]
        body += [
            _text(x, top + size + 17, f"{tick:g}", anchor="middle", colour=SOFT),
            _text(left - 8, y + 4, f"{tick:g}", anchor="end", colour=SOFT),
        ]
    body.append(_line(*at(0, 0), *at(1, 1), GREY, dash="4 3"))
    for index, (name, points) in enumerate(curves.items()):
        colour = LINES[index % len(LINES)]
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points[1:-1]:
            cx, cy = at(x, y)
            body.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="2.6" fill="{colour}"/>')
        y = top + 16 + 22 * index
        area = areas.get(name)
        body.append(f'<rect x="{left + size + 22}" y="{y - 9}" width="14" height="4" fill="{colour}"/>')
        body.append(_text(left + size + 44, y, name + ("" if area is None else f", area {area:.2f}")))
    body.append(
        _text(left + size / 2, top + size + 38, "real called generated (1 - specificity)", anchor="middle", colour=SOFT)
    )
    middle = top + size / 2
    body.append(
        f'<text x="16" y="{middle}" text-anchor="middle" fill="{SOFT}" transform="rotate(-90 16 {middle})">'
        "generated called generated (sensitivity)</text>"
    )
    return _svg(left + size + 220, top + size + 50, body, title)


def likert(distributions: Mapping[str, Mapping[str, Sequence[int]]], *, title: str) -> str:
    """Stacked bars of ratings: for each arm, all readers and each reader. ``distributions``: arm -> reader -> counts."""
    left, width, step, top = 190.0, 470.0, 25.0, 34.0
    size = len(next(iter(next(iter(distributions.values())).values())))
    colours = LIKERT[size]
    body, y = [], top
    for k, colour in enumerate(colours):
        x = left + k * min(46.0, width / size)
        body.append(f'<rect x="{x}" y="8" width="13" height="13" fill="{colour}"/>')
        body.append(_text(x + 18, 19, str(k + 1), colour=SOFT))
    for arm, readers in distributions.items():
        total = np.sum(list(readers.values()), axis=0)
        for name, counts in [(arm, total), *readers.items()]:
            counts = np.asarray(counts)
            pooled = name == arm
            body.append(
                _text(4 if pooled else 18, y + 14, name, weight=650 if pooled else 400, colour=INK if pooled else SOFT)
            )
            shares = counts / max(counts.sum(), 1)
            start = left
            height = 19 if pooled else 14
            for k, share in enumerate(shares):
                length = share * width
                offset = 0 if pooled else 3
                body.append(
                    f'<rect x="{start:.1f}" y="{y + offset}" width="{length:.1f}" height="{height}" fill="{colours[k]}"/>'
                )
                if length > 26 and pooled:
                    light = k in (0, size - 1) or (size == 10 and k in (1, 8))
                    body.append(
                        _text(
                            start + length / 2,
                            y + 14,
                            f"{100 * share:.0f}",
                            anchor="middle",
                            colour="#fff" if light else INK,
                            size=11,
                        )
                    )
                start += length
            if counts.sum():
                mean = float((counts * np.arange(1, size + 1)).sum() / counts.sum())
                body.append(_text(left + width + 12, y + 14, f"mean {mean:.2f} (n {int(counts.sum())})", colour=SOFT))
            y += step if pooled else step - 5
        y += 10
    return _svg(left + width + 150, y + 4, body, title)


def accuracy_by_trial(blocks: Sequence[Mapping], *, title: str) -> str:
    """Accuracy with intervals in stretches of trials, and the median time below."""
    left, top, width, height = 56.0, 14.0, 520.0, 200.0

    def at(i: float, y: float) -> tuple[float, float]:
        return left + (i + 0.5) / len(blocks) * width, top + (1 - y) * height

    body = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = at(0, tick)[1]
        body += [
            _line(left, y, left + width, y, GRID),
            _text(left - 8, y + 4, f"{100 * tick:.0f} %", anchor="end", colour=SOFT),
        ]
    body.append(_line(left, at(0, 0.5)[1], left + width, at(0, 0.5)[1], GREY, dash="4 3"))
    shown = [(i, block) for i, block in enumerate(blocks) if block["accuracy"]["value"] is not None]
    path = " ".join("{:.1f},{:.1f}".format(*at(i, block["accuracy"]["value"])) for i, block in shown)
    body.append(f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    for i, block in shown:
        estimate = block["accuracy"]
        x, y = at(i, estimate["value"])
        if estimate["low"] is not None:
            body.append(_line(x, at(i, estimate["low"])[1], x, at(i, estimate["high"])[1], BLUE, width=1.5))
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{BLUE}"/>')
        body.append(_text(x, top + height + 18, f"{block['first']} to {block['last']}", anchor="middle", colour=SOFT))
        if block["median_seconds"] is not None:
            body.append(_text(x, top + height + 35, f"{block['median_seconds']:.1f} s", anchor="middle", colour=SOFT))
    body.append(
        _text(
            left + width / 2, top + height + 54, "trials of each reader, and median time", anchor="middle", colour=SOFT
        )
    )
    return _svg(left + width + 20, top + height + 62, body, title)
