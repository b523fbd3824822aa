"""Poisson sampling of patients: every rank and micro-batch structure sees the same patients, with all of their studies."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.data.sources.phantom import PhantomDataset
from medcodi.training.private.accounting import studies_by_patient
from medcodi.training.private.run_parts import PatientBatches

DATASET = PhantomDataset(24, seed=0, image_size=32, version=2, studies_per_patient=2)
PATIENTS = studies_by_patient(DATASET)


def made(rank: int = 0, world_size: int = 1, micro_size: int | None = None, secret: str = "s") -> PatientBatches:
    return PatientBatches(
        DATASET, PATIENTS, rate=0.25, secret=secret, micro_size=micro_size, rank=rank, world_size=world_size
    )


def test_patients_are_known_without_their_films() -> None:
    assert [[2 * patient, 2 * patient + 1] for patient in range(12)] == PATIENTS
    assert studies_by_patient(PhantomDataset(3, image_size=32)) == [[0], [1], [2]]


def test_each_patient_is_drawn_with_the_rate_independently_and_by_the_secret_alone() -> None:
    drawn = np.zeros((2000, 12))
    for step in range(2000):
        drawn[step, made().drawn(step)] = 1
    assert np.allclose(drawn.mean(0), 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 2000))
    assert abs(drawn.sum(1).var() - 12 * 0.25 * 0.75) < 0.3  # of a binomial: fixed batches would have 0
    assert made().drawn(7) == made(world_size=2, rank=1, micro_size=1).drawn(7) != made(secret="t").drawn(7)


@pytest.mark.parametrize("micro_size", [None, 1, 4])
def test_ranks_share_the_patients_and_no_patient_is_split(micro_size: int | None) -> None:
    for step in range(20):
        whole = made().samples(step)
        parts = [made(rank, 2, micro_size) for rank in range(2)]
        assert sorted(index for part in parts for index in part.share(step)) == sorted(whole)
        for part in parts:
            for micro in part._parts(step):
                assert len(micro) % 2 == 0 and len(micro) <= max(2, micro_size or 24)


def test_a_step_that_draws_nobody_has_no_micro_batch_and_others_hold_the_studies_of_their_patients() -> None:
    steps = [made().batches(step) for step in range(60) if len(made().drawn(step)) in (0, 1)]
    sizes = {len(step.micro) for step in steps}
    assert sizes == {0, 1}
    micro = next(step.micro[0] for step in steps if step.micro)
    assert len(micro) == 2 and len(set(micro.patient_ids)) == 1
