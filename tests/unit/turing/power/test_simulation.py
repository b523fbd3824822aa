"""Simulated studies have the truth they claim."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.turing_truth import agreement_truth, icc_truth, repeat_truth
from medcodi.turing.power.simulation import ReaderModel, Truth, simulate
from medcodi.turing.statistics import agreement, detection


def test_simulated_answers_have_the_truth_of_their_readers() -> None:
    model = ReaderModel(d_prime=1.2)
    study = simulate(model, "large", num_readers=3, num_per_arm=20_000)
    truth, answers = Truth(model, study.drawn).values, study.as_detection
    ones = np.ones((1, 40_000))
    for name, statistic in detection.rates(answers).items():
        assert statistic(ones)[0] == pytest.approx(truth[name], abs=0.015), name
    difference = study.ratings[:, study.generated].mean(1) - study.ratings[:, ~study.generated].mean(1)
    assert difference == pytest.approx(truth["difference"], abs=0.03)
    assert study.forced_choice.mean(1) == pytest.approx(truth["forced_choice"], abs=0.015)
    small = simulate(model, "large", num_readers=3, num_per_arm=1500)
    few = Truth(model, small.drawn).values
    auc = detection.auc_statistic(small.as_detection.scores, small.generated)(np.ones((1, 3000)))[0]
    assert auc == pytest.approx(few["auc"], abs=0.04)


def test_truth_of_agreement_is_what_endless_cases_give() -> None:
    model = ReaderModel(reader_sd=0.6)
    study = simulate(model, "agree", num_readers=3, num_per_arm=1000)
    truth = agreement_truth(model, study.drawn)
    assert agreement.fleiss_kappa(study.ratings, study.cases).value == pytest.approx(truth["fleiss"], abs=0.03)
    for metric in ("nominal", "ordinal", "interval"):
        found = agreement.krippendorff_alpha(study.ratings, metric=metric).value
        assert found == pytest.approx(truth[f"alpha {metric}"], abs=0.04)
    kappa = agreement.cohen_kappa(study.ratings[0], study.ratings[1], study.cases, weights="quadratic").value
    assert kappa == pytest.approx(truth["cohen"], abs=0.05)
    assert agreement.icc(study.ratings)["3,1"].value == pytest.approx(icc_truth(model, study.drawn)["3,1"], abs=0.04)
    same = (study.ratings == study.again).mean(1)
    assert same == pytest.approx(repeat_truth(model, study.drawn)["same"], abs=0.03)


def test_icc_of_the_population_is_the_mean_over_many_readers() -> None:
    model = ReaderModel(reader_sd=0.5)
    study = simulate(model, "many", num_readers=120, num_per_arm=300)
    assert agreement.icc(study.ratings)["2,1"].value == pytest.approx(icc_truth(model, None)["2,1"], abs=0.03)


def test_a_study_is_a_function_of_its_keys() -> None:
    one, same, other = (simulate(ReaderModel(), key) for key in (1, 1, 2))
    assert (one.ratings == same.ratings).all() and not (one.ratings == other.ratings).all()
