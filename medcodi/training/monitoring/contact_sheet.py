"""Images and texts of several studies in one picture, with a title beside each row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 128  # least pixels a side of a cell
TITLE = 150  # pixels of the column of titles
GAP = 2  # pixels between cells
PAPER, INK, ABSENT = 255, 20, 170  # grey levels
TITLE_SIZE, TEXT_SIZE = 13, 9  # of the letters, pixels

Cell = np.ndarray | str | None


def contact_sheet(rows: Sequence[tuple[str, Sequence[Cell]]]) -> np.ndarray:
    """Draw the rows.

    Args:
        rows: Title and cells of each: an image float32 ``[H, W]`` in [0, 1] (small ones are magnified), a text (as much of it
            as fits), or None: there is none.

    Returns:
        The picture: float32 ``[height, width]`` in [0, 1].
    """
    sides = [max(cell.shape) for _, cells in rows for cell in cells if isinstance(cell, np.ndarray)]
    largest = max(sides, default=CELL)
    zoom = -(-CELL // largest)
    side = largest * zoom
    columns = max((len(cells) for _, cells in rows), default=0)
    sheet = Image.new("L", (TITLE + columns * (side + GAP), max(1, len(rows)) * (side + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (title, cells) in enumerate(rows):
        top = place * (side + GAP)
        _write(pen, title, (4, top + 4), TITLE - 8, side - 8, TITLE_SIZE)
        for column, cell in enumerate(cells):
            left = TITLE + column * (side + GAP)
            if isinstance(cell, np.ndarray):
                sheet.paste(_image(cell, zoom), (left, top))
            elif cell is None:
                pen.rectangle((left, top, left + side - 1, top + side - 1), fill=ABSENT)
                _write(pen, "absent", (left + 4, top + 4), side - 8, side - 8, TEXT_SIZE)
            else:
                _write(pen, cell, (left + 2, top + 2), side - 4, side - 4, TEXT_SIZE)
    return np.asarray(sheet, dtype=np.float32) / 255.0


def _image(pixels: np.ndarray, zoom: int) -> Image.Image:
    grey = Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    return grey.resize((grey.width * zoom, grey.height * zoom), Image.Resampling.NEAREST)


def _font(size: int) -> Any:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or without FreeType: one small size
        return ImageFont.load_default()


def _write(pen: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], width: int, height: int, size: int) -> None:
    """Wrapped, and cut where the cell ends."""
    font = _font(size)
    per_line = max(4, int(width / max(1.0, font.getlength("abcdefghij klmnop") / 17)))
    lines = textwrap.wrap(text, per_line)
    room = max(1, height // (size + 3))
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][: per_line - 1] + "…"]
    for number, line in enumerate(lines):
        pen.text((corner[0], corner[1] + number * (size + 3)), line, fill=INK, font=font)
