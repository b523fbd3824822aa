"""Pages: self-contained, escaped, pictures that decode to what they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.evaluation.pages.plots import Range, difference_plot, range_plot
from medcodi.pages.page import (
    Cell,
    Figure,
    Head,
    PictureRow,
    Plot,
    Section,
    Table,
    image_data_uri,
    render_page,
    write_page,
)

pytest.importorskip("jinja2")


def test_a_picture_survives() -> None:
    image = np.linspace(0, 1, 64).reshape(8, 8)
    decoded = Image.open(io.BytesIO(base64.b64decode(image_data_uri(image).partition(",")[2])))
    np.testing.assert_allclose(np.asarray(decoded) / 255, image, atol=0.5 / 255)


def test_only_grey_images() -> None:
    with pytest.raises(DataError, match=r"\(8, 8, 3\)"):
        image_data_uri(np.zeros((8, 8, 3)))


def test_a_target_and_its_truth_stay_side_by_side() -> None:
    told = [("Report", "prompt"), ("Frontal", "generated"), ("Frontal", "truth"), ("Lateral", "generated")]
    row = PictureRow(title="", cells=[Cell(caption=caption, role=role, value="") for caption, role in told])
    assert [[cell.role for cell in group] for group in row.groups] == [
        ["prompt"],
        ["generated", "truth"],
        ["generated"],
    ]


def test_page_is_self_contained_and_escaped(tmp_path) -> None:
    row = PictureRow(
        title="report → frontal",
        cells=[
            Cell(caption="Report", role="prompt", value="<i>alert(1)</i>"),
            Cell(caption="Frontal", role="generated", value=np.zeros((4, 4))),
        ],
    )
    ranges = [Range(label="<b>one</b>", value=0.5, low=0.4, high=0.6, floor=0.1, ceiling=0.9)]
    plots = [Plot(svg=range_plot("Ranges", ranges, ["a", "b"])), Plot(svg=difference_plot("Differences", ranges))]
    table = Table(columns=("a", "b"), rows=[("1", Figure(text="0.5", value=0.5, shade=1.0)), ("all", "2")], last=1)
    sections = [
        Section(title="One", tables=[table], rows=[row], plots=plots),
        Section(title="Two", text="more", folded=True),
    ]
    head = Head(title="Title", lead="lead", verdict=["It holds."], facts=[("3", "studies")])
    page = write_page(tmp_path / "new" / "page.html", head, sections).read_text()
    assert "<i>alert" not in page and "&lt;i&gt;alert" in page and "<b>one" not in page
    assert "http://" not in page and "https://" not in page and "src=" not in page.replace('src="data:', "")
    assert page.count("data:image/png") == 1 and page.count("<svg") == 2
    assert 'data-v="0.5"' in page and 'class="last"' in page and "background:rgb(190,226,201)" in page
    assert '<details class="part"' in page and page == render_page(head, sections)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_difference_has_the_colour_of_its_verdict() -> None:
    row = {"label": "one", "value": 0.1, "low": 0.05, "high": 0.15}
    green = {
        verdict: "#2f8f57" in difference_plot("", [Range(**row, verdict=verdict)]) for verdict in ("better", "alike")
    }
    assert green == {"better": True, "alike": False}
