"""Figures over patients and seeds: equal to scikit-learn's, paired, and NaN where a finding has one class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from medcodi.trust.utility.scoring import Predicted, Scorer, interval, p_value

FINDINGS = ("Cardiomegaly", "Pleural Effusion")
ARMS = {"a": {}, "b": {"add": "oracle", "against": "a"}}


@pytest.fixture
def scorer(study) -> Scorer:
    """Two arms of 2 × 2 and 2 × 1 trainings; the second is better."""
    config = study(ARMS, seeds=2, sampling_seeds=2, bootstrap_samples=200)
    rng = np.random.default_rng(0)
    truth = (rng.random((80, 2)) < 0.4).astype(float)

    def scores(strength: float, samplings: int) -> np.ndarray:
        noise = rng.normal(size=(2, samplings, 80, 2))
        return 1 / (1 + np.exp(-(strength * (truth - 0.5) + noise)))

    patients = tuple(f"p{index // 2}" for index in range(80))
    groups = tuple(("F, 40 to 64", "M, 40 to 64")[index % 2] for index in range(80))
    predictions = {"a": scores(1.0, 1), "b": scores(4.0, 2)}
    thresholds = {name: np.full(values.shape[:2] + (2,), 0.5) for name, values in predictions.items()}
    return Scorer(config, FINDINGS, Predicted(patients, groups, truth, predictions, thresholds))


def test_figures_are_scikit_learns_averaged_over_trainings(scorer: Scorer) -> None:
    truth, runs = scorer.tested.truth, scorer.tested.predictions["b"].reshape(4, 80, 2)
    expected = {
        "auroc": roc_auc_score,
        "auprc": average_precision_score,
        "brier": brier_score_loss,
        "f1": lambda t, p: f1_score(t, p >= 0.5),
    }
    figures = scorer.arm("b")
    for measure, score in expected.items():
        per_finding = [np.mean([score(truth[:, k], run[:, k]) for run in runs]) for k in range(2)]
        assert figures["macro"][measure]["value"] == pytest.approx(np.mean(per_finding), abs=1e-9)
        for name, value in zip(FINDINGS, per_finding, strict=True):
            assert figures["findings"][name][measure]["value"] == pytest.approx(value, abs=1e-9)


def test_a_paired_difference_and_its_p_value(scorer: Scorer) -> None:
    (row,) = scorer.comparisons()
    assert row["arm"] == "b" and 0 < row["low"] < row["value"] < row["high"] and row["p_value"] == row["p_holm"] < 0.05
    # An arm does not differ from itself.
    same = scorer.values("a", "auroc")[-1] - scorer.values("a", "auroc")[-1]
    assert p_value(same) == 1 and interval(same) == {"value": 0, "low": 0, "high": 0}


def test_the_worst_subgroup_is_that_of_the_lowest_figure(scorer: Scorer) -> None:
    worst = scorer.arm("a")["worst_subgroup"]
    values = {group: scorer.values("a", "auroc", group)[-1][0] for group in ("F, 40 to 64", "M, 40 to 64")}
    assert worst["of"] == 2 and worst["value"] == min(values.values()) and values[worst["group"]] == worst["value"]


def test_a_finding_of_one_class_has_no_figure_and_is_left_out_of_the_mean(scorer: Scorer) -> None:
    scorer.tested.truth[:, 1] = 0
    figures = Scorer(scorer.config, FINDINGS, scorer.tested).arm("a")
    assert figures["findings"]["Pleural Effusion"]["auroc"]["value"] is None
    assert figures["macro"]["auroc"] == figures["findings"]["Cardiomegaly"]["auroc"]


def test_seeds_are_resampled(study, scorer: Scorer) -> None:
    # One seed is always right, the other always wrong: the interval spans everything between.
    truth = scorer.tested.truth
    right = np.stack([truth, 1 - truth])[:, None]  # [S, T, N, K]
    tested = Predicted(
        scorer.tested.patients, scorer.tested.groups, truth, {"a": right}, {"a": np.full((2, 1, 2), 0.5)}
    )
    assert interval(Scorer(scorer.config, FINDINGS, tested).values("a", "auroc")[-1]) == {
        "value": 0.5,
        "low": 0,
        "high": 1,
    }
