"""Validation: exact over rows, the same every time, every timestep bucket with as many rows on any number of ranks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medcodi.data.batches import GlobalBatches
from medcodi.data.loading import collate
from medcodi.distributed import Ranks
from medcodi.randomness import StepRandomness
from medcodi.stages import build_stage
from medcodi.training.monitoring.metrics import NamedMeans
from medcodi.training.monitoring.validation import validation_means

from .phantoms import DATASET, SAMPLES


def means_of(stage: Any, parts: list[tuple[int, ...]], lacking: int | None = None) -> dict[str, float]:
    means = NamedMeans(Ranks())
    for part in parts:
        batch = collate([DATASET[sample] for sample in part], part, 32)
        if lacking in part:
            batch.present["lateral"][part.index(lacking)] = False
        with torch.no_grad():
            means.update(stage(batch, StepRandomness(seed=0, step=3, samples=part)).logs)
    return means.take()


@pytest.mark.parametrize("name", ["diffuse", "join"])
def test_loss_by_prompts_is_the_mean_over_rows_however_they_are_split(model: Any, name: str) -> None:
    stage = build_stage(name, model).eval()
    whole = means_of(stage, [SAMPLES], lacking=2)
    split = means_of(stage, [SAMPLES[:1], SAMPLES[1:4], SAMPLES[4:]], lacking=2)
    names = [key for key in whole if " from " in key or "/from " in key]
    assert names == [key for key in split if key in names] and len(names) >= 3
    for key in names:
        assert split[key] == pytest.approx(whole[key], rel=1e-4), key


def test_subsets_add_up_to_the_modality(model: Any) -> None:
    stage = build_stage("diffuse", model, {"drop_probability": 0.3}).eval()
    batch = collate([DATASET[sample] for sample in SAMPLES], SAMPLES, 32)
    with torch.no_grad():
        logs = stage(batch, StepRandomness(seed=1, step=0, samples=SAMPLES)).logs
    cells = {key: value for key, value in logs.items() if key.startswith("loss/frontal/from ")}
    assert [key.rpartition("from ")[2] for key in cells] == ["nothing", "lateral", "report", "lateral+report"]
    total = torch.stack(list(cells.values())).sum(dim=0)
    assert float(total[1]) == 8 and float(total[0] / 8) == pytest.approx(float(logs["loss/frontal"]), rel=1e-5)


def sums(stage: Any, ranks: Ranks = Ranks(), accumulation: int = 1) -> dict[str, list[float]]:
    """Sum and weight of what one rank's validation logs, by name."""
    batches = GlobalBatches(
        DATASET, batch_size=4, rank=ranks.rank, world_size=ranks.world_size, accumulation=accumulation
    )
    engine: Any = SimpleNamespace(stage=stage, ranks=ranks)
    with torch.no_grad():
        state = validation_means(engine, batches, seed=0, num_batches=1).state()
    return {name.removeprefix("rows:"): entry for name, entry in state.items()}


@pytest.mark.parametrize(("name", "options", "num_targets"), [("diffuse", {"targets": ["report"]}, 1), ("join", {}, 3)])
def test_every_timestep_bucket_has_as_many_rows(model: Any, name: str, options: Any, num_targets: int) -> None:
    state = sums(build_stage(name, model, options).eval())
    buckets = {key: entry[1] for key, entry in state.items() if key.startswith("t/")}
    assert len(buckets) == 10 * num_targets and len(set(buckets.values())) == 1
    assert {key.split("/")[1] for key in buckets} >= {"000-099", "900-999"}


def test_validation_is_the_same_every_time(model: Any) -> None:
    stage = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    assert sums(stage) == sums(stage)


def test_ranks_and_micro_batches_fill_the_same_buckets(model: Any) -> None:
    stage = build_stage("diffuse", model, {"targets": ["report"]}).eval()
    whole = sums(stage, accumulation=2)
    ranks = [sums(stage, Ranks(rank, 2)) for rank in range(2)]
    for key, (value, count) in whole.items():
        if key.startswith("t/"):
            parts = [part[key] for part in ranks if key in part]
            assert sum(entry[1] for entry in parts) == count, key
            assert sum(entry[0] for entry in parts) == pytest.approx(value, rel=1e-4), key
