"""``medcodi data prepare``: the ledger printed, wrong settings refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcodi.app.cli import REFUSED

Run = Callable[..., int]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three studies of two patients: images of odd sizes, and one report."""
    lines = ["study_id,patient_id,image,view,report"]
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"s{number},p{number // 2},{number}.png,{'PA' if number else 'LATERAL'},Clear lungs.")
    path = tmp_path / "studies.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prepare_prints_the_ledger(run: Run, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.parent / "prepared"
    assert run("data", "prepare", "--source", "csv", "--out", str(out), f"path={table}", "image_size=32", "val=0") == 0
    assert "Ledger" in capsys.readouterr().out
    assert (out / "ledger.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--source", "cvs"), ["unknown source 'cvs'", "did you mean 'csv'"]),
        (("--source", "csv", "options.columns.image=imag"), ["no column 'imag'", "did you mean 'image'"]),
        (("--source", "csv", "imagesize=32"), ["unknown key 'imagesize'", "did you mean 'image_size'"]),
        (("--source", "csv", "image_size=big"), ["image_size = 'big'"]),
    ],
)
def test_prepare_refuses_and_leaves_nothing(
    run: Run, arguments: tuple[str, ...], expected: list[str], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(table.parent.iterdir())
    assert run("data", "prepare", "--out", str(table.parent / "prepared"), f"path={table}", *arguments) == REFUSED
    said = capsys.readouterr().err
    for text in expected:
        assert text in said
    assert sorted(table.parent.iterdir()) == before


def test_prepare_reads_a_recipe(run: Run, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"source: csv\npath: {table}\nout: {tmp_path / 'not-here'}\nimage_size: 32\nval: 0\n")
    out = tmp_path / "prepared"
    assert run("data", "prepare", "--config", str(recipe), "--out", str(out), "test=0.5") == 0
    assert (out / "ledger.csv").is_file() and not (tmp_path / "not-here").exists()
    assert run("data", "prepare", "--out", str(tmp_path / "other")) == REFUSED
    assert "source" in capsys.readouterr().err
    assert run("data", "prepare", "--config", "chexprt") == REFUSED
    assert "did you mean 'chexpert'" in capsys.readouterr().err
