"""Checks before the first step, and what a checkpoint says of the micro-batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from medcodi.data.sources.phantom import PhantomDataset
from medcodi.distributed import Ranks
from medcodi.errors import TrainingError
from medcodi.training.run import Run, check_data, check_room

from .toy import toy_config

HUGE = [nn.Parameter(torch.empty(2**40, device="meta"))]  # 16 TiB of weights, moments and average


def stage(image_size: int, *needs: str) -> Any:
    model = SimpleNamespace(config=SimpleNamespace(image_size=image_size, record=None))
    return SimpleNamespace(name="diffuse", model=model, needs=lambda: needs)


class OnlyFrontal(PhantomDataset):
    """Studies that have one view and nothing else."""

    def modality_counts(self) -> dict[str, int]:
        return {"frontal": len(self), "lateral": 0, "report": 0}


def test_studies_of_another_size_or_without_a_modality_are_refused() -> None:
    dataset = OnlyFrontal(8, seed=0, image_size=32)
    check_data(stage(32, "frontal"), dataset)
    with pytest.raises(TrainingError, match="validation: .* at 32 pixels, the model takes 64.*image_size=64"):
        check_data(stage(64, "frontal"), dataset, "validation")
    with pytest.raises(TrainingError, match="none of the 8 studies of .* has lateral or report .*frontal in 8"):
        check_data(stage(32, "frontal", "lateral", "report"), dataset)


def test_a_disk_without_room_for_the_checkpoints_to_come_is_refused(tmp_path: Path) -> None:
    check_room(tmp_path, toy_config(), [nn.Parameter(torch.ones(10))], 0)
    config = toy_config(steps=8, checkpoint={"every": 2, "keep": 2})
    with pytest.raises(TrainingError, match="checkpoints to come: 3 of 1.64e.04 GiB each.*: the run keeps 2"):
        check_room(tmp_path, config, HUGE, 0)
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}").mkdir()
    with pytest.raises(TrainingError, match="checkpoints to come: 1 of"):  # two are there already
        check_room(tmp_path, config, HUGE, 4)
    with pytest.raises(TrainingError, match="1.23e.04 GiB each"):  # no average
        check_room(tmp_path, toy_config(ema={"enabled": False}), HUGE, 0)


@pytest.mark.parametrize(("saved", "ratio"), [(None, 2.0), ({"micro_batches": 8}, 0.5), ({}, 2.0)])
def test_micro_batches_now_and_then(saved: dict[str, Any] | None, ratio: float) -> None:
    run = Run.__new__(Run)
    run.config, run.ranks, run.resumed_state = toy_config(batch={"global_size": 4, "micro_size": 1}), Ranks(0, 2), saved
    assert run.micro_ratio == ratio  # 4 of 1 study each on two ranks; an old checkpoint had one for each rank
