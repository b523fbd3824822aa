"""``medcodi demo``: one self-contained page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.cli import REFUSED
from medcodi.config import load
from medcodi.data.sources.phantom import phantom_report
from medcodi.model import ModelConfig, build_model
from medcodi.study import Finding, finding_words

Run = Callable[..., int]


def test_demo_writes_one_page_of_twelve_directions(
    run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert run("demo", "--model", model_folder, "--steps", "2", "--out", str(out), "--device", "cpu") == 0
    assert str(out / "index.html") in capsys.readouterr().out
    html = (out / "index.html").read_text()
    assert html.count("<section id=") == 12
    assert html.count('alt="') == html.count("<img ") == html.count("data:image/png;base64,") >= 24
    assert "http" not in html.replace("http-equiv", "")  # self-contained
    assert [path.name for path in out.iterdir()] == ["index.html"]


def test_a_model_with_records_is_shown_with_those_of_patients_who_have_them(run: Run, tmp_path: Path) -> None:
    recipe = load(ModelConfig, "models/tiny-record")
    model = build_model(recipe, [phantom_report(0, index) for index in range(16)])
    folder = str(model.save_pretrained(tmp_path / "model"))
    assert run("demo", "--model", folder, "--steps", "1", "--out", str(tmp_path), "--device", "cpu") == 0
    html = (tmp_path / "index.html").read_text()
    assert html.count("<section id=") == 22 and "22 directions" in html
    # The record prompts six of them and is generated in four, beside its truth.
    assert html.count('<dl class="report record">') == 6 + 2 * 4
    assert "<dt>age</dt>" in html and " years</dd>" in html


def test_finding_in_words() -> None:
    assert finding_words(Finding(label="Pleural Effusion", side="left", size="large")) == "large left Pleural Effusion"
    assert finding_words(Finding(label="Lung Lesion", side="right", location="upper")) == "right upper Lung Lesion"


def test_a_page_of_the_users_is_refused_before_anything_is_generated(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("<html>mine</html>")
    assert (
        run("demo", "--model", str(tmp_path / "none"), "--out", str(tmp_path)) == REFUSED
    )  # before the model is looked for
    assert "index.html is there already" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "<html>mine</html>"
