"""Accumulation is exact: micro-batches that know of each other have the loss and the gradients of one large batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from medcodi.data.loading import Batch
from medcodi.stages import Stage
from medcodi.stages.accumulation import accumulations
from tests.integration.forked import FORKS
from tests.unit.stages.batches import STAGES, drawn, stage_of, uneven_batch

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
