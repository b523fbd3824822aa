"""Self-contained HTML pages: tables and rows of pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from medcodi.errors import DataError, MissingExtraError


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
    """

    caption: str
    role: str
    value: np.ndarray | str
    note: str = ""

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


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of short texts; a row whose first cell is marked is shown bold."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page; ``folded`` ones open on a click."""

    title: str
    text: str = ""
    tables: Sequence[Table] = field(default_factory=tuple)
    rows: Sequence[PictureRow] = field(default_factory=tuple)
    folded: bool = False


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
 body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:#1c2430;background:#fff;margin:0 auto;max-width:1200px;padding:24px}
 h1{font-size:26px;margin:0 0 4px} h2{font-size:19px;margin:36px 0 6px;border-bottom:1px solid #dde3ea;padding-bottom:4px}
 h3{font-size:15px;margin:22px 0 6px} p{max-width:80ch;margin:6px 0} .muted{color:#5d6b7a;font-size:13px}
 .scroll{overflow-x:auto} table{border-collapse:collapse;margin:10px 0;font-size:13.5px;font-variant-numeric:tabular-nums}
 caption{text-align:left;color:#5d6b7a;padding:4px 0} th,td{padding:4px 10px;border-bottom:1px solid #e8ecf1;text-align:right;white-space:nowrap}
 th:first-child,td:first-child{text-align:left} th{background:#f5f7fa;font-weight:600} tr:hover td{background:#fafbfd}
 .row{display:flex;gap:12px;flex-wrap:wrap;align-items:flex-start;margin:6px 0 18px}
 figure{margin:0;width:200px;border-top:4px solid #9aa7b5;padding-top:4px} figure.wide{width:300px}
 figure.prompt{border-color:#5b8def} figure.generated{border-color:#e08a2e} figure.truth{border-color:#4aa564}
 figcaption{font-size:12.5px;color:#44505e;margin-bottom:4px} figcaption b{font-weight:600}
 img{width:200px;height:200px;image-rendering:auto;display:block;background:#000}
 .report{font-size:12.5px;line-height:1.4;white-space:pre-wrap;background:#f7f8fa;padding:8px;max-height:260px;overflow:auto}
 .note{font-size:12px;color:#5d6b7a;margin-top:3px} summary{cursor:pointer;font-weight:600;font-size:17px;margin-top:30px}
</style></head><body>
<h1>{{ title }}</h1>{% if lead %}<p>{{ lead }}</p>{% endif %}
{% macro body(section) %}
 {% for paragraph in section.text.split("\\n") if paragraph %}<p>{{ paragraph }}</p>{% endfor %}
 {% for table in section.tables %}<div class="scroll"><table>
  {% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
  <thead><tr>{% for column in table.columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
  <tbody>{% for row in table.rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>{% endfor %}
 {% for row in section.rows %}<h3>{{ row.title }}</h3>{% if row.note %}<p class="muted">{{ row.note }}</p>{% endif %}<div class="row">
  {% for cell in row.cells %}<figure class="{{ cell.role }}{{ ' wide' if cell.is_text }}">
   <figcaption><b>{{ cell.role }}</b> · {{ cell.caption }}</figcaption>
   {% if cell.is_text %}<div class="report">{{ cell.value }}</div>{% else %}<img alt="{{ cell.role }} {{ cell.caption }}" src="{{ cell.uri }}">{% endif %}
   {% if cell.note %}<div class="note">{{ cell.note }}</div>{% endif %}</figure>{% endfor %}</div>{% endfor %}
{% endmacro %}
{% for section in sections %}
 {% if section.folded %}<details><summary>{{ section.title }}</summary>{{ body(section) }}</details>
 {% else %}<h2>{{ section.title }}</h2>{{ body(section) }}{% endif %}
{% endfor %}
</body></html>
"""


def render_page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """The page as one HTML text.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise MissingExtraError("jinja2", extra="eval", needed_for="HTML pages") from None
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(_TEMPLATE)
        .render(title=title, sections=sections, lead=lead)
    )


def write_page(path: str | Path, title: str, sections: Sequence[Section], *, lead: str = "") -> Path:
    """Render and write, all or nothing; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render_page(title, sections, lead=lead), encoding="utf-8")
    partial.replace(path)
    return path
