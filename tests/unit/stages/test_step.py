"""A step: means over micro-batches, sums by cell, stratified timesteps."""

from __future__ import annotations

import pytest
import torch

from medcodi.randomness import StepRandomness
from medcodi.stages.accumulation import Accumulation, Rows
from medcodi.stages.step import (
    NUM_BUCKETS,
    Step,
    ValidationRandomness,
    bucket_names,
    cell_sums,
    draw_timesteps,
    mean_over_ranks,
)


def rows(*present: bool) -> Rows:
    names = [f"study {row}" for row in range(len(present))]
    return Rows({"report": torch.tensor(present)}, names, names)


def report(part: Rows) -> torch.Tensor:
    return part.present["report"]


def test_a_mean_leaves_rows_out() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0])
    assert mean_over_ranks(values, torch.tensor([True, False, True])) == 2.0
    assert mean_over_ranks(values, torch.zeros(3, dtype=torch.bool)) == 0.0


def test_the_average_over_micro_batches_is_the_mean_of_all_rows() -> None:
    """Rows of 1, 2 and 6, spread unevenly: 1 and 2 in the first micro-batch, 6 in the second."""
    parts, values = (rows(True, True), rows(False, True)), (torch.tensor([1.0, 2.0]), torch.tensor([100.0, 6.0]))
    draws = StepRandomness(seed=0, step=0, samples=(0, 1))
    steps = [Step(draws, part, Accumulation(index, parts)) for index, part in enumerate(parts)]
    shares = [step.mean(value, report) for step, value in zip(steps, values, strict=True)]
    assert sum(shares) / 2 == pytest.approx(3.0)
    assert Step(draws, rows(True, False, True)).mean(torch.tensor([1.0, 5.0, 2.0]), report) == 1.5
    # Values of the present rows alone, with weights of their own.
    assert Step(draws, rows(True, False, True)).mean(torch.tensor([1.0, 2.0]), report, torch.ones(2)) == 1.5


def test_cells_are_summed_with_their_weights() -> None:
    values, weights = torch.tensor([1.0, 2.0, float("nan"), 4.0]), torch.tensor([1.0, 2.0, 0.0, 1.0])
    sums = cell_sums(values, weights, torch.tensor([0, 1, 1, 1]), ["a", "b", "c"])
    assert {name: value.tolist() for name, value in sums.items()} == {"a": [1, 1], "b": [8, 3], "c": [0, 0]}


def test_a_validation_draws_timesteps_bucket_by_bucket_and_choices_in_turn() -> None:
    samples = tuple(range(20))
    draws = ValidationRandomness(seed=0, step=0, samples=samples, positions=samples, turn=5)
    training = StepRandomness(seed=0, step=0, samples=samples)
    for what in ("t", "t/report"):
        assert (draw_timesteps(draws, what, 1000) // 100).tolist() == [row % NUM_BUCKETS for row in samples]
    assert torch.equal(draws.uniform("target"), training.uniform("target"))
    assert torch.equal(draws.normal("noise", (3,)), training.normal("noise", (3,)))
    assert draws.choice("targets", 4) == 1


def test_bucket_names_hold_every_timestep_once() -> None:
    assert bucket_names(1000)[:2] == ["t/000-099", "t/100-199"] and bucket_names(1000)[-1] == "t/900-999"
    ranges = [range(int(name[2:5]), int(name[6:]) + 1) for name in bucket_names(25)]
    assert [t for bucket in ranges for t in bucket] == list(range(25))


def test_losses_are_logged_by_timestep_in_a_validation_only() -> None:
    samples, values, weights = tuple(range(10)), torch.arange(10.0), torch.ones(10)
    training = Step(StepRandomness(seed=0, step=0, samples=samples), rows(*[True] * 10))
    training.log_timesteps("report", values, weights, 1000)
    assert not training.logs
    validation = Step(ValidationRandomness(seed=0, step=0, samples=samples, positions=samples), rows(*[True] * 10))
    validation.log_timesteps("report", values, weights, 1000)
    assert validation.logs["t/300-399/report"].tolist() == [3.0, 1.0] and len(validation.logs) == NUM_BUCKETS
