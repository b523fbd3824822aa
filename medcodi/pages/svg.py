"""Drawing on an SVG canvas: shapes, linear and logarithmic axes, round tick values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, SOFT, GRID = "#1b2530", "#5a6877", "#dde3ea"
ROW = 22  # pixels, height of a row of labels
GREEN, RED, ORANGE, BLUE, GREY = "#2f8f57", "#b33a4a", "#c05621", "#2b6cb0", "#8a97a6"
# Distinguishable without red-green vision: Okabe & Ito, 2008.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 4", "10 4", "4 1", "3 5")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) from ``low`` to ``high``, at most ``count`` + 1 of them."""
    raw = (high - low) / count
    exponent = math.floor(math.log10(raw))
    step = next(factor * 10.0**exponent for factor in (1, 2, 5, 10) if factor * 10.0**exponent >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, max(0, 1 - exponent)) for number in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """A map from data to pixels."""

    low: float  # ends in data units; values beyond them are drawn at the end
    high: float
    start: float  # their pixels; ``start > end`` for an axis that points up
    end: float
    logarithmic: bool = False  # whether equal ratios have equal lengths

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, end: float, *, margin: float = 0.05, logarithmic: bool = False
    ) -> Axis:
        """An axis that holds all values, with a margin (a share of their range) at both ends."""
        low, high = min(values), max(values)
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        pad = margin * (high - low) or margin * abs(high) or 1.0
        low, high = low - pad, high + pad
        return cls(10**low, 10**high, start, end, True) if logarithmic else cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high = self._ends()
        position = math.log10(value) if self.logarithmic else value
        share = (position - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the ends; on a logarithmic axis, round exponents."""
        values = ticks(*self._ends(), count)
        return [10**value for value in values] if self.logarithmic else values

    def _ends(self) -> tuple[float, float]:
        return (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)


class Canvas:
    """Collects shapes and writes them as one ``<svg>`` with a title for screen readers. The y axis points down."""

    def __init__(self, width: float, title: str, *, title_x: float = 0) -> None:
        self.width, self.title = width, title
        self._shapes: list[str] = []
        self.text(title_x, 15, title, weight=600)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        colour: str = INK,
        weight: int = 400,
        size: float = 12,
        upward: bool = False,
    ) -> None:
        """Text at its baseline; ``upward``: turned by 90 degrees to the left."""
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upward else ""
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-weight="{weight}" '
            f'font-size="{size:g}"{turned}>{escape(text)}</text>'
        )

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        colour: str,
        *,
        width: float = 1,
        dash: str = "",
        opacity: float = 1,
    ) -> None:
        """A straight line."""
        self.path([(x1, y1), (x2, y2)], colour, width=width, dash=dash, opacity=opacity)

    def path(
        self,
        points: Sequence[tuple[float, float]],
        colour: str,
        *,
        width: float = 1.5,
        dash: str = "",
        opacity: float = 1,
        tip: str = "",
    ) -> None:
        """A line through points; ``tip`` is shown under the mouse."""
        corners = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        extras = (f' stroke-dasharray="{dash}"' if dash else "") + (
            f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
        )
        self._shapes.append(
            f'<path d="{corners}" fill="none" stroke="{colour}" stroke-width="{width:g}"{extras}>{_tip(tip)}</path>'
        )

    def rectangle(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        """A filled rectangle without an outline."""
        self._shapes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>')

    def circle(self, x: float, y: float, radius: float, fill: str, *, outline: str = "none", tip: str = "") -> None:
        """A disc, or a ring with ``fill="#fff"`` and an outline."""
        self._shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" stroke="{outline}" stroke-width="1.4">'
            f"{_tip(tip)}</circle>"
        )

    def diamond(self, x: float, y: float, size: float, fill: str, *, outline: str = "none") -> None:
        """A square on its corner; ``size`` from its centre to a corner."""
        corners = f"M{x - size:.1f} {y:.1f}L{x:.1f} {y - size:.1f}L{x + size:.1f} {y:.1f}L{x:.1f} {y + size:.1f}Z"
        self._shapes.append(f'<path d="{corners}" fill="{fill}" stroke="{outline}" stroke-width="1.6"/>')

    def svg(self, height: float) -> str:
        """The picture, cut at ``height``."""
        size = f'width="{self.width:g}" height="{height:g}" viewBox="0 0 {self.width:g} {height:g}"'
        title = escape(self.title)
        return (
            f'<svg role="img" aria-label="{title}" {size} font-family="system-ui,-apple-system,Segoe UI,Roboto,sans-serif">'
            f"<title>{title}</title>{''.join(self._shapes)}</svg>"
        )


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
