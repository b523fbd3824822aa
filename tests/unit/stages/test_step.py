"""A step: means over micro-batches, sums by cell, stratified timesteps; exact accumulation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from medcodi.data.loading import Batch
from medcodi.randomness import StepRandomness
from medcodi.stages import Stage
from medcodi.stages.step import (
    NUM_BUCKETS,
    Accumulation,
    Rows,
    Step,
    ValidationRandomness,
    accumulations,
    bucket_names,
    cell_sums,
    draw_timesteps,
    mean_term,
)
from tests.integration.forked import FORKS
from tests.unit.stages.batches import STAGES, drawn, stage_of, uneven_batch


def rows(*present: bool) -> Rows:
    names = [f"study {row}" for row in range(len(present))]
    return Rows({"report": torch.tensor(present)}, names, names)


def report(part: Rows) -> torch.Tensor:
    return part.present["report"]


def test_a_mean_leaves_rows_out() -> None:
    values = torch.tensor([1.0, float("nan"), 3.0])
    some, none = torch.tensor([True, False, True]), torch.zeros(3, dtype=torch.bool)
    assert mean_term(values, some, [some]) == (2.0, 2.0)
    assert mean_term(values, none, [none]) == (0.0, 0.0)


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


# Rows without a side in every micro-batch but one, which lacks it everywhere.
ABSENT = {"lateral": [1, 2, 3], "report": [6], "frontal": [0]}
OPTIONS = {
    "align": {"shift": 0.1, "statement_weight": 0.5},
    "autoencode": {"crop_size": 16, "word_dropout": 0.2, "statement_weight": 2.0},
    "join": {"train_denoisers": True},
}


def accumulated(stage: Stage, batches: list[Batch], step: int = 0) -> dict[str, torch.Tensor]:
    """Loss, gradients and logs of a step of these micro-batches, averaged as the engines do."""
    features = (stage.features(batch, drawn(batch, step)) for batch in batches)
    total: dict[str, torch.Tensor] = {}
    for batch, accumulation in zip(batches, accumulations(stage.compare, batches, features), strict=True):
        output = stage(batch, drawn(batch, step), accumulation)
        (output.loss / len(batches)).backward()
        for name, value in {"loss": output.loss.detach(), **output.logs}.items():
            if value.ndim:  # a sum over rows, and their weights
                total[f"rows:{name}"] = total.get(f"rows:{name}", torch.zeros(2)) + value
            elif "psnr" not in name:
                total[name] = total.get(name, torch.zeros(())) + value / len(batches)
    gradients = {n: p.grad.clone() for n, p in stage.named_parameters() if p.grad is not None}
    stage.zero_grad()
    return {**total, **gradients}


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", STAGES)
def test_four_micro_batches_are_one_batch(name: str) -> None:
    stage = stage_of(name, **OPTIONS.get(name, {}))
    batch = uneven_batch(stage.model, absent=ABSENT)
    whole = accumulated(stage, [batch], step=1)
    parts = accumulated(stage, [batch.rows(start, start + 2) for start in range(0, 8, 2)], step=1)
    close(parts, whole)
    assert len(whole) > 20


def test_alone_the_negatives_of_the_other_micro_batches_are_missed() -> None:
    stage = stage_of("align")
    batch = uneven_batch(stage.model)
    alone = sum(stage(part, drawn(part)).loss.item() for part in (batch.rows(0, 4), batch.rows(4, 8))) / 2
    assert alone < stage(batch, drawn(batch)).loss.item() - 0.1


def _rank(rank: int, name: str, folder: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    stage = stage_of(name, **OPTIONS.get(name, {}))
    batch = uneven_batch(stage.model, absent=ABSENT)
    mine = [batch.rows(start, start + 2) for start in (4 * rank, 4 * rank + 2)]
    found = accumulated(stage, mine, step=1)
    for key, value in found.items():
        dist.all_reduce(value)
        if not key.startswith("rows:"):
            value /= 2
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["align", "join"])
def test_two_micro_batches_on_two_ranks_are_one_batch_too(name: str, tmp_path: Path) -> None:
    ranks = [FORKS.Process(target=_rank, args=(rank, name, str(tmp_path))) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(200)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    stage = stage_of(name, **OPTIONS.get(name, {}))
    whole = accumulated(stage, [uneven_batch(stage.model, absent=ABSENT)], step=1)
    close(torch.load(tmp_path / "found.pt", weights_only=True), whole)
