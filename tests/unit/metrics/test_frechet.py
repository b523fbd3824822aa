"""Fréchet distance: the closed form, the maintained library, exact merging, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.metrics import Moments, frechet_distance

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
