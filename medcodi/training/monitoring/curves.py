"""A line chart as SVG text: nothing is loaded from elsewhere, and a browser is enough to see it."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")  # Okabe & Ito, 2008
DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 4", "10 4", "4 1", "3 5")
WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 26, 34
LEGEND_LINE = 16
MOST_POINTS = 600  # of a line; more are thinned out
LOG_RATIO = 50.0  # all positive, and the greatest so many times the least: a logarithmic scale


@dataclass(frozen=True)
class Curve:
    """A line.

    Attributes:
        label: In the legend.
        points: (x, y), in order.
        colour: Which of the colours.
        dash: Which of the dashes; 0 is unbroken.
    """

    label: str
    points: Sequence[tuple[int, float]]
    colour: int = 0
    dash: int = 0


def chart(title: str, curves: Sequence[Curve], across: str = "step") -> str:
    """A figure with axes, lines and a legend.

    Args:
        title: Above it.
        curves: Its lines; a line of one point is a dot.
        across: What the x axis counts.
    """
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    if not xs:
        return ""
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    low, high = _range([math.log10(y) for y in ys] if logarithmic else ys)
    left, right = min(xs), max(max(xs), min(xs) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        value = math.log10(y) if logarithmic else y
        return (
            LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT),
            TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<text x="{LEFT}" y="16" font-weight="600">{html.escape(title)}</text>']
    for tick in ticks(low, high):
        value = 10**tick if logarithmic else tick
        y = place(left, value)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for tick in ticks(left, right, 5):
        x = place(tick, 1.0)[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{tick:,.6g}</text>')
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end" fill="#777">{html.escape(across)}</text>'
    )
    parts += [_line(curve, place) for curve in curves]
    legend = curves if len(curves) > 1 else ()
    for number, curve in enumerate(legend):
        y = HEIGHT + LEGEND_LINE * number + 8
        parts.append(f'<path d="M{LEFT} {y}h28" {_stroke(curve)}/>')
        parts.append(f'<text x="{LEFT + 34}" y="{y + 4}">{html.escape(curve.label)}</text>')
    height = HEIGHT + LEGEND_LINE * len(legend) + 4
    return (
        f'<figure><svg role="img" aria-label="{html.escape(title, quote=True)}" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-size="11" font-family="system-ui,sans-serif">{"".join(parts)}</svg></figure>'
    )


def _line(curve: Curve, place: Callable[[float, float], tuple[float, float]]) -> str:
    stride = -(-len(curve.points) // MOST_POINTS)
    kept = [*curve.points[::stride], *([curve.points[-1]] if stride > 1 else [])]
    points = [place(x, y) for x, y in kept]
    title = f"<title>{html.escape(curve.label)}: {curve.points[-1][1]:.5g} at {curve.points[-1][0]:,}</title>"
    if len(points) == 1:
        colour = COLOURS[curve.colour % len(COLOURS)]
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3" fill="{colour}">{title}</circle>'
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{path}" fill="none" {_stroke(curve)}>{title}</path>'


def _stroke(curve: Curve) -> str:
    dash = DASHES[(curve.dash + curve.colour // len(COLOURS)) % len(DASHES)]
    return f'stroke="{COLOURS[curve.colour % len(COLOURS)]}" stroke-width="1.5" stroke-dasharray="{dash}"'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two ends, about so many."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
