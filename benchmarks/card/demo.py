"""The demo's recipes, one training step after another at their own sizes; and the phantom that feeds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from time import perf_counter
from typing import Any

from measuring import seconds_per_call
from phantom import render

from card import Row, Setup, attempt
from card.training import ALONE, RECIPES, measured
from medcodi.config import load
from medcodi.data.loading import Batch, collate
from medcodi.data.sources.phantom import phantom_report, phantom_study
from medcodi.model import STAGES, MedCoDi, ModelConfig, build_model
from medcodi.stages.encoded import encode_batch
from medcodi.training.config import TrainConfig

DEMO = ("2-autoencode-images", "3-autoencode-reports", "4-align", "5-diffuse-images", "7-join")
TINY = ("autoencode", "align", "diffuse", "join")


def measure(setup: Setup) -> Iterator[Row]:
    """The phantom's rates, then the steps of each stage."""
    side = setup.of_size(128, 32)
    yield from phantoms(setup, side)
    folder, names = ("tiny", TINY) if setup.size == "tiny" else ("demo", DEMO)
    described = load(ModelConfig, folder)
    model = build_model(described, [phantom_report(seed=0, index=index) for index in range(256)])
    model.trained_stages = STAGES
    studies = [phantom_study(0, index, described.image_size) for index in range(setup.of_size(16, 4))]
    for name in names:
        settings = [*ALONE, f"model={folder}"]
        run = load(TrainConfig, RECIPES / folder / f"{name}.yaml", settings)
        row = {"what": "demo", "recipe": f"{folder}/{name}", "stage": run.stage.name, "studies": run.batch.global_size}
        yield attempt(
            row | {"precision": run.precision},
            lambda run=run: measured(setup, run, model, batch_of(run, model, studies, setup), None),
        )


def batch_of(run: TrainConfig, model: MedCoDi, studies: list[Any], setup: Setup) -> Any:
    """The recipe's batch, of a few phantoms again and again; encoded, where the recipe reads from the cache."""
    size = run.batch.global_size
    several = [replace(studies[index % len(studies)], study_id=f"study {index}") for index in range(size)]
    batch: Batch = collate(several, range(size), model.config.image_size)
    if run.cache is None:
        return batch
    model.to(setup.device).eval()
    return encode_batch(model, batch.to(setup.device)).to("cpu")


def phantoms(setup: Setup, side: int) -> Iterator[Row]:
    """Studies per second of one core, and of all at once."""
    numbers = count()
    row = {"what": "phantom", "pixels": side, "cores": 1}
    seconds = seconds_per_call(lambda: phantom_study(0, next(numbers), side), "cpu", budget=setup.budget)
    yield row | {"per_second": float(f"{1 / seconds['median']:.4g}")}
    cores = len(os.sched_getaffinity(0))
    share = max(2, int(setup.budget / seconds["median"]))
    # Spawned: a fork of a process whose libraries run threads may hang.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(render, range(cores), [1] * cores, [side] * cores))  # imports
        began = perf_counter()
        list(pool.map(render, range(cores), [share] * cores, [side] * cores))
    rate = cores * share / (perf_counter() - began)
    yield row | {"cores": cores, "per_second": float(f"{rate:.4g}")}
