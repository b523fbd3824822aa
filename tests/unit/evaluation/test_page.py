"""Pages: self-contained, escaped, pictures that decode to what they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.evaluation.page import Cell, PictureRow, Section, Table, image_data_uri, render_page, write_page

pytest.importorskip("jinja2")


def test_a_picture_survives() -> None:
    image = np.linspace(0, 1, 64).reshape(8, 8)
    decoded = Image.open(io.BytesIO(base64.b64decode(image_data_uri(image).partition(",")[2])))
    np.testing.assert_allclose(np.asarray(decoded) / 255, image, atol=0.5 / 255)


def test_only_grey_images() -> None:
    with pytest.raises(DataError, match=r"\(8, 8, 3\)"):
        image_data_uri(np.zeros((8, 8, 3)))


def test_page_is_self_contained_and_escaped(tmp_path) -> None:
    row = PictureRow(
        title="report → frontal",
        cells=[
            Cell(caption="Report", role="prompt", value="<script>alert(1)</script>"),
            Cell(caption="Frontal", role="generated", value=np.zeros((4, 4))),
        ],
    )
    sections = [
        Section(title="One", tables=[Table(columns=("a", "b"), rows=[("1", "2")])], rows=[row]),
        Section(title="Two", text="more", folded=True),
    ]
    page = write_page(tmp_path / "new" / "page.html", "Title", sections, lead="lead").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page and page.count("data:image/png") == 1
    assert "<details>" in page and page == render_page("Title", sections, lead="lead")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
