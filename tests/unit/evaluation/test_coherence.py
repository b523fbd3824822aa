"""Coherence between its ceiling and its floor."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.coherence import PairReadings, coherence
from medcodi.evaluation.derangements import derangements
from medcodi.metrics.bootstrap import resampling_weights

GENERATOR = np.random.default_rng(0)
NUM = 80
PATIENTS = [f"p{index}" for index in range(NUM)]
MOVED = derangements(PATIENTS, 8, 0)
WEIGHTS = resampling_weights(PATIENTS, 200, 0)


def noisy(values: np.ndarray, noise: float) -> np.ndarray:
    return values + noise * GENERATOR.normal(size=values.shape)


def flipped(labels: np.ndarray, share: float) -> np.ndarray:
    return np.where(GENERATOR.random(labels.shape) < share, 1 - labels, labels)


def test_figures_stand_between_floor_and_ceiling() -> None:
    labels = (GENERATOR.random((NUM, 3)) < 0.4).astype(float)
    latents, bodies = GENERATOR.normal(size=(NUM, 8)), GENERATOR.normal(size=(NUM, 2))
    real = PairReadings((labels, flipped(labels, 0.02)), (latents, noisy(latents, 0.2)), (bodies, noisy(bodies, 0.1)))
    made = PairReadings((labels, flipped(labels, 0.2)), (latents, noisy(latents, 0.8)), (bodies, noisy(bodies, 0.8)))
    found = coherence(made, real, ["a", "b", "c"], MOVED, WEIGHTS)
    assert not found.notes
    for name, figure in found.figures.items():
        assert figure.ceiling is not None and figure.floor is not None
        low, high = sorted((figure.floor, figure.ceiling))
        assert low < figure.value.value < high, name
        assert figure.value.low <= figure.value.value <= figure.value.high
        assert (figure.ceiling < figure.floor) == figure.lower_is_better
    kappa = found.figures["finding_kappa"]
    assert abs(kappa.floor or 0) < 0.1 and kappa.share_of_ceiling == pytest.approx(
        kappa.value.value / (kappa.ceiling or 1)
    )
    assert found.per_finding["a"]["kappa"] < found.per_finding["a"]["ceiling_kappa"]  # type: ignore[operator]
    assert kappa.to_dict().keys() >= {"value", "low", "high", "ceiling", "floor", "share_of_ceiling"}


def test_what_was_not_read_is_said() -> None:
    labels = np.ones((NUM, 1))
    found = coherence(PairReadings(labels=(labels, labels)), None, ["a"], MOVED, WEIGHTS)
    assert set(found.figures) == {"finding_kappa", "finding_f1"} and len(found.notes) == 2
    assert found.figures["finding_f1"].ceiling is None and found.figures["finding_kappa"].to_dict()["value"] is None
    with pytest.raises(DataError, match="no derangement"):
        coherence(PairReadings(), None, [], [], WEIGHTS)
