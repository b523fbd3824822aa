"""The cost of a utility study before it starts: a few steps, studies and generations measured here, times their numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from medcodi.data.dataset import StudyDataset, read_study
from medcodi.errors import DataError
from medcodi.generation.pipeline import generate_batch, load
from medcodi.generation.request import fit_prompt
from medcodi.model.generation_config import GenerationConfig
from medcodi.study import Direction
from medcodi.trust.utility.arms import Selection, num_samplings
from medcodi.trust.utility.config import ArmConfig, GeneratorConfig, UtilityConfig
from medcodi.trust.utility.inputs import SETS
from medcodi.trust.utility.pools import Pool
from medcodi.trust.utility.tasks import task_of
from medcodi.trust.utility.training import threads, train

_STEPS, _READ = 8, 4  # training steps, and studies read, of the measurement
_FINDINGS = ("Cardiomegaly", "Pleural Effusion")


def random_pool(num: int, num_views: int, size: int, findings: int) -> Pool:
    """Studies of noise, for measurements."""
    rng = torch.Generator().manual_seed(0)
    names = tuple(f"r{number}" for number in range(num))
    words = [" ".join(f"w{int(word)}" for word in torch.randint(500, (40,), generator=rng)) for _ in range(num)]
    return Pool(
        ids=names,
        patients=names,
        groups=("",) * num,
        reports=tuple(words),
        images=torch.randint(0, 256, (num, num_views, size, size), generator=rng, dtype=torch.uint8),
        has_image=torch.ones(num, num_views, dtype=torch.bool),
        truth=torch.randint(0, 2, (num, findings), generator=rng).float(),
        sources=torch.full((num,), -1),
        reread=torch.full((num, findings), float("nan")),
    )


def estimate(config: UtilityConfig) -> dict[str, Any]:
    """Measure a few training steps, a few studies read, and one batch of each generator, and multiply.

    Returns:
        ``trainings``, ``steps_per_second`` of one rank, ``training_minutes``; ``synthetic``, the number of studies that models have to
        generate, and ``generation_minutes``; ``real``, the number of studies read, and ``reading_minutes``; ``minutes``, all of these on
        one rank. The test, the annotator and the figures are not in it: a few minutes.

    Raises:
        DataError, CheckpointError: If data or a model cannot be opened, or no training study has a generator's prompts.
    """
    dataset = config.train.build()
    rate = _steps_per_second(config, dataset.image_size)
    trainings = sum(config.seeds * num_samplings(config, arm) for arm in config.arms.values())
    # Generations, of models alone: others' files are there.
    models = [generator for generator in config.generators.values() if generator.model is not None]
    counts = [generator.num_studies * config.sampling_seeds for generator in models]
    seconds = [_seconds_per_generation(generator, dataset) * num for generator, num in zip(models, counts, strict=True)]
    # Real studies, of every set.
    data = [getattr(config, name) for name in SETS]
    real = sum(len(own.build()) for own in data if own is not None)
    start = time.perf_counter()
    for index in range(num := min(_READ, len(dataset))):
        read_study(dataset, index)
    cost = {
        "training_minutes": trainings * config.training.num_steps / rate / 60,
        "generation_minutes": sum(seconds) / 60,
        "reading_minutes": real * (time.perf_counter() - start) / num / 60,
    }
    counted = {"trainings": trainings, "steps_per_second": rate, "synthetic": sum(counts), "real": real}
    return {**counted, **cost, "minutes": sum(cost.values())}


def _steps_per_second(config: UtilityConfig, image_size: int) -> float:
    """Training steps per second of one rank, validation included, on noise."""
    findings = config.findings or _FINDINGS
    pool = random_pool(2 * config.training.batch_size, len(config.views), image_size, len(findings))
    selection = Selection(
        pool=pool, num_real=len(pool), num_cut=0, prompt_patients=0, patients=frozenset(pool.patients)
    )
    few = replace(config, training=replace(config.training, num_steps=_STEPS, num_checks=1))
    task, seconds = task_of(config, image_size, tuple(findings)), []
    with threads(config.threads):
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            train(task, ArmConfig(), selection, pool.take(range(8)), few, 0)
            seconds.append(time.perf_counter() - start)
    return _STEPS / seconds[-1]


def _seconds_per_generation(generator: GeneratorConfig, dataset: StudyDataset) -> float:
    """Seconds for one synthetic study: a batch of the first training studies that have the prompts, after one that warms up."""
    direction, size = Direction.parse(generator.direction), min(generator.batch_size, generator.num_studies)
    model = load(generator.model)
    prompts: list[dict[str, Any]] = []
    for index in range(searched := min(len(dataset), 4 * size)):
        contents = read_study(dataset, index).contents
        if set(direction.prompts) <= set(contents) and len(prompts) < size:
            prompts.append({name: fit_prompt(name, contents[name], model.config) for name in direction.prompts})
    if not prompts:
        raise DataError(
            f"none of the first {searched} studies of {dataset.name} has {' and '.join(direction.prompts)}",
            expected=f"prompts of {direction}",
            fix="another direction, or other training studies",
        )
    sampling, seconds = GenerationConfig(preset=generator.preset), 0.0
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        generate_batch(model, prompts, direction.targets, range(len(prompts)), sampling)
        seconds = time.perf_counter() - start
    return seconds / len(prompts)
