"""A rank of two: a step whose numbers are not finite on one of them is left out on both, and the run goes on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from medcodi.config import apply_overrides, from_dict, to_dict
from medcodi.data.loading import Batch
from medcodi.distributed import Ranks, join_ranks
from medcodi.randomness import StepRandomness
from medcodi.stages.stage import StepOutput
from medcodi.stages.step import Accumulation
from medcodi.training.config import TrainConfig
from medcodi.training.engine import build_engine
from tests.unit.training.toy import ToyStage, step_samples, toy_batch, toy_config


class _Overflow(torch.autograd.Function):
    """Numbers as they are, whose gradient overflows."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.inf


class Failing(ToyStage):
    """The toy stage; in step 1 the loss of rank 1 is NaN, in step 2 infinite without a gradient of its own, in step 3 its
    loss is finite and the gradient is not."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, batch: Batch, randomness: StepRandomness, accumulation: Accumulation | None = None) -> StepOutput:
        output = super().forward(batch, randomness, accumulation)
        if self.rank != 1:
            return output
        loss = output.loss
        harmed = {1: lambda: loss * math.nan, 2: lambda: loss + math.inf, 3: lambda: _Overflow.apply(loss)}
        return StepOutput(harmed.get(randomness.step, lambda: loss)(), output.logs)


def main(out: Path, overrides: list[str], ranks: Ranks) -> None:
    """Five steps of two micro-batches; what became of each, by rank."""
    config = from_dict(TrainConfig, apply_overrides(to_dict(toy_config(batch={"global_size": 8})), overrides))
    engine = build_engine(Failing(ranks.rank), config, ranks, "torchrun")
    told = []
    for step in range(5):
        before = engine.whole(engine.shards())
        mine = step_samples(step, 8)[ranks.rank * 4 : ranks.rank * 4 + 4]
        parts = [mine[:2], mine[2:]]
        draws = [StepRandomness(seed=1, step=step, samples=part) for part in parts]
        result = engine.run_step([toy_batch(part) for part in parts], draws)
        after = engine.whole(engine.shards())
        same = all(after[name].equal(value) for name, value in before.items()) if before else None
        finite = all(bool(value.isfinite().all()) for value in after.values())
        told.append(ranks.gather([result.skipped, result.suspects, same, finite]))
    if ranks.is_first:
        out.write_text(json.dumps(told))


def rank(number: int, port: int, out: Path, words: list[str]) -> None:
    """One of two ranks, in a process of its own; what it prints lies beside ``out``."""
    descriptor = os.open(out.with_name(f"rank{number}.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    os.environ.update({**shared, "RANK": str(number), "LOCAL_RANK": str(number)})
    torch.set_num_threads(1)
    joined = join_ranks()
    main(out, words, joined)
    joined.leave()
