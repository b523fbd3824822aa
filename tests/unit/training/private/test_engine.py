"""A private step: plain LoRA's without noise and clipping, the same for any micro-batches, and noisy by its secret."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcodi.config import from_dict
from medcodi.distributed import Ranks
from medcodi.model.low_rank import LowRankConfig
from medcodi.stages import Stage
from medcodi.training.config import TrainConfig
from medcodi.training.engine import Engine, PlainEngine
from medcodi.training.private.accounting import Mechanism
from medcodi.training.private.engine import PrivateEngine
from tests.unit.stages.batches import drawn, phantom_batch, stage_of

CONFIG = from_dict(
    TrainConfig,
    {
        "stage": {"name": "diffuse"},
        "data": {"source": "phantom", "num_studies": 8},
        "init": "demo",
        "out": "runs/x",
        "steps": 4,
        "batch": {"global_size": 4},
        "optimizer": {"lr": 0.01, "eps": 1e-3, "weight_decay": 0.1},
        "low_rank": {"rank": 2},
    },
)


def stage() -> Stage:
    built = stage_of("diffuse", targets=["report"])
    built.train_low_rank(LowRankConfig(rank=2, layers=("attention",)), seed=0)
    return built


def private(noise: float, clip: float, secret: str = "s") -> PrivateEngine:
    mechanism = Mechanism(noise=noise, clip=clip, delta=1e-5, patients=100, expected=4)
    return PrivateEngine(stage(), CONFIG, Ranks(), mechanism, secret)


def after(engine: Engine, *parts: tuple[int, ...], steps: int = 2) -> dict[str, Tensor]:
    """The weights after some steps on micro-batches of these studies."""
    for step in range(steps):
        batches = [phantom_batch(*part) for part in parts]
        engine.run_step(batches, [drawn(batch, step) for batch in batches] or [drawn(phantom_batch(), step)])
    return {name: value.clone() for name, value in engine.shards().items()}


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """Plain low-rank training, which divides by the number of studies: four, as the private engine expects."""
    return after(PlainEngine(stage(), CONFIG, Ranks()), (0, 1, 2, 3))


@pytest.mark.parametrize("parts", [((0, 1, 2, 3),), ((0, 1), (2, 3))])
def test_without_noise_and_clipping_it_is_the_step_of_plain_low_rank_training(
    plain: dict[str, Tensor], parts: tuple
) -> None:
    ours, start = after(private(0.0, math.inf), *parts), private(0.0, math.inf).shards()
    assert set(ours) == set(plain) and any((plain[name] - start[name]).abs().max() > 1e-3 for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)


def test_noise_has_the_size_of_the_mechanism_and_is_keyed_by_secret_step_and_parameter() -> None:
    """Also in a step that drew nobody, which must look like any other."""
    engine = private(noise=2.0, clip=0.5)
    result = engine.run_step([], [drawn(phantom_batch())])
    assert not result.skipped and math.isnan(float(result.losses[0]))
    like = torch.zeros(100, 100)
    noise = engine._noise(0, "a", like)
    assert abs(float(noise.std()) - 1) < 0.02 and engine._noise(0, "a", like).equal(noise)
    others = (engine._noise(1, "a", like), engine._noise(0, "b", like), private(2.0, 0.5, "t")._noise(0, "a", like))
    assert not any(other.equal(noise) for other in others)
    size = math.sqrt(sum(parameter.numel() for parameter in engine.shards().values()))
    assert result.grad_norm == pytest.approx(2.0 * 0.5 * size / 4, rel=0.05)


def test_two_patients_change_no_step_by_more_than_the_clip() -> None:
    """The log counts who was clipped, over rows, so that ranks add up."""
    engine = private(noise=0.0, clip=1e-4)
    batch = phantom_batch(0, 1)
    result = engine.run_step([batch], [drawn(batch)])
    assert result.grad_norm is not None and 0 < result.grad_norm <= 2 * 1e-4 / 4 * 1.001
    assert result.logs[0]["privacy/clipped"].tolist() == [2.0, 2.0] and result.logs[0]["loss"][1] == 2
