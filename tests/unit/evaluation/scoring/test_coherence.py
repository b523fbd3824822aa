"""Coherence stands between its ceiling and its floor, and what was not annotated is listed."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.scoring.case import derangements
from medcodi.evaluation.scoring.coherence import PairAnnotations, measure_pair
from medcodi.evaluation.scoring.figures import TargetScores
from medcodi.metrics.bootstrap import resampling_weights
from tests.unit.evaluation.scoring.conftest import CONFIG, Toy

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
    real = PairAnnotations(
        (labels, flipped(labels, 0.02)), (latents, noisy(latents, 0.2)), (bodies, noisy(bodies, 0.1))
    )
    made = PairAnnotations((labels, flipped(labels, 0.2)), (latents, noisy(latents, 0.8)), (bodies, noisy(bodies, 0.8)))
    scores = TargetScores()
    measure_pair(scores, made, real, ["a", "b", "c"], MOVED, WEIGHTS)
    assert not scores.left_out and len(scores.metrics) == 8
    for name, figure in scores.metrics.items():
        low, high = sorted((figure["floor"], figure["ceiling"]))
        assert low < figure["value"] < high, name
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert (figure["ceiling"] < figure["floor"]) == figure["lower_is_better"]
    kappa = scores.metrics["finding_kappa"]
    assert abs(kappa["floor"]) < 0.1 and kappa["share_of_ceiling"] == pytest.approx(kappa["value"] / kappa["ceiling"])
    assert scores.findings["a"]["kappa"] < scores.findings["a"]["ceiling_kappa"]


def test_what_was_not_annotated_is_listed() -> None:
    labels, scores = np.ones((NUM, 1)), TargetScores()
    measure_pair(scores, PairAnnotations(labels=(labels, labels)), PairAnnotations(), ["a"], MOVED, WEIGHTS)
    assert set(scores.metrics) == {"finding_kappa", "finding_f1"} and len(scores.left_out) == 2
    assert scores.metrics["finding_f1"]["ceiling"] is None and scores.metrics["finding_kappa"]["value"] is None


def test_pairs_of_too_few_studies_are_left_out(toy: Toy, toy_dataset) -> None:
    from dataclasses import replace

    from medcodi.evaluation.studies import HeldOutStudies

    few = replace(toy, held_out=HeldOutStudies(toy_dataset(7, seed=5)))
    config = replace(CONFIG, metrics=("coherence",))
    scores = few.score("report->frontal+lateral", few.held_out.values, config)
    assert scores.coherence["frontal+lateral"].left_out[0]["needed"] == 8
