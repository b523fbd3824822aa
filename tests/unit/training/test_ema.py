"""The moving average, by hand."""

from __future__ import annotations

import pytest
import torch

from medcodi.distributed import Ranks
from medcodi.training.config import EmaConfig
from medcodi.training.ema import Ema, evaluating
from medcodi.training.engine import PlainEngine

from .toy import ToyStage, toy_config


def test_the_decay_grows_up_to_its_bound() -> None:
    ema = Ema({}, EmaConfig(decay=0.99))
    assert ema.decay(0) == pytest.approx(0.1) and ema.decay(8) == pytest.approx(0.5) and ema.decay(10_000) == 0.99


def test_updates_by_hand() -> None:
    weight = torch.tensor([1.0])
    ema = Ema({"w": weight}, EmaConfig(decay=0.15))
    weight.fill_(2.0)
    ema.update(0)  # d = 0.1: 0.1 * 1 + 0.9 * 2
    assert ema.average["w"].item() == pytest.approx(1.9)
    weight.fill_(3.0)
    ema.update(5)  # d = min(0.15, 0.4)
    assert ema.average["w"].item() == pytest.approx(0.15 * 1.9 + 0.85 * 3.0)


def test_swapping_in_gives_the_weights_back_bit_for_bit() -> None:
    weight = torch.randn(5)
    ema = Ema({"w": weight}, EmaConfig())
    average = ema.average["w"].clone()
    weight.mul_(1.7)
    before = weight.clone()
    with pytest.raises(RuntimeError), ema.swapped_in():
        assert weight.equal(average)
        raise RuntimeError
    assert weight.equal(before)


def test_low_precision_weights_have_a_float32_average() -> None:
    weight = torch.ones(3, dtype=torch.bfloat16)
    ema = Ema({"w": weight}, EmaConfig())
    ema.update(0)
    assert ema.average["w"].dtype == torch.float32


def test_off_means_the_weights_themselves() -> None:
    weight = torch.ones(3)
    ema = Ema({"w": weight}, EmaConfig(enabled=False))
    weight.fill_(5.0)
    ema.update(0)
    assert ema.average["w"].equal(weight)


def test_evaluation_sees_the_average_and_leaves_the_weights_as_they_were() -> None:
    engine = PlainEngine(ToyStage(), toy_config(), Ranks())
    ema = Ema(engine.shards(), EmaConfig())
    before = {name: value.clone() for name, value in engine.shards().items()}
    ema.load({name: value + 1.0 for name, value in before.items()})
    with evaluating(engine, ema):
        assert not engine.stage.training and not torch.is_grad_enabled()
        assert all(value.equal(before[name] + 1.0) for name, value in engine.shards().items())
    assert engine.stage.training and all(value.equal(before[name]) for name, value in engine.shards().items())
