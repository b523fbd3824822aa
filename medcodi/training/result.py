"""The end of a run: a model folder with averaged weights, made from the last checkpoint alone."""

from __future__ import annotations

from typing import Any

import torch

from medcodi.data.dataset import StudyDataset
from medcodi.data.loading import GlobalBatches
from medcodi.distributed import Ranks
from medcodi.stages import build_stage
from medcodi.training import checkpoint, run_folder
from medcodi.training.caching import hold_only
from medcodi.training.config import TrainConfig
from medcodi.training.run_folder import RunFolder

FINISH_STUDIES = 256  # training studies that a stage's `finish` is given, at least


def write_model(config: TrainConfig, folder: RunFolder, dataset: StudyDataset, processes: Ranks) -> None:
    """Write ``model/``. Every rank calls this, for a stage may finish on the data of all.

    Args:
        config: The run.
        folder: Where it lies.
        dataset: Its training studies.
        processes: Its ranks.
    """
    saved = checkpoint.load(checkpoint.found(folder.checkpoints)[-1])
    model = run_folder.start_model(config, folder, dataset, processes)
    stage: Any = build_stage(config.stage.name, model, config.stage.options)
    if config.cache is not None:
        hold_only(stage)  # the other components are copied from file to file
    run_folder.load_tensors(stage, {**saved.tensors["buffers"], **saved.tensors.get("ema", saved.tensors["weights"])})
    stage.to(processes.device).eval()
    with torch.no_grad():
        stage.finish(_batches(config, dataset, processes))
    if processes.is_first:
        model.trained_stages = (
            *(done for done in model.trained_stages if done != config.stage.name),
            config.stage.name,
        )
        record = {"steps": saved.step, "seed": config.seed, "studies": len(dataset), "data": dataset.fingerprint}
        model.provenance = {
            **model.provenance,
            "training": {**model.provenance.get("training", {}), config.stage.name: record},
        }
        model.save_pretrained(folder.model)
    processes.barrier()


def _batches(config: TrainConfig, dataset: StudyDataset, processes: Ranks) -> Any:
    size = config.batch.global_size
    source = GlobalBatches(
        dataset, batch_size=size, seed=config.seed, rank=processes.rank, world_size=processes.world_size
    )
    steps = min(-(-FINISH_STUDIES // size), max(1, len(dataset) // size))
    return (batch.to(processes.device) for step in source.iterate(0, steps) for batch in step.micro)
