"""SSIM, PSNR, MS-SSIM: torchmetrics' and scikit-image's numbers, keyed pairs, sizes, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.metrics.similarity import BETAS, diversity, draw_pairs, image_similarity, num_scales, similarity_floor

image_metrics = pytest.importorskip("torchmetrics.functional.image")
GENERATOR = np.random.default_rng(0)


def films(num: int, side: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    waves = [np.sin(generator.uniform(2, 12) * rows + 9 * columns * generator.random()) for _ in range(num)]
    return [np.clip(0.5 + 0.3 * wave + 0.05 * generator.normal(size=(side, side)), 0, 1) for wave in waves]


def as_tensor(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))[:, None]


def test_agrees_with_torchmetrics_and_scikit_image() -> None:
    first, second = films(5, 48), films(5, 48, seed=1)
    ours = image_similarity(first, second)
    one, other = as_tensor(first), as_tensor(second)
    expected = image_metrics.structural_similarity_index_measure(one, other, data_range=1.0)
    assert ours["ssim"].mean() == pytest.approx(float(expected), rel=1e-9)
    psnr = image_metrics.peak_signal_noise_ratio(
        one, other, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3)
    )
    assert ours["psnr"].mean() == pytest.approx(float(psnr), rel=1e-6)
    peer = pytest.importorskip("skimage.metrics")
    each = [peer.peak_signal_noise_ratio(b, a, data_range=1.0) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(ours["psnr"], each, rtol=1e-9)


def test_identical_images_have_ssim_1_and_a_finite_psnr() -> None:
    same = films(2, 32)
    ours = image_similarity(same, same)
    assert ours["ssim"] == pytest.approx([1, 1]) and ours["psnr"] == pytest.approx([100, 100])


def test_the_floor_is_the_next_true_image_of_another_patient() -> None:
    images, truth = films(3, 32), films(3, 32, seed=1)
    floor = similarity_floor(images, truth, ["p", "p", "q"])
    assert floor["ssim"].tolist() == image_similarity(images, [truth[2], truth[2], truth[0]])["ssim"].tolist()
    assert np.isnan(similarity_floor(images, truth, ["p", "p", "p"])["psnr"]).all()


@pytest.mark.parametrize(
    ("side", "scales"), [(512, 5), (176, 5), (175, 4), (128, 4), (64, 3), (32, 2), (21, 1), (11, 1)]
)
def test_as_many_scales_as_fit(side: int, scales: int) -> None:
    assert num_scales(side, side + 40) == scales


def test_too_small_for_a_window() -> None:
    with pytest.raises(DataError, match="40×10 pixels"):
        num_scales(10, 40)


def test_five_scales_are_torchmetrics_ms_ssim() -> None:
    images = films(3, 176)
    ours = diversity(images, draw_pairs(list("abc"), 2, 0))
    one, other = (as_tensor([images[row] for row in ours.pairs[:, side]]) for side in (0, 1))
    expected = image_metrics.multiscale_structural_similarity_index_measure(one, other, data_range=1.0)
    assert ours.num_scales == 5 and ours.ms_ssim == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("side", [128, 131])
def test_fewer_scales_are_torchmetrics_with_their_weights_of_sum_one(side: int) -> None:
    images = films(4, side)
    ours = diversity(images, draw_pairs(list("abcd"), 500, 0))
    betas = tuple(beta / sum(BETAS[: ours.num_scales]) for beta in BETAS[: ours.num_scales])
    one, other = (as_tensor([images[row] for row in ours.pairs[:, place]]) for place in (0, 1))
    expected = image_metrics.multiscale_structural_similarity_index_measure(
        one, other, data_range=1.0, betas=betas, normalize="relu", reduction="none"
    )
    np.testing.assert_allclose(ours.per_pair, expected.numpy(), rtol=1e-6)  # its exponents are float32
    assert ours.num_scales == 4


def test_alike_images_are_less_diverse() -> None:
    varied = films(6, 32)
    alike = [np.clip(varied[0] + 0.01 * GENERATOR.normal(size=(32, 32)), 0, 1) for _ in range(6)]
    pairs = draw_pairs(list("abcdef"), 8, 0)
    assert diversity(alike, pairs).ms_ssim > 0.9 > diversity(varied, pairs).ms_ssim


def test_pairs_are_keyed_different_and_between_patients() -> None:
    patients = ["a", "a", "b", "c", "c", "c"]
    every = draw_pairs(patients, 100, 0)
    assert len(every) == 15 - 1 - 3 and all(patients[i] != patients[j] for i, j in every)
    assert len({tuple(pair) for pair in every}) == len(every)
    np.testing.assert_array_equal(draw_pairs(patients, 4, 3), draw_pairs(patients, 4, 3))
    many = draw_pairs([str(index) for index in range(2500)], 200, 0)  # more than are listed
    assert len(many) == 200 and len({tuple(pair) for pair in many}) == 200
    with pytest.raises(DataError, match="3 images of one patient"):
        draw_pairs(["a"] * 3, 5, 0)


def test_diversity_weighs_pairs_by_their_studies() -> None:
    images = films(4, 32)
    ours = diversity(images, draw_pairs(list("abcd"), 500, 0))
    weights = np.array([[1.0, 1, 0, 0], [1, 1, 1, 1]])
    place = [tuple(pair) for pair in ours.pairs].index((0, 1))
    assert ours.statistic()(weights).tolist() == pytest.approx([ours.per_pair[place], ours.ms_ssim])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([np.zeros((32, 32)), np.zeros((32, 40))], [np.zeros((32, 32))] * 2, "scored images of 2 sizes"),
        ([np.zeros((32, 32))], [np.zeros((40, 40))], "scored and true images of 2 sizes"),
        ([np.zeros((32, 32))], [], "1 images and 0 true"),
        ([np.full((32, 32), 2.0)], [np.zeros((32, 32))], "image 0 holds values outside"),
        ([np.full((32, 32), np.nan)], [np.zeros((32, 32))], "image 0 holds values outside"),
    ],
)
def test_refusals(first: list, second: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_similarity(first, second)
