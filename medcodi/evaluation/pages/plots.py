"""Inline SVG: figures between their floor and ceiling, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LABEL, _WIDTH, _ROW, _TOP = 224, 344, 22, 46
_WIDE_LABEL = 300  # of a difference, which names two
_INK, _SOFT, _LINE = "#1b2530", "#5a6877", "#dde3ea"
_COLOURS = ("#d9822b", "#3f72d8", "#8a4fb0", "#2f8f57", "#b33a4a", "#57727a")


@dataclass(frozen=True, kw_only=True)
class Range:
    """One row of a plot of ranges.

    Attributes:
        label: What it is.
        value, low, high: The figure and its interval.
        floor, ceiling: What it stands between; None: not drawn.
        legible: What a reader sees in the prompts; None: not drawn.
        series: Which colour.
        verdict: Of a difference: better, worse or alike, which decides its colour.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    legible: float | None = None
    series: int = 0
    verdict: str = "alike"


def _ticks(low: float, high: float) -> list[float]:
    span = max(high - low, 1e-12)
    step = next(size * 10.0**power for power in range(-9, 10) for size in (1, 2, 5) if span / (size * 10.0**power) <= 6)
    first = round(low / step) * step
    ticks = [first + index * step for index in range(9)]
    return [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]


class _Axis:
    def __init__(self, low: float, high: float, left: int = _LABEL) -> None:
        pad = 0.04 * (high - low or 1.0)
        self.low, self.high, self.left = low - pad, high + pad, left

    def x(self, value: float) -> float:
        return self.left + (_LABEL + _WIDTH - self.left) * (value - self.low) / (self.high - self.low)

    def lines(self, height: float) -> list[str]:
        parts = []
        for tick in _ticks(self.low, self.high):
            x = self.x(tick)
            parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - 4:.1f}" stroke="{_LINE}"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle" fill="{_SOFT}" font-size="11">{tick:g}</text>'
            )
        return parts


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    width = _LABEL + _WIDTH + 16
    head = f'<svg width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}"'
    style = ' font-family="system-ui,-apple-system,Segoe UI,Roboto,sans-serif" font-size="12.5">'
    return (
        f'{head}{style}<text x="0" y="14" font-weight="600" fill="{_INK}">{escape(title)}</text>{"".join(parts)}</svg>'
    )


def range_plot(title: str, rows: Sequence[Range], names: Sequence[str] = ()) -> str:
    """Each row: the floor (open ring), the interval (bar) with the figure (dot), the ceiling (upright line), a pale band between.

    Args:
        title: Of the plot.
        rows: From top to bottom; neighbours of one label share it.
        names: Of the series, for the legend, where there are several.
    """
    drawn = ("value", "low", "high", "floor", "ceiling", "legible")
    numbers = [one for row in rows for name in drawn if (one := getattr(row, name)) is not None]
    axis, height = _Axis(min(numbers), max(numbers)), _TOP + _ROW * len(rows) + (20 if names else 6)
    parts = axis.lines(_TOP + _ROW * len(rows))
    for index, row in enumerate(rows):
        y, colour = _TOP + _ROW * (index + 0.5), _COLOURS[row.series % len(_COLOURS)]
        if index == 0 or rows[index - 1].label != row.label:
            parts.append(f'<text x="0" y="{y + 4:.1f}" fill="{_INK}">{escape(row.label)}</text>')
        if row.floor is not None and row.ceiling is not None:
            left, right = sorted((axis.x(row.floor), axis.x(row.ceiling)))
            parts.append(
                f'<rect x="{left:.1f}" y="{y - 7:.1f}" width="{right - left:.1f}" height="14" fill="#eef2f7"/>'
            )
        if row.floor is not None:
            parts.append(
                f'<circle cx="{axis.x(row.floor):.1f}" cy="{y:.1f}" r="3.6" fill="#fff" stroke="{_SOFT}" stroke-width="1.4"/>'
            )
        if row.ceiling is not None:
            x = axis.x(row.ceiling)
            parts.append(
                f'<line x1="{x:.1f}" y1="{y - 8:.1f}" x2="{x:.1f}" y2="{y + 8:.1f}" stroke="#2f8f57" stroke-width="2.5"/>'
            )
        if row.legible is not None:
            x = axis.x(row.legible)
            parts.append(
                f'<path d="M{x:.1f} {y - 6:.1f}l4.5 6l-4.5 6l-4.5 -6z" fill="#fff" stroke="#2f8f57" stroke-width="1.6"/>'
            )
        if row.low is not None and row.high is not None:
            low, high = axis.x(row.low), axis.x(row.high)
            parts.append(
                f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="5" stroke-opacity=".35"/>'
            )
        tip = f"{row.label}: {row.value:.3g}"
        parts.append(
            f'<circle cx="{axis.x(row.value):.1f}" cy="{y:.1f}" r="4.2" fill="{colour}"><title>{escape(tip)}</title></circle>'
        )
    parts += _legend(names, _TOP + _ROW * len(rows) + 12)
    return _svg(height, parts, title)


def _legend(names: Sequence[str], y: float) -> list[str]:
    parts, x = [], float(_LABEL)
    for index, name in enumerate(names):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 9:.1f}" y="{y + 4:.1f}" fill="{_INK}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def difference_plot(title: str, rows: Sequence[Range]) -> str:
    """Differences with their intervals, beside the line of no difference."""
    numbers = [0.0, *(one for row in rows for one in (row.value, row.low, row.high) if one is not None)]
    axis, height = _Axis(min(numbers), max(numbers), _WIDE_LABEL), _TOP + _ROW * len(rows) + 6
    parts, zero = axis.lines(height), axis.x(0)
    parts.append(f'<line x1="{zero:.1f}" y1="{_TOP - 6}" x2="{zero:.1f}" y2="{height - 4:.1f}" stroke="{_INK}"/>')
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        colour = {"better": "#2f8f57", "worse": "#b33a4a"}.get(row.verdict, _SOFT)
        parts.append(f'<text x="0" y="{y + 4:.1f}" fill="{_INK}">{escape(row.label)}</text>')
        if row.low is not None and row.high is not None:
            low, high = axis.x(row.low), axis.x(row.high)
            parts.append(
                f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2"/>'
            )
        parts.append(f'<circle cx="{axis.x(row.value):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return _svg(height, parts, title)
