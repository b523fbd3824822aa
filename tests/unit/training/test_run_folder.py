"""A run's folder: locked, refused, and left as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from medcodi.config import from_dict
from medcodi.distributed import ALONE
from medcodi.errors import CheckpointError, MedCoDiError, TrainingError
from medcodi.training import checkpoint, run_folder
from medcodi.training.checkpoint import Checkpoint
from medcodi.training.config import TrainConfig
from medcodi.training.run_folder import RunFolder


def config(out: Path) -> TrainConfig:
    return from_dict(TrainConfig, {"stage": {"name": "autoencode"}, "model": "x.yaml", "out": str(out), "steps": 1,
                                   "data": {"source": "phantom", "num_studies": 2}, "batch": {"global_size": 1}})  # fmt: skip


def test_a_refused_run_leaves_nothing_and_an_accepted_one_its_config(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    with pytest.raises(KeyError), run_folder.opened(settings, None, ALONE) as folder:
        assert (folder.root / ".lock").exists() and folder.checkpoints.is_dir()
        raise KeyError
    assert not (tmp_path / "run").exists()
    with run_folder.opened(settings, None, ALONE) as folder:
        run_folder.accept(settings, folder, ALONE)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "config.yaml"]


def test_a_folder_that_holds_a_run_is_only_resumed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run/checkpoints", Checkpoint({}, {"step": 3, "identity": {"seed": 0}}), keep=1)
    before = json.loads((tmp_path / "run/checkpoints/step-00000003/manifest.json").read_text())
    with (
        pytest.raises(TrainingError, match="holds a run already.*--resume latest"),
        run_folder.opened(config(tmp_path / "run"), None, ALONE),
    ):
        pass
    said: list[str] = []
    with run_folder.opened(config(tmp_path / "run"), "latest", ALONE) as folder:
        chosen = run_folder.checkpoint_to_resume(folder, "latest", {"seed": 0, "cached": False}, said.append)
        assert chosen is not None and chosen.step == 3 and not said
        with pytest.raises(CheckpointError, match="the run changed since step 3: seed was 0, is 1"):
            run_folder.checkpoint_to_resume(folder, "latest", {"seed": 1, "cached": False}, said.append)
        assert run_folder.checkpoint_to_resume(folder, None, {}, said.append) is None
    assert json.loads((tmp_path / "run/checkpoints/step-00000003/manifest.json").read_text()) == before
    (tmp_path / "empty").mkdir()
    assert run_folder.checkpoint_to_resume(RunFolder(tmp_path / "empty"), "latest", {}, said.append) is None
    assert said == ["no checkpoint yet: starting from step 0"]


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with (
        pytest.raises(MedCoDiError, match="/proc/run cannot be written"),
        run_folder.opened(config(Path("/proc/run")), None, ALONE),
    ):
        pass


def test_tensors_must_fit() -> None:
    layer = nn.Linear(2, 3)
    run_folder.load_tensors(layer, {"bias": torch.ones(3)})
    assert layer.bias.equal(torch.ones(3))
    for tensors, message in (
        ({"bias": torch.ones(4)}, r"bias is \(4,\), the model has \(3,\)"),
        ({"x": torch.ones(1)}, "no such tensor"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run_folder.load_tensors(layer, tensors)
