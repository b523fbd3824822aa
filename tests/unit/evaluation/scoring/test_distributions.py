"""Distances of sets: merged moments, and what is left out with too few studies or too wide features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcodi.evaluation.config import ScoringConfig
from medcodi.evaluation.scoring.similarity import merged_moments
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.metrics import Moments
from medcodi.metrics.distances import mmd2
from medcodi.metrics.similarity import prdc
from medcodi.study import CHEXPERT_LABELS
from tests.unit.evaluation.scoring.conftest import Toy


def test_moments_of_blocks_are_those_of_all() -> None:
    features = np.random.default_rng(0).normal(3, 2, (2500, 5))
    whole, merged = Moments.of(features), merged_moments(features)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-14)


def test_too_few_studies_leave_metrics_out_with_the_number_needed(toy: Toy, toy_dataset) -> None:
    few = replace(toy, held_out=HeldOutStudies(toy_dataset(8, seed=5)))
    config = ScoringConfig(bootstrap_samples=100, min_positives=50, neighbours=9)
    scores = few.score("report->frontal", few.held_out.values, config).to_dict()
    target, dim = scores["targets"]["frontal"], toy.annotators.features[0].dim
    left_out = {entry["metric"]: entry for entry in target["left_out"]}
    assert (left_out["frechet/demo"]["needed"], left_out["frechet/demo"]["available"]) == (dim, 8)
    assert f"needs at least {dim} studies; there are 8" in left_out["frechet/demo"]["reason"]
    assert left_out["prdc/demo"]["needed"] == 10 and left_out["finding_macro_f1"]["needed"] == 50
    assert left_out["kernel/demo: over subsets of 1000"]["needed"] == 1000
    assert scores["primary"]["model"] is None and "frechet/demo" not in target["metrics"]


def test_no_interval_of_few_resamples_and_no_ceiling_of_few_studies(toy: Toy, toy_dataset) -> None:
    """34 studies of 5 patients: enough for the distance, but two patients have fewer than the 16 features."""
    few = replace(toy, held_out=HeldOutStudies(toy_dataset(34, seed=5, patients=5)))
    config = ScoringConfig(bootstrap_samples=100, frechet_samples=99, metrics=("frechet",))
    scores = few.score(
        "report->frontal", lambda target, rows: few.held_out.values(target, np.roll(rows, 1).tolist()), config
    ).targets["frontal"]
    figure, left_out = scores.metrics["frechet/demo"], {entry["metric"]: entry for entry in scores.left_out}
    assert figure["value"] is not None
    assert [figure[key] for key in ("low", "high", "ceiling", "halves")] == [None] * 4
    interval, ceiling = left_out["frechet/demo: interval"], left_out["frechet/demo: ceiling"]
    assert interval["available"] == 99 and "100" in interval["reason"]
    dim = toy.annotators.features[0].dim
    assert 2 * dim < len(few.held_out) and ceiling["needed"] == dim and ceiling["available"] in (13, 14)


def test_wide_features_have_no_interval(toy: Toy, monkeypatch) -> None:
    monkeypatch.setattr("medcodi.evaluation.scoring.similarity.WIDE", 8)
    scores = toy.score_moved("report->frontal", 7)["targets"]["frontal"]
    figure = scores["metrics"]["frechet/demo"]
    assert figure["low"] is None and figure["ceiling"] is not None
    assert "frechet/demo: interval" in {entry["metric"] for entry in scores["left_out"]}


def test_distances_by_finding_are_those_of_the_studies_that_have_it(toy: Toy) -> None:
    config = ScoringConfig(
        bootstrap_samples=100, min_positives=8, neighbours=3, kernel_subset=8, metrics=("kernel", "prdc", "by_finding")
    )

    def moved(target: str, rows: list[int]) -> list:
        return toy.held_out.values(target, np.roll(rows, -1).tolist())

    own = toy.score("report->frontal", moved, config).to_dict()["targets"]["frontal"]["by_finding"]
    column = CHEXPERT_LABELS.index("Cardiomegaly")
    rows = np.flatnonzero(toy.held_out.truth[:, column] == 1)
    assert own["Cardiomegaly"]["studies"] == len(rows) >= 8 and "Edema" not in own
    # By hand: features of the same studies alone.
    values = moved("frontal", list(range(len(toy.held_out))))
    made = toy.annotate("frontal", values).arrays["features/demo"][rows]
    real = toy.annotate("frontal", toy.held_out.values("frontal", list(range(len(values))))).arrays["features/demo"][
        rows
    ]
    metrics = own["Cardiomegaly"]["metrics"]
    assert metrics["coverage/demo"]["value"] == pytest.approx(prdc(real, made, k=3).coverage)
    assert metrics["kernel/demo"]["value"] == pytest.approx(mmd2(real, made, study_paired=True))
