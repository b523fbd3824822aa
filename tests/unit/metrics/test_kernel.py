"""Kernel distance: torch-fidelity's own numbers, a hand-computed case, subsets, weights, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.metrics.kernel import draw_subsets, kernel_distance, kernel_statistic, mmd2

GENERATOR = np.random.default_rng(0)
REAL, FAKE = GENERATOR.normal(size=(90, 24)), GENERATOR.normal(size=(70, 24)) * 1.2 + 0.2


def test_two_points_each_by_hand() -> None:
    """D = 1: k(x, y) = (xy + 1)^3; real {0, 1}, generated {0, 2}."""
    value = mmd2(np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]]))
    assert value == pytest.approx(1 + 1 - 2 * (1 + 1 + 1 + 27) / 4)


@pytest.mark.parametrize("size", [30, 70])
def test_agrees_with_torch_fidelity_on_the_same_features(size: int) -> None:
    """On the same subsets, which its own generator draws."""
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    peer = metric.kid_features_to_metric(
        torch.from_numpy(REAL), torch.from_numpy(FAKE), kid_subsets=7, kid_subset_size=size, rng_seed=5, verbose=False
    )
    rng = np.random.RandomState(5)
    subsets = [
        (rng.choice(len(REAL), size, replace=False), rng.choice(len(FAKE), size, replace=False)) for _ in range(7)
    ]
    ours = kernel_distance(REAL, FAKE, subsets=subsets)
    assert ours.value == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-6)
    assert ours.std == pytest.approx(peer["kernel_inception_distance_std"], rel=1e-6)
    assert (ours.subset_size, ours.num_subsets) == (size, 7)


def test_subsets_depend_on_seed_and_place_alone() -> None:
    few = list(draw_subsets(90, 70, 20, 3, 0))
    many = list(draw_subsets(90, 70, 20, 9, 0))
    for (first, second), (same, too) in zip(few, many, strict=False):
        np.testing.assert_array_equal(first, same)
        np.testing.assert_array_equal(second, too)
        assert len(set(first)) == 20
    assert not np.array_equal(few[0][0], next(iter(draw_subsets(90, 70, 20, 1, 1)))[0])
    assert kernel_distance(REAL, FAKE, subset_size=50, num_subsets=4) == kernel_distance(
        REAL, FAKE, subset_size=50, num_subsets=4
    )


def test_statistic_is_the_plain_value_at_ones_and_that_of_a_subset_at_its_weights() -> None:
    statistic = kernel_statistic(REAL[:70], FAKE)
    rows = np.arange(0, 70, 3)
    weights = np.zeros((2, 70))
    weights[0], weights[1, rows] = 1, 1
    assert statistic(weights)[0] == pytest.approx(mmd2(REAL[:70], FAKE), rel=1e-10)
    assert statistic(weights)[1] == pytest.approx(mmd2(REAL[rows], FAKE[rows]), rel=1e-10)


def test_of_paired_sets_no_study_meets_itself() -> None:
    """Against every kernel worked out one by one; a repetition of a study is that study too."""
    real, fake = REAL[:7], FAKE[:7]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 24 + 1) ** 3)

    def mean(first: np.ndarray, second: np.ndarray, rows: list[int]) -> float:
        return float(np.mean([kernel(first[i], second[j]) for i in rows for j in rows if i != j]))

    for rows in (list(range(7)), [0, 0, 0, 2, 3, 3, 6]):
        by_hand = mean(real, real, rows) + mean(fake, fake, rows) - 2 * mean(real, fake, rows)
        weights = np.bincount(rows, minlength=7)[None].astype(float)
        assert kernel_statistic(real, fake, study_paired=True)(weights)[0] == pytest.approx(by_hand, rel=1e-10)
    assert mmd2(real, fake, study_paired=True) == pytest.approx(
        kernel_statistic(real, fake, study_paired=True)(np.ones((1, 7)))[0], rel=1e-10
    )
    with pytest.raises(DataError, match="90 real and 70 generated"):
        mmd2(REAL, FAKE, study_paired=True)


def test_images_like_their_own_studies_do_not_look_nearer_than_they_are() -> None:
    """Two sets of one law, row i of the one like row i of the other: the distance is 0, which all pairs together miss."""
    draw = np.random.default_rng(1)
    found = []
    for _ in range(300):
        real, noise = draw.normal(size=(2, 10, 4))
        fake = 0.9 * real + np.sqrt(1 - 0.9**2) * noise
        found.append([mmd2(real, fake, study_paired=True), mmd2(real, fake)])
    means, errors = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
    assert abs(means[0]) < 3 * errors[0] and means[1] < -5 * errors[1]


def test_resampled_copies_do_not_pull_the_interval() -> None:
    """A bootstrap of it is centred near the value; with a study's copies counted as pairs it would not be."""
    statistic = kernel_statistic(REAL[:70], FAKE)
    weights = np.stack([np.bincount(GENERATOR.integers(0, 70, 70), minlength=70) for _ in range(300)]).astype(float)
    values = statistic(weights)
    assert abs(values.mean() - statistic(np.ones((1, 70)))[0]) < 0.2 * values.std()


@pytest.mark.parametrize(
    ("real", "generated", "options", "message"),
    [
        (REAL, FAKE, {}, "subsets of 1000 of only 90 real samples.*at least 1000"),
        (REAL, FAKE, {"subset_size": 80}, "of only 70 generated samples.*at least 80"),
        (REAL, FAKE[:, :3], {"subset_size": 10}, "24 and 3 dimensions"),
        (np.full((20, 2), np.nan), REAL[:20, :2], {"subset_size": 10}, "20 of 20 real feature vectors hold NaN"),
        (REAL, FAKE, {"subset_size": 1}, "subsets of 1 samples"),
    ],
)
def test_refusals(real: np.ndarray, generated: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        kernel_distance(real, generated, **options)
