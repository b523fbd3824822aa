"""Self-contained HTML pages: tables that sort, plots, rows of pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from medcodi.errors import DataError, MissingExtraError

_TEMPLATE = Path(__file__).with_name("page.html")


def image_data_uri(image: np.ndarray) -> str:
    """A PNG as a data URI.

    Args:
        image: float ``[H, W]`` in [0, 1].

    Raises:
        DataError: If it is not of two dimensions.
    """
    if image.ndim != 2:
        raise DataError(f"a picture of shape {image.shape}", expected="[H, W]")
    buffer = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture or text of a row.

    Attributes:
        caption: What it is: "Report", "Lateral X-ray".
        role: "prompt", "generated" or "truth"; decides its colour.
        value: image float ``[H, W]`` in [0, 1], or text.
        note: A line below, e.g. the findings read from it.
        label: In the place of the role, where several are alike (the name of a system).
    """

    caption: str
    role: str
    value: np.ndarray | str
    note: str = ""
    label: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it is a text."""
        return isinstance(self.value, str)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        assert not isinstance(self.value, str)
        return image_data_uri(self.value)


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """Cells side by side: prompts, generated, truth."""

    title: str
    cells: Sequence[Cell]
    note: str = ""

    @property
    def groups(self) -> list[list[Cell]]:
        """The prompts, then each target with its truth: what stays side by side where a row is too long."""
        runs = groupby(self.cells, key=lambda cell: "" if cell.role == "prompt" else cell.caption)
        return [list(run) for _, run in runs]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A cell of a table that holds a number.

    Attributes:
        text: As it is shown.
        value: What the column is sorted by; None: last.
        small: Beside it, smaller: an interval.
        below: Under it, smaller: ceiling and floor.
        shade: 0 (as bad as the floor) to 1 (as good as the ceiling); None: no colour.
        strong: Whether it stands out.
    """

    text: str
    value: float | None = None
    small: str = ""
    below: str = ""
    shade: float | None = None
    strong: bool = False

    @property
    def colour(self) -> str:
        """CSS colour of the cell: from red over pale yellow to green, light enough for black print."""
        if self.shade is None:
            return ""
        share = min(max(self.shade, 0.0), 1.0)
        low, middle, high = (244, 199, 190), (250, 243, 206), (190, 226, 201)
        first, second, part = (low, middle, 2 * share) if share < 0.5 else (middle, high, 2 * share - 1)
        mixed = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
        return "rgb({},{},{})".format(*mixed)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; a click on a column's head sorts by it.

    Attributes:
        columns: Heads.
        rows: Texts or figures.
        caption: Above it.
        left: How many columns, from the first, hold words.
        last: Rows at the end that stay there when the others are sorted: ceilings, counts.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Figure]]
    caption: str = ""
    left: int = 1
    last: int = 0

    def cells(self) -> list[list[Figure]]:
        """Every cell as a figure."""
        return [[one if isinstance(one, Figure) else Figure(text=one) for one in row] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """An inline drawing: SVG text made by ``plots.py``."""

    svg: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page; ``folded`` ones open on a click."""

    title: str
    text: str = ""
    alarms: Sequence[str] = field(default_factory=tuple)
    plots: Sequence[Plot] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    rows: Sequence[PictureRow] = field(default_factory=tuple)
    parts: Sequence[Section] = field(default_factory=tuple)
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """Top of a page.

    Attributes:
        title: In large letters.
        lead: One sentence: what was evaluated, on what.
        verdict: What came out, a sentence a line.
        facts: (number, what it counts), in a row of boxes.
    """

    title: str
    lead: str = ""
    verdict: Sequence[str] = field(default_factory=tuple)
    facts: Sequence[tuple[str, str]] = field(default_factory=tuple)


def render_page(head: Head, sections: Sequence[Section]) -> str:
    """The page as one HTML text.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise MissingExtraError("jinja2", extra="eval", needed_for="HTML pages") from None
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(head=head, sections=sections)


def write_page(path: str | Path, head: Head, sections: Sequence[Section]) -> Path:
    """Render and write, all or nothing; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render_page(head, sections), encoding="utf-8")
    partial.replace(path)
    return path
