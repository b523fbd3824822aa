"""Distances of features: refusals of feature sets; Fréchet and kernel distances against the libraries and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.metrics import Moments, frechet_distance
from medcodi.metrics.distances import (
    checked_features,
    checked_pair,
    draw_subsets,
    finite_features,
    kernel_distance,
    kernel_statistic,
    mmd2,
)


def test_features_become_float64_and_keep_their_values() -> None:
    features = np.arange(6, dtype=np.float16).reshape(3, 2)
    checked = finite_features(features)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, features)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"real features of shape .*\[N, D\]"):
        finite_features(np.zeros(shape), "real")


def test_the_first_bad_row_is_named() -> None:
    features = np.zeros((5, 2))
    features[[2, 4], 1] = np.inf, np.nan
    with pytest.raises(DataError, match="2 of 5 generated feature vectors hold NaN or infinity, the first is row 2"):
        finite_features(features, "generated")


def test_too_few_samples_are_refused_with_both_numbers() -> None:
    assert checked_features(np.zeros((4, 1)), "real", least=4, metric="a metric").shape == (4, 1)
    with pytest.raises(DataError, match="a metric of only 4 real samples.*at least 5"):
        checked_features(np.zeros((4, 1)), "real", least=5, metric="a metric")


def test_a_pair_is_of_one_extractor() -> None:
    first, second = checked_pair(np.zeros((2, 3)), np.ones((4, 3)), least=2, metric="a metric")
    assert first.shape == (2, 3) and second.shape == (4, 3)
    with pytest.raises(DataError, match="features of 3 and 2 dimensions"):
        checked_pair(np.zeros((2, 3)), np.zeros((2, 2)), least=2, metric="a metric")


GENERATOR = np.random.default_rng(0)


def test_two_gaussians_by_hand() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2 = 9 + (1 - 2)^2 + (3 - 1)^2."""
    first = Moments(100.0, np.array([0.0, 0.0]), 99 * np.diag([1.0, 9.0]))
    second = Moments(100.0, np.array([3.0, 0.0]), 99 * np.diag([4.0, 1.0]))
    assert frechet_distance(first, second) == pytest.approx(14.0, rel=1e-12)


def test_agrees_with_torchmetrics_on_the_same_features() -> None:
    metric = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).double()

    real = GENERATOR.normal(size=(300, 12)) @ GENERATOR.normal(size=(12, 12))
    fake = GENERATOR.normal(size=(250, 12)) + 0.3
    fid = metric.FrechetInceptionDistance(feature=Features(), normalize=True, input_img_size=(3, 2, 2), antialias=False)
    fid.set_dtype(torch.float64)
    fid.update(torch.from_numpy(real).reshape(-1, 3, 2, 2), real=True)
    fid.update(torch.from_numpy(fake).reshape(-1, 3, 2, 2), real=False)
    assert frechet_distance(Moments.of(real), Moments.of(fake)) == pytest.approx(float(fid.compute()), rel=1e-6)


def test_distance_of_a_set_to_itself_is_zero_and_it_is_symmetric() -> None:
    first, second = GENERATOR.normal(size=(50, 5)), GENERATOR.normal(size=(60, 5)) * 2
    assert frechet_distance(Moments.of(first), Moments.of(first)) == pytest.approx(0, abs=1e-10)
    there, back = (
        frechet_distance(Moments.of(first), Moments.of(second)),
        frechet_distance(Moments.of(second), Moments.of(first)),
    )
    assert there == pytest.approx(back, rel=1e-10)


@pytest.mark.parametrize("cuts", [(1,), (3, 50, 51), (10, 20, 30, 40)])
def test_shards_merge_to_the_whole(cuts: tuple[int, ...]) -> None:
    features = GENERATOR.normal(size=(64, 6)) + 1e4  # a large mean, where a naive sum of squares loses digits
    merged = Moments.empty(6)
    for shard in np.split(features, cuts):
        merged = merged.merge(Moments.of(shard))
    whole = Moments.of(features)
    assert merged.count == 64
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(features.T), rtol=1e-9)


def test_weights_mean_repetition() -> None:
    features, weights = GENERATOR.normal(size=(10, 3)), GENERATOR.integers(0, 4, 10)
    np.testing.assert_allclose(
        Moments.of(features, weights).covariance, np.cov(np.repeat(features, weights, axis=0).T), rtol=1e-10
    )


def test_too_few_samples_are_refused_with_the_numbers_or_warned_about() -> None:
    few = Moments.of(GENERATOR.normal(size=(7, 8)))
    many = Moments.of(GENERATOR.normal(size=(70, 8)))
    with pytest.raises(DataError, match=r"8-dimensional features of only 7 samples.*at least 8"):
        frechet_distance(few, many)
    with pytest.warns(UserWarning, match="of only 7 samples"):
        frechet_distance(few, many, strict=False)


def test_nan_features_are_refused_by_row() -> None:
    features = np.zeros((4, 2))
    features[2, 1] = np.nan
    with pytest.raises(DataError, match="first is row 2"):
        Moments.of(features)


def test_other_extractors_do_not_mix() -> None:
    with pytest.raises(DataError, match="3 and 4 dimensions"):
        frechet_distance(Moments.of(np.eye(3)), Moments.of(np.eye(4)))


OF_KERNELS = np.random.default_rng(0)
REAL, FAKE = OF_KERNELS.normal(size=(90, 24)), OF_KERNELS.normal(size=(70, 24)) * 1.2 + 0.2


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
    weights = np.stack([np.bincount(OF_KERNELS.integers(0, 70, 70), minlength=70) for _ in range(300)]).astype(float)
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
