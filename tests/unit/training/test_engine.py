"""The plain engine on one rank: accumulation, bits after a restore, what is not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medcodi.distributed import Ranks
from medcodi.errors import ConfigError, TrainingError
from medcodi.randomness import StepRandomness
from medcodi.training.engine import PlainEngine, StepResult, check_engine, describe_engine
from medcodi.training.run_folder import load_tensors
from tests.unit.stages.batches import drawn, stage_of, uneven_batch

from .toy import ToyStage, step_samples, toy_batch, toy_config


def engine(stage: ToyStage | None = None, **changes: object) -> PlainEngine:
    return PlainEngine(stage or ToyStage(dropout=0.1), toy_config(**changes), Ranks())


def run(plain: PlainEngine, first: int, last: int, micro: int = 4, absent: str | None = None) -> list[StepResult]:
    results = []
    for step in range(first, last):
        samples = step_samples(step)
        parts = [samples[i : i + micro] for i in range(0, 4, micro)]
        draws = [StepRandomness(seed=0, step=step, samples=part) for part in parts]
        results.append(plain.run_step([toy_batch(part, absent) for part in parts], draws))
    return results


def test_it_learns_and_leaves_the_frozen_part_alone() -> None:
    stage = ToyStage()
    frozen = stage.model.frozen.weight.clone()
    plain = engine(stage, optimizer={"lr": 0.05})
    draws = StepRandomness(seed=0, step=0, samples=(0, 1, 2, 3))
    losses = [float(plain.run_step([toy_batch((0, 1, 2, 3))], [draws]).losses[0]) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert stage.model.frozen.weight.equal(frozen)


def test_a_snapshot_is_a_copy_only_where_training_goes_on_beside_the_writer() -> None:
    """In the foreground a run of 860 M parameters would need 10 GB more for nothing."""
    for background in (True, False):
        plain = engine(checkpoint={"background": background})
        run(plain, 0, 1)
        live, snapshot = plain.shards(), plain.whole(plain.shards())
        for name, value in live.items():
            assert (snapshot[name].data_ptr() == value.data_ptr()) is not background
            assert snapshot[name].equal(value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_restored_it_goes_on_bit_for_bit(precision: str) -> None:
    whole = engine(precision=precision)
    run(whole, 0, 6)
    first = engine(precision=precision)
    run(first, 0, 3)
    weights, moments = first.whole(first.shards()), first.optimizer_state()
    stage = ToyStage(dropout=0.1)
    load_tensors(stage, weights)
    second = engine(stage, precision=precision)
    second.load_optimizer_state(moments, 3)
    run(second, 3, 6)
    for name, value in whole.shards().items():
        assert second.shards()[name].equal(value), name
    for name, value in whole.optimizer_state().items():
        assert second.optimizer_state()[name].equal(value), name


def test_accumulation_is_the_same_step() -> None:
    together, apart = engine(ToyStage()), engine(ToyStage())
    run(together, 0, 3, micro=4)
    run(apart, 0, 3, micro=1)
    for name, value in together.shards().items():
        torch.testing.assert_close(apart.shards()[name], value, rtol=1e-5, atol=1e-6)


def test_micro_batches_are_encoded_once_though_their_features_are_computed_twice() -> None:
    stage = stage_of("join")
    batch, calls = uneven_batch(stage.model, absent={}), []
    encoder = next(part for part in stage.model.autoencoders["image"].modules() if isinstance(part, nn.Conv2d))
    encoder.register_forward_hook(lambda *_: calls.append(encoder))
    plain = PlainEngine(stage, toy_config(stage={"name": "join"}), Ranks())
    plain.run_step([batch], [drawn(batch, 0)])
    whole = len(calls)
    halves = [batch.rows(0, 4), batch.rows(4, 8)]
    plain.run_step(halves, [drawn(half, 0) for half in halves])
    assert len(calls) - whole == 2 * whole > 0


def test_a_part_that_no_sample_reached_is_stepped_with_a_gradient_of_zero() -> None:
    plain = engine(optimizer={"lr": 0.1, "weight_decay": 0.5})
    before = plain.stage.model.heads["lateral"][0].weight.detach().clone()
    run(plain, 0, 1, absent="lateral")
    assert torch.allclose(plain.stage.model.heads["lateral"][0].weight, before * (1 - 0.1 * 0.5))


def test_gradients_are_clipped_by_their_global_norm() -> None:
    plain = engine(ToyStage(), optimizer={"lr": 0.1, "grad_clip": 1e-9, "weight_decay": 0.0, "eps": 1.0})
    before = {name: value.clone() for name, value in plain.shards().items()}
    result = run(plain, 0, 1)[0]
    assert result.grad_norm is not None and result.grad_norm > 0.01
    assert all((value - before[name]).abs().max() < 1e-9 for name, value in plain.shards().items())


def test_clipping_within_the_optimiser_is_torchs_clipping_before_it() -> None:
    """To two roundings: the optimiser divides each gradient by norm / clip, torch multiplies it by clip / norm."""
    fused, before = (engine(ToyStage(), optimizer={"lr": 0.1, "grad_clip": 0.01}) for _ in range(2))
    before._clip = lambda parameters, clip, total: nn.utils.clip_grads_with_norm_(parameters, clip, total)  # type: ignore[method-assign]
    norms = [[step.grad_norm for step in run(plain, 0, 3)] for plain in (fused, before)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and min(norms[0]) > 0.01  # type: ignore[type-var]
    for name, value in fused.optimizer_state().items():
        torch.testing.assert_close(value, before.optimizer_state()[name], rtol=1e-5, atol=1e-9)
    for name, value in fused.shards().items():
        torch.testing.assert_close(value, before.shards()[name], rtol=1e-5, atol=1e-6)
    # A step that is not clipped is the same bits as without a limit.
    wide, none = (engine(ToyStage(), optimizer={"lr": 0.1, "grad_clip": clip}) for clip in (1e9, None))
    run(fused, 3, 4), run(wide, 0, 2), run(none, 0, 2)
    assert all(value.equal(none.shards()[name]) for name, value in wide.shards().items())


def test_a_step_that_is_not_finite_is_left_out_and_its_studies_named() -> None:
    plain = engine()
    before = {name: value.clone() for name, value in plain.shards().items()}
    good, bad = toy_batch((0, 1)), toy_batch((2, 3))
    values = bad.contents["frontal"]
    assert isinstance(values, Tensor)
    values[0, 0, 0, 0] = float("nan")
    draws = [StepRandomness(seed=0, step=0, samples=batch.samples) for batch in (good, bad)]
    result = plain.run_step([good, bad], draws)
    assert result.skipped and result.suspects == ["study2", "study3"]
    assert all(value.equal(before[name]) for name, value in plain.shards().items())
    assert not run(plain, 1, 2)[0].skipped


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(TrainingError, match="trains no parameter"):
        engine(ToyStage().requires_grad_(False))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fp16"):
        engine(precision="fp16")
    offload = toy_config(engine={"offload_optimizer": "cpu"})  # auto: whether it can be had, the launcher decides
    with pytest.raises(
        ConfigError, match=r"offload_optimizer cpu on the plain engine.*deepspeed --module medcodi train"
    ):
        check_engine(offload, Ranks(), "torchrun")


def test_a_run_says_which_engine_it_takes() -> None:
    auto, named = toy_config(), toy_config(engine={"name": "deepspeed", "zero_stage": 1})
    assert [describe_engine(auto, launcher) for launcher in ("python", "torchrun", "deepspeed")] == [
        "plain", "plain", "DeepSpeed, ZeRO-2",
    ]  # fmt: skip
    assert describe_engine(named, "torchrun") == "DeepSpeed, ZeRO-1"
