"""Run by every rank of a launcher: trains the toy stage, whole and in two parts, and writes what came of it.

torchrun --nproc_per_node 2 ranks.py OUT [engine.name=… engine.zero_stage=… batch.micro_size=…]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.pop(0)  # this folder: its `deepspeed` would hide the package
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from medcodi.config import apply_overrides, from_dict, to_dict
from medcodi.distributed import Ranks, join_ranks
from medcodi.randomness import StepRandomness
from medcodi.training.config import TrainConfig
from medcodi.training.ema import Ema
from medcodi.training.engine import Engine, build_engine
from medcodi.training.run_folder import load_tensors
from tests.unit.training.toy import ToyStage, step_samples, toy_batch, toy_config

STEPS, STOP = 6, 3
ABSENT, DROPOUT = "absent" in sys.argv, 0.1 if "dropout" in sys.argv else 0.0
WIDTH = (
    40_001 if "wide" in sys.argv else 13
)  # so that DeepSpeed finds weights and gradients worth a disk: 1 MB and more


def steps(engine: Engine, ema: Ema, config: TrainConfig, first: int, last: int) -> list[float]:
    """Losses of the steps, over all ranks."""
    ranks, losses = engine.ranks, []
    accumulation = config.batch.accumulation(ranks.world_size)
    share = 4 // ranks.world_size
    for step in range(first, last):
        mine = step_samples(step)[ranks.rank * share : (ranks.rank + 1) * share]
        parts = [mine[i : i + share // accumulation] for i in range(0, share, share // accumulation)]
        # Ranks whose batches reach different denoisers: not under ZeRO-3, where all must call the same modules in step.
        absent = "lateral" if ABSENT and step >= STOP and ranks.rank % 2 else None
        draws = [StepRandomness(seed=1, step=step, samples=part) for part in parts]
        result = engine.run_step([toy_batch(part, absent) for part in parts], draws)
        ema.update(step)
        gathered = ranks.gather(torch.stack(result.losses).mean().item())
        losses.append(sum(gathered) / len(gathered))
    return losses


def state(engine: Engine, ema: Ema) -> dict[str, torch.Tensor]:
    """Weights, averages and moments, whole."""
    parts: dict[str, Any] = {
        "weights": engine.whole(engine.shards()),
        "ema": engine.whole(ema.average),
        "moments": engine.optimizer_state(),
    }
    return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}


def main(out: Path, overrides: list[str], ranks: Ranks) -> None:
    """Train 6 steps; then again 3, save, rebuild, restore, 3 more."""
    config = from_dict(TrainConfig, apply_overrides(to_dict(toy_config()), overrides))
    engine = build_engine(ToyStage(DROPOUT, WIDTH), config, ranks, "torchrun")
    ema = Ema(engine.shards(), config.ema)
    losses = steps(engine, ema, config, 0, STOP)
    saved = state(engine, ema)
    losses += steps(engine, ema, config, STOP, STEPS)
    whole = state(engine, ema)

    saved = ranks.broadcast(saved)
    part = {
        kind: {name.split("/", 1)[1]: value for name, value in saved.items() if name.startswith(kind)}
        for kind in ("weights", "ema", "moments")
    }
    stage = ToyStage(DROPOUT, WIDTH)
    load_tensors(stage, part["weights"])
    engine = build_engine(stage, config, ranks, "torchrun")
    ema = Ema(engine.shards(), config.ema)
    engine.load_optimizer_state(part["moments"], STOP)
    ema.load(engine.share(part["ema"]))
    steps(engine, ema, config, STOP, STEPS)
    resumed = state(engine, ema)
    if ranks.is_first:
        tensors = {f"whole/{name}": value for name, value in whole.items()} | {
            f"resumed/{name}": value for name, value in resumed.items()
        }
        save_file({**tensors, "losses": torch.tensor(losses, dtype=torch.float64)}, out)


if __name__ == "__main__":
    joined = join_ranks()
    main(Path(sys.argv[1]), [text for text in sys.argv[2:] if "=" in text], joined)
    joined.leave()
