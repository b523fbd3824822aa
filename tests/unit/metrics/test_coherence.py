"""Agreement of two readings, retrieval between latents, correlation: scikit-learn and scipy, by hand, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.metrics.coherence import (
    Contingency,
    correlation_statistic,
    pair_similarity,
    partner_ranks,
    retrieval,
)

GENERATOR = np.random.default_rng(0)


def test_kappa_and_f1_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    first = (GENERATOR.random((80, 3)) < 0.3).astype(float)
    second = np.where(GENERATOR.random((80, 3)) < 0.8, first, 1 - first)
    second[:10, 1] = np.nan
    table = Contingency.of(first, second)
    found = table.per_finding(["a", "b", "c"])
    for k, name in enumerate("abc"):
        known = ~np.isnan(second[:, k])
        one, other = first[known, k], second[known, k]
        assert found[name]["kappa"] == pytest.approx(metrics.cohen_kappa_score(one, other), rel=1e-9)
        assert found[name]["f1"] == pytest.approx(metrics.f1_score(one, other), rel=1e-9)
        assert found[name]["studies"] == known.sum()
    ones = np.ones((1, len(first)))
    assert table.macro("kappa")(ones)[0] == pytest.approx(np.mean([found[name]["kappa"] for name in "abc"]))


def test_weights_repeat_studies_and_expected_tables_average() -> None:
    first, second = (GENERATOR.random((2, 30, 2)) < 0.5).astype(float)
    weights = GENERATOR.integers(0, 3, 30)
    repeated = Contingency.of(np.repeat(first, weights, 0), np.repeat(second, weights, 0))
    ours = Contingency.of(first, second).kappa(weights[None].astype(float))
    np.testing.assert_allclose(ours, repeated.kappa(np.ones((1, weights.sum()))), rtol=1e-12)
    rolled = [Contingency.of(first, np.roll(second, shift, 0)) for shift in (1, 2)]
    np.testing.assert_allclose(Contingency.mean(rolled).both, (rolled[0].both + rolled[1].both) / 2)


def test_a_finding_that_nobody_reads_has_no_kappa() -> None:
    table = Contingency.of(np.array([[1.0, 0], [0, 0]]), np.array([[1.0, 0], [0, 0]]))
    found = table.per_finding(["a", "b"])
    assert found["a"]["kappa"] == 1 and np.isnan(found["b"]["kappa"])
    assert all(table.macro(measure)(np.ones((1, 2)))[0] == 1 for measure in ("kappa", "f1"))


def test_ranks_by_hand() -> None:
    """Query 0 prefers its own; query 1 finds one better; query 2 is as near to two."""
    first = np.array([[1.0, 0], [0, 1], [1, 1]])
    second = np.array([[2.0, 0], [1, 1], [0, 3]])
    found = retrieval(first, second, recalls=(1, 2))
    assert found.ranks.tolist() == [1, 2, 2.5] and found.median_rank == 2
    assert found.recall == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    np.testing.assert_allclose(pair_similarity(first, second), [1, 0.5**0.5, 0.5**0.5])


def test_own_latents_are_found_and_shuffled_ones_stand_in_the_middle() -> None:
    latents = GENERATOR.normal(size=(400, 12))
    assert retrieval(latents, latents + 0.01 * GENERATOR.normal(size=(400, 12))).median_rank == 1
    shuffled = retrieval(latents, np.roll(latents, 7, 0))
    assert 120 < shuffled.median_rank < 280 and shuffled.recall[10] < 0.1
    ones = np.ones((1, 400))
    assert shuffled.median_statistic()(ones)[0] == shuffled.median_rank
    assert shuffled.recall_statistic(10)(ones)[0] == pytest.approx(shuffled.recall[10])


def test_ranks_of_several_pairings_are_those_of_each_alone() -> None:
    first, second = GENERATOR.normal(size=(2, 60, 5))
    second[7] = second[3]  # a tie
    pairings = [GENERATOR.permutation(60) for _ in range(3)]
    ranks = partner_ranks(first, second, pairings)
    for rank, rows in zip(ranks, pairings, strict=True):
        np.testing.assert_array_equal(rank, retrieval(first, second[rows]).ranks)


def test_correlation_is_numpys_and_weights_repeat() -> None:
    first, second = GENERATOR.normal(size=(2, 50)) + 5
    weights = GENERATOR.integers(0, 3, 50)
    statistic = correlation_statistic(first, second)
    assert statistic(np.ones((1, 50)))[0] == pytest.approx(np.corrcoef(first, second)[0, 1], rel=1e-9)
    expected = np.corrcoef(np.repeat(first, weights), np.repeat(second, weights))[0, 1]
    assert statistic(weights[None])[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((3, 2)), np.array([[1.0, 0], [0, 0], [0, 1]]), "1 latents are zero, the first is row 1"),
        (np.ones((3, 2)), np.ones((4, 2)), "shapes"),
        (np.ones((1, 2)), np.ones((1, 2)), "of only 1 latent samples"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), "hold NaN"),
    ],
)
def test_refusals(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        retrieval(first, second)
    with pytest.raises(DataError, match="other than 0, 1 and NaN"):
        Contingency.of(np.array([[2.0]]), np.array([[1.0]]))
