"""``medcodi parameters``: a recipe and a folder agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.config import to_yaml
from medcodi.model import MedCoDi, tiny_config

Run = Callable[..., int]


def test_a_recipe_and_a_folder_agree(
    run: Run, model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: MedCoDi
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(tiny_config()))
    totals = []
    for source in (str(recipe), model_folder):
        assert run("parameters", source, "--json") == 0
        totals.append(json.loads(capsys.readouterr().out)["parameters"])
    assert totals[1] == sum(parameter.numel() for parameter in tiny_model.parameters())
    assert abs(totals[0] - totals[1]) / totals[1] < 0.25  # the recipe's vocabulary is an upper bound
