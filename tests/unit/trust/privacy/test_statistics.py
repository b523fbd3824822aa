from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from medcodi.metrics.findings import auroc
from medcodi.randomness import numpy_generator
from medcodi.trust.privacy.statistics import (
    by_patient,
    epsilon_shown,
    excess,
    nearest_excess,
    ranked,
    separation,
    set_test,
    share_interval,
    true_alarms,
)


def population(num: int, shift: float, *keys: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    values = numpy_generator("test", *keys).normal(size=2 * num)
    labels = np.repeat([1, 0], num)
    return values + shift * labels, labels, [f"p{row}" for row in range(2 * num)]


def test_patients_count_once_and_studies_left_out_do_not() -> None:
    values = np.array([1.0, 3.0, 5.0, np.nan, 7.0])
    means, members = by_patient(values, np.array([1, 1, 0, 0, -1]), ["a", "a", "b", "c", "d"])
    assert means.tolist() == [2.0, 5.0] and members.tolist() == [True, False]
    assert np.isnan(ranked(values, np.array([1, 1, 0, 0, -1]))[3:]).all()


def test_the_separation_is_that_of_the_library() -> None:
    values, labels, patients = population(40, 0.7)
    figure = separation(values, labels, patients)
    assert figure is not None
    assert figure["value"] == pytest.approx(auroc(labels.astype(float), values))
    assert figure["p_value"] == pytest.approx(mannwhitneyu(values[:40], values[40:], alternative="greater").pvalue)
    assert figure["low"] < figure["value"] < figure["high"]
    assert separation(values[:12], labels[:12], patients[:12]) is None  # no non-member


def test_intervals_of_members_never_seen_hold_half_as_often_as_they_say() -> None:
    held = 0
    for repeat in range(200):
        values, labels, patients = population(30, 0.0, repeat)
        figure = separation(values, labels, patients)
        assert figure is not None
        held += figure["low"] <= 0.5 <= figure["high"]
    assert 180 <= held <= 198  # 95 % of 200, with the spread of a binomial


def test_true_alarms_need_ten_false_ones() -> None:
    values, labels, patients = population(100, 6.0)
    assert true_alarms(values, labels, patients, 0.01, 200, 0) is None
    share = true_alarms(values, labels, patients, 0.1, 200, 0)
    assert share is not None and share["value"] > 0.95 and share["low"] > 0.8
    values, labels, patients = population(1000, 0.0)
    share = true_alarms(values, labels, patients, 0.01, 200, 0)
    assert share is not None and share["low"] <= 0.01 <= share["high"]
    # At most 1 % of the non-members are above the threshold.
    assert true_alarms(values, 1 - labels, patients, 0.01, 100, 0) is not None


def test_a_set_betrays_what_no_study_does() -> None:
    values, labels, patients = population(2000, 0.15)
    test, figure = set_test(values, labels, patients), separation(values, labels, patients)
    assert test is not None and figure is not None
    assert test["p_value"] < 1e-3 and figure["value"] < 0.58


def test_excess_is_the_difference_of_the_means() -> None:
    values, labels, patients = population(50, 1.0)
    figure = excess(values, labels, patients, 300, 0)
    assert figure is not None
    assert figure["value"] == pytest.approx(values[:50].mean() - values[50:].mean())
    assert figure["low"] < figure["value"] < figure["high"] and figure["p_value"] < 1e-4


def test_the_nearest_is_a_member_as_often_as_chance_says() -> None:
    labels, patients = np.repeat([1, 0], 40), [f"p{row}" for row in range(80)]
    chance = nearest_excess(np.arange(80)[::-1].copy(), labels, patients)
    assert chance is not None and chance["value"] == 0 and chance["chance"] == 0.5
    drawn = nearest_excess(numpy_generator("nearest").integers(0, 40, 80), labels, patients)
    assert drawn is not None and drawn["value"] == 0.5 and drawn["p_value"] < 1e-6


def test_a_share_of_nothing_has_a_bound() -> None:
    share = share_interval(0, 300)
    assert share["low"] == 0 and share["high"] == pytest.approx(1 - 0.025 ** (1 / 300))


def main_figures(shift: float, num: int, *keys: int) -> dict:
    values, labels, patients = population(num, shift, *keys)
    rates = {f"{rate:g}": true_alarms(values, labels, patients, rate, 200, *keys) for rate in (0.1, 0.01, 0.001)}
    return {"true_alarms": rates, "auroc": separation(values, labels, patients)}


def test_the_epsilon_that_alarms_show_stays_below_that_of_the_mechanism() -> None:
    """Scores of a Gaussian mechanism of sensitivity 1 and noise 1, which is (4.38, 1e-5)-private (Balle & Wang, 2018)."""
    bounds = [epsilon_shown(main_figures(1.0, 1000, seed)) for seed in range(20)]
    assert all(bound is not None and 0.5 < bound < 4.38 for bound in bounds)
    assert np.mean([epsilon_shown(main_figures(0.0, 1000, seed)) for seed in range(20)]) < 0.05  # nobody is a member
    # A model that names every member: what 1,000 non-members can show of it.
    named = epsilon_shown(main_figures(20.0, 1000, 0))
    assert named is not None and 3.5 < named < 4.5
    assert epsilon_shown(main_figures(1.0, 50, 0)) is None
