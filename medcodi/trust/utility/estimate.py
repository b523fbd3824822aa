"""The cost of a utility study before it starts: steps per second measured here, on random studies, times the trainings."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from medcodi.trust.utility.arms import Selection, num_samplings
from medcodi.trust.utility.config import ArmConfig, UtilityConfig
from medcodi.trust.utility.pools import Pool
from medcodi.trust.utility.tasks import task_of
from medcodi.trust.utility.training import threads, train

_STEPS = 8  # of the measurement
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


def estimate(config: UtilityConfig, image_size: int) -> dict[str, Any]:
    """Measure a few steps, validation included, and multiply.

    Returns:
        ``trainings``, ``steps_per_second`` of one rank, ``minutes`` of all trainings on one rank, and ``synthetic``, the number of
        studies that models have to generate.
    """
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
    trainings = sum(config.seeds * num_samplings(config, arm) for arm in config.arms.values())
    rate = _STEPS / seconds[-1]
    generated = sum(g.num_studies * config.sampling_seeds for g in config.generators.values() if g.model is not None)
    return {
        "trainings": trainings,
        "steps_per_second": rate,
        "minutes": trainings * config.training.num_steps / rate / 60,
        "synthetic": generated,
    }
