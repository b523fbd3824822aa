from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medcodi.app.terminal import out
from medcodi.config import load
from medcodi.recipes import find_recipe, purpose, recipe_names
from medcodi.training.config import TrainConfig

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_names_every_recipe_with_its_purpose(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 80)
    assert run("config", "list") == 0
    said = capsys.readouterr().out
    assert [name for name in recipe_names() if name not in said] == []
    assert max(map(len, said.splitlines())) <= 80
    assert run("config", "list", "models") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "train/align" not in said and purpose(find_recipe("models/tiny")).split(":")[0] in said
    assert run("config", "list", "model") == 2
    assert "did you mean 'models'" in capsys.readouterr().err


def test_show_explains_a_recipe_and_refuses_other_files(
    run: Run, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("config", "show", "train/tiny/align") == 0
    said = capsys.readouterr().out
    assert "# optimiser steps of the whole run (integer; required)\nsteps: 8\n" in said
    assert "  # steps in which the learning rate rises from 0 (integer; default 0)\n  warmup_steps: 2\n" in said
    (elsewhere / "mine.yaml").write_text("steps: 1\n")
    assert run("config", "show", "mine.yaml") == 2
    assert "--print-config" in capsys.readouterr().err


def test_copy_writes_a_recipe_that_works_from_anywhere(
    run: Run, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("config", "copy", "train/tiny/autoencode") == 0
    assert capsys.readouterr().out.strip() == "autoencode.yaml"
    assert load(TrainConfig, "autoencode.yaml") == load(TrainConfig, "tiny/autoencode")
    # Nobody's file is overwritten.
    (elsewhere / "autoencode.yaml").write_text("mine\n")
    assert run("config", "copy", "train/tiny/autoencode") == 2
    assert "exists" in capsys.readouterr().err and (elsewhere / "autoencode.yaml").read_text() == "mine\n"
    # Into a folder, and under another name.
    (elsewhere / "own").mkdir()
    assert run("config", "copy", "models/tiny", "own") == 0 and (elsewhere / "own/tiny.yaml").is_file()
    assert run("config", "copy", "models/tiny", "own/new") == 2
    assert "own/new.yaml" in capsys.readouterr().err
    assert run("config", "copy", "models/tinny") == 2
    assert "did you mean 'models/tiny'" in capsys.readouterr().err
