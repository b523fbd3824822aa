"""Pages: self-contained, escaped, pictures that decode to what they show."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from medcodi.errors import DataError
from medcodi.pages.bars import Range, range_chart
from medcodi.pages.charts import ForestRow, forest_chart
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
    render_template,
    write_page,
)
from medcodi.xmp import GENERATED, PNG_KEYWORD, read_mark


def test_a_picture_survives() -> None:
    image = np.linspace(0, 1, 64).reshape(8, 8)
    decoded = Image.open(io.BytesIO(base64.b64decode(image_data_uri(image).partition(",")[2])))
    np.testing.assert_allclose(np.asarray(decoded) / 255, image, atol=0.5 / 255)


def test_generated_pictures_are_marked_wherever_they_are_saved() -> None:
    def info(role: str) -> dict[object, object]:
        uri = Cell(caption="Frontal X-ray", role=role, value=np.zeros((8, 8))).uri
        return dict(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).info)

    assert read_mark(str(info("generated")[PNG_KEYWORD]), "it").source_type == GENERATED
    assert not info("truth") and not info("prompt")


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
    differences = [ForestRow(label="<b>one</b>", value=0.1, low=0.0, high=0.2)]
    plots = [Plot(svg=range_chart("Ranges", ranges, ["a", "b"])), Plot(svg=forest_chart("Differences", differences))]
    table = Table(columns=("a", "b"), rows=[("1", Figure(text="0.5", value=0.5, shade=1.0)), ("all", "2")], last=1)
    sections = [
        Section(title="One", tables=[table], rows=[row], plots=plots),
        Section(title="Two", text="more", folded=True),
    ]
    head = Head(title="Title", lead="lead", verdict=["It holds."], facts=[("3", "studies")])
    page = write_page(tmp_path / "new" / "page.html", render_page(head, sections)).read_text()
    assert "<i>alert" not in page and "&lt;i&gt;alert" in page and "<b>one" not in page
    assert "http://" not in page and "https://" not in page and "src=" not in page.replace('src="data:', "")
    assert page.count("data:image/png") == 1 and page.count("<svg") == 2
    assert 'data-v="0.5"' in page and 'class="last"' in page and "background:rgb(190,226,201)" in page
    assert '<details class="part"' in page
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_page_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in (render_page(Head(title=title), []) for title in ("old", "new")):
        assert write_page(tmp_path / "page" / "index.html", text).read_text() == text
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_page(tmp_path / "file" / "index.html", "x")


def test_an_undefined_name_in_a_template_is_an_error_and_values_are_escaped(tmp_path: Path) -> None:
    template = tmp_path / "own.html"
    template.write_text(
        '{% extends "base.html" %}{% block title %}{{ title }}{% endblock %}{% block body %}{{ text|shout }}{% endblock %}'
    )
    page = render_template(template, filters={"shout": str.upper}, title="a < b", text="<i>")
    assert "<title>a &lt; b</title>" in page and "&lt;I&gt;" in page and "<script" not in page
    with pytest.raises(jinja2.UndefinedError):
        render_template(template, filters={"shout": str.upper}, text="a")


def test_cells_are_shaded_from_red_over_yellow_to_green() -> None:
    colours = [Figure(text="", shade=shade).colour for shade in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    assert colours == ["rgb(244,199,190)"] * 2 + ["rgb(250,243,206)"] + ["rgb(190,226,201)"] * 2
    assert Figure(text="").colour == ""


def test_a_page_replaces_a_page_of_ours_and_nothing_else(tmp_path: Path) -> None:
    page = render_page(Head(title="t"), [])
    path = write_page(tmp_path / "index.html", page)
    assert write_page(path, page) == path
    path.write_text(page.replace('<meta name="generator" content="MedCoDi">', ""))  # as versions before it wrote them
    write_page(path, page)
    for theirs in ("<!doctype html><html><title>mine</title>", "", 'x <meta name="generator" content="MedCoDi">'):
        path.write_text(theirs)
        with pytest.raises(DataError, match="is not a page that MedCoDi wrote.*choose another name"):
            write_page(path, page)
        assert path.read_text() == theirs
