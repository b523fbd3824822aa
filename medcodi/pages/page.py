"""Self-contained HTML pages: sections with sortable tables, charts and rows of pictures; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from medcodi.data.images import png_info
from medcodi.errors import DataError
from medcodi.storage.atomic import write_text
from medcodi.storage.ownership import refuse_foreign
from medcodi.xmp import GENERATED, Mark

_GENERATED = Mark(source_type=GENERATED)  # by whatever system a page shows
TEMPLATES = Path(__file__).parent / "templates"
# What proves that a page is ours: the generator in its head, or the style of pages from before it was there.
_MARKS = (b'<meta name="generator" content="MedCoDi">', b"--ink:#1b2530")


def image_data_uri(image: np.ndarray, *, generated: bool = False) -> str:
    """A grey image ``[H, W]`` in [0, 1] as a PNG in a data URI; a generated one is marked as such, wherever it is saved.

    Raises:
        DataError: If it has not two dimensions.
    """
    if image.ndim != 2:
        raise DataError(f"a picture of shape {image.shape}", expected="[H, W]")
    buffer = io.BytesIO()
    picture = Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
    picture.save(buffer, "PNG", optimize=True, pnginfo=png_info(xmp=_GENERATED.packet()) if generated else None)
    return png_data_uri(buffer.getvalue())


def png_data_uri(png: bytes) -> str:
    """The bytes of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture or text of a row."""

    caption: str  # what it is: "Report", "Lateral X-ray"
    role: str  # "prompt", "generated" or "truth"; decides its colour
    value: np.ndarray | str  # image, float ``[H, W]`` in [0, 1], or text
    note: str = ""  # a line below, such as the findings read from it
    label: str = ""  # shown instead of the role where several are alike (the name of a system)

    @property
    def is_text(self) -> bool:
        """Whether it is a text."""
        return isinstance(self.value, str)

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        assert not isinstance(self.value, str)
        return image_data_uri(self.value, generated=self.role == "generated")


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """Cells side by side: prompts, generated, truth."""

    title: str
    cells: Sequence[Cell]
    note: str = ""

    @property
    def groups(self) -> list[list[Cell]]:
        """The prompts, then each target with its truth: a long row wraps between groups only."""
        runs = groupby(self.cells, key=lambda cell: "" if cell.role == "prompt" else cell.caption)
        return [list(run) for _, run in runs]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A table cell that holds a number."""

    text: str  # as it is shown
    value: float | None = None  # the column is sorted by it; None: last
    small: str = ""  # beside it, smaller: an interval
    below: str = ""  # under it, smaller: ceiling and floor
    shade: float | None = None  # 0 (as bad as the floor) to 1 (as good as the ceiling); None: no colour
    strong: bool = False  # whether it is printed in bold

    @classmethod
    def of(cls, figure: Mapping[str, Any] | None, digits: int = 3) -> Figure:
        """A figure with ``value``, ``low`` and ``high`` as a number with its interval beside it; a dash where unknown."""
        if figure is None or figure["value"] is None:
            return cls(text="–")
        spread = "" if figure["low"] is None else f"[{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
        return cls(text=f"{figure['value']:.{digits}f}", value=figure["value"], small=spread)

    @property
    def colour(self) -> str:
        """CSS colour of the cell: from red over pale yellow to green, light enough for black print."""
        if self.shade is None:
            return ""
        share = min(max(self.shade, 0.0), 1.0)
        low, middle, high = (244, 199, 190), (250, 243, 206), (190, 226, 201)
        # Interpolate within the half of the scale that holds the share.
        first, second, part = (low, middle, 2 * share) if share < 0.5 else (middle, high, 2 * share - 1)
        mixed = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
        return "rgb({},{},{})".format(*mixed)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; a click on a column's head sorts by it."""

    columns: Sequence[str]  # heads
    rows: Sequence[Sequence[str | Figure]]  # texts or figures
    caption: str = ""  # above it
    left: int = 1  # how many columns, from the first, hold words
    last: int = 0  # rows at the end that stay there when the others are sorted: ceilings, counts

    def cells(self) -> list[list[Figure]]:
        """Every cell as a figure."""
        return [[cell if isinstance(cell, Figure) else Figure(text=cell) for cell in row] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A chart (SVG text of ``charts.py``) or a wide picture (a data URI), with a caption."""

    svg: str = ""
    uri: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page; ``folded`` ones open on a click."""

    title: str
    text: str = ""  # paragraphs below the title, a line each
    alarms: Sequence[str] = ()  # what must be seen before anything else, a box each
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    rows: Sequence[PictureRow] = ()
    parts: Sequence[Section] = ()  # sections within it, after all else
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """Top of a page."""

    title: str  # in large letters
    lead: str = ""  # one sentence: what was evaluated, on what
    verdict: Sequence[str] = ()  # what came out, a sentence a line
    facts: Sequence[tuple[str, str]] = ()  # (number, what it counts), in a row of boxes


def render_template(
    template: str | Path, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Fill a template; every text is escaped, an undefined name is an error.

    Args:
        template: A file that extends ``base.html``, which gives the head, the common style and room for a script.
        filters: More filters, by name.
        values: Of the template.
    """
    template = Path(template)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": image_data_uri, **(filters or {})}
    return environment.get_template(template.name).render(**values)


def render_page(head: Head, sections: Sequence[Section]) -> str:
    """A page of sections as one HTML text."""
    return render_template(TEMPLATES / "sections.html", head=head, sections=sections)


def check_page(path: str | Path) -> None:
    """Refuse to write a page over a file that is none of our pages; to be called before the work that it shows.

    Raises:
        DataError: If there is such a file.
    """
    refuse_foreign(Path(path), is_our_page, what="a page that MedCoDi wrote", fix="choose another name with --out")


def is_our_page(path: Path) -> bool:
    """Whether a file is a page that MedCoDi wrote."""
    with path.open("rb") as file:
        head = file.read(4096)
    return head.lower().startswith(b"<!doctype html>") and any(mark in head for mark in _MARKS)


def write_page(path: str | Path, html: str) -> Path:
    """Write a page, all or nothing, over an earlier one; its folder is created.

    Raises:
        DataError: If it cannot be written, or would replace a file that is none of our pages.
    """
    check_page(path)
    write_text(Path(path), html, error=DataError)
    return Path(path)
