"""Fields of records: equal to scikit-learn, and honest spread by construction."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.scoring.statistics import AreaStatistic, MeanStatistic, NumberStatistic
from medcodi.metrics.fields import (
    columns_of,
    encoded_records,
    expected_values,
    inside_draws,
    r2_statistic,
    spread_and_error,
)
from medcodi.record import CLINICAL_RECORD, RecordConfig

sklearn_metrics = pytest.importorskip("sklearn.metrics")
FIELDS = RecordConfig(
    fields={
        "age": {"low": 0, "high": 120},
        "view": {"values": ("PA", "AP", "other")},
        "bnp": {"low": 1, "high": 70_000, "scale": "log"},
    }  # type: ignore[arg-type]
).fields
RNG = np.random.default_rng(0)


def test_records_as_numbers_on_each_fields_scale() -> None:
    values = encoded_records(FIELDS, [{"age": 70, "view": "AP", "pet": "dog"}, {"bnp": np.e}, {}])
    np.testing.assert_allclose(values, [[70, 1, np.nan], [np.nan, np.nan, 1], [np.nan] * 3])
    assert columns_of(FIELDS) == {"age": slice(0, 1), "view": slice(1, 4), "bnp": slice(4, 5)}


def test_draws_become_means_and_shares() -> None:
    draws = np.array([[[60, 0, 1.0], [70, 2, 3.0], [80, 2, np.nan]]])
    np.testing.assert_allclose(expected_values(FIELDS, draws), [[70, 1 / 3, 0, 2 / 3, np.nan]])
    known = expected_values(CLINICAL_RECORD.fields, np.zeros((2, 4, len(CLINICAL_RECORD.fields))))
    assert known.shape == (2, 13) and np.isfinite(known).all()


def test_numbers_equal_scikit_learn_also_with_weights() -> None:
    truth, weights = RNG.normal(60, 15, 40), RNG.integers(0, 3, (5, 40)).astype(float)
    values = truth + RNG.normal(0, 8, 40)
    expected = [sklearn_metrics.r2_score(truth, values, sample_weight=own) for own in weights]
    np.testing.assert_allclose(r2_statistic(truth, values)(weights), expected, rtol=1e-9)
    mean = [sklearn_metrics.mean_absolute_error(truth, values, sample_weight=own) for own in weights]
    np.testing.assert_allclose(MeanStatistic(np.abs(values - truth)).statistic()(weights), mean, rtol=1e-9)
    assert np.isnan(r2_statistic(np.ones(4), np.ones(4))(np.ones((1, 4)))).all()  # a constant truth has no variance


def test_unknown_numbers_are_left_out_and_systems_stacked() -> None:
    truth, values = RNG.normal(size=12), RNG.normal(size=12)
    truth[3] = values[5] = np.nan
    known = [row for row in range(12) if row not in (3, 5)]
    ones = np.ones((1, 12))
    for measure in ("r2", "r"):
        own = NumberStatistic(truth, values, measure)
        assert own.statistic()(ones) == pytest.approx(own.take(known).statistic()(ones[:, known]))
        first = np.hstack([ones, np.zeros_like(ones)])
        assert own.stacked(NumberStatistic(truth, -values, measure))(first) == pytest.approx(own.statistic()(ones))


def test_areas_of_categories_equal_scikit_learn() -> None:
    truth = RNG.integers(0, 3, 60)
    shares = RNG.dirichlet([1, 1, 1], 60)
    one_hot = (truth[:, None] == np.arange(3)).astype(float)
    value = AreaStatistic(one_hot, shares, "auroc", ("a", "b", "c")).statistic()(np.ones((1, 60)))
    assert value == pytest.approx(sklearn_metrics.roc_auc_score(truth, shares, multi_class="ovr"), rel=1e-9)


@pytest.mark.parametrize("digits", [3, 0])
def test_an_honest_spread_holds_the_truth_as_often_as_it_should(digits: int) -> None:
    """Truth and draws of one distribution, also where rounding makes them equal."""
    centre = RNG.normal(0, 5, (20_000, 1))
    values = np.round(centre + RNG.normal(0, 1, (20_000, 8)), digits)
    truth, draws = values[:, 0], values[:, 1:]
    assert inside_draws(truth, draws).mean() == pytest.approx(6 / 8, abs=0.01)
    spread, error = spread_and_error(truth, draws)
    assert spread.sum() / error.sum() == pytest.approx(1, abs=0.03)
    # Draws that are too alike hold it too rarely.
    narrow = draws.mean(1, keepdims=True) + 0.3 * (draws - draws.mean(1, keepdims=True))
    assert inside_draws(truth, narrow).mean() < 0.5
    spread, error = spread_and_error(truth, narrow)
    assert spread.sum() / error.sum() < 0.15


def test_an_unknown_truth_has_no_spread() -> None:
    truth, draws = np.array([1.0, np.nan]), np.array([[0.0, 2.0], [0.0, 2.0]])
    np.testing.assert_array_equal(inside_draws(truth, draws), [1, np.nan])
    np.testing.assert_allclose(spread_and_error(truth, draws), [[3, 0], [0, 0]])
