"""Detection equals scikit-learn's, and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medcodi.turing.power.simulation import SimulatedStudy
from medcodi.turing.statistics import (
    Cases,
    detection,
)

CLOSE = {"rel": 0, "abs": 1e-9}


def test_auc_is_sklearns(study: SimulatedStudy) -> None:
    answers = study.as_detection
    mine = detection.auc_statistic(answers.scores, answers.generated)(np.ones((1, 60)))[0]
    for r in range(3):
        assert mine[r] == pytest.approx(roc_auc_score(answers.generated, answers.scores[r]), **CLOSE)
        points = detection.roc_points(answers.scores[r], answers.generated)
        assert np.trapezoid(points[:, 1], points[:, 0]) == pytest.approx(mine[r], **CLOSE)


def test_auc_of_weighted_cases_is_sklearns_with_sample_weights(study: SimulatedStudy) -> None:
    answers = study.as_detection
    weights = study.cases.draws(3, "weights")
    mine = detection.auc_statistic(answers.scores, answers.generated)(weights)
    theirs = [roc_auc_score(answers.generated, answers.scores[1], sample_weight=w) for w in weights]
    assert mine[:, 1] == pytest.approx(theirs, **CLOSE)


def test_dprime_by_hand() -> None:
    says = np.array([[1.0, 1, 1, 0, 0, 0, 1, 0]])  # 3 of 4 hits, 1 of 4 false alarms
    generated = np.repeat([True, False], 4)
    cases = Cases.of(list("abcdefgh"), ["g"] * 4 + ["r"] * 4)
    answers = detection.Detection(
        readers=["r"], says_generated=says, confidence=np.full((1, 8), np.nan), generated=generated, cases=cases
    )
    z = stats.norm.ppf([3.5 / 5, 1.5 / 5])
    found = detection.reader_dprime(answers, 0)
    assert found["d_prime"].value == pytest.approx(z[0] - z[1], **CLOSE)
    assert found["criterion"].value == pytest.approx(-(z[0] + z[1]) / 2, abs=1e-9)
    pooled = detection.dprime_statistic(answers)(np.ones((1, 8)))
    assert pooled[0, 0] == pytest.approx(z[0] - z[1], **CLOSE)
