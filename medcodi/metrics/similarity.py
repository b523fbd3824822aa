"""Structural similarity: SSIM and PSNR where one truth exists, MS-SSIM between generated images as a measure of diversity.

By torchmetrics (extra ``eval``). Images are float ``[H, W]`` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from medcodi.errors import DataError, MissingExtraError
from medcodi.metrics.bootstrap import Statistic, weighted_mean
from medcodi.randomness import Key, numpy_generator

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik (2003), section 4
KERNEL = 11  # pixels of the Gaussian window, sigma 1.5 (Wang et al., 2004)
_BATCH = 32


def _functional():
    try:
        from torchmetrics.functional import image
    except ImportError:
        raise MissingExtraError("torchmetrics", extra="eval", needed_for="SSIM, PSNR and MS-SSIM") from None
    return image


def num_scales(height: int, width: int) -> int:
    """How many scales of MS-SSIM an image can have: each halves it, and the window must fit the smallest; at most 5.

    Five need 176 pixels a side. With fewer, their weights are divided by their sum; such figures compare only with figures of as
    many scales, so the number is part of the result.
    """
    side = min(height, width)
    fitting = [
        scales
        for scales in range(1, len(BETAS) + 1)
        # at the smallest scale, and as torchmetrics asks
        if side // 2 ** (scales - 1) >= KERNEL and side // max(1, scales - 1) ** 2 >= KERNEL
    ]
    if not fitting:
        raise DataError(f"images of {width}×{height} pixels", expected=f"at least {KERNEL} a side for SSIM")
    return max(fitting)


def _checked(images: Sequence[np.ndarray], name: str) -> None:
    shapes = {np.shape(image) for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"{name} images of {len(shapes)} sizes ({', '.join(map(str, sorted(shapes)[:3]))} …)",
            expected="one size, so that structure is compared at one scale",
            mend="bring them to one size first (medcodi.data.images.fit_square, antialiased)",
        )
    if shapes and len(next(iter(shapes))) != 2:
        raise DataError(f"{name} images of shape {next(iter(shapes))}", expected="[H, W]")
    for index, image in enumerate(images):
        if not (np.isfinite(image).all() and np.min(image) >= 0 and np.max(image) <= 1):
            raise DataError(
                f"{name} image {index} holds values outside [0, 1]", expected="finite numbers, black 0 and white 1"
            )


def _batches(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Iterator[tuple]:
    import torch

    for start in range(0, len(first), _BATCH):
        chosen = (np.stack(one[start : start + _BATCH]).astype(np.float64) for one in (first, second))
        yield tuple(torch.from_numpy(one)[:, None] for one in chosen)


@dataclass(frozen=True)
class ImageSimilarity:
    """SSIM and PSNR (decibel, of a range of 1) of each study, and their means.

    Attributes:
        ssim, psnr: Means; the PSNR of identical images is infinite, and counts as 100 dB.
        per_study: ssim, psnr: float64 ``[N]``.
    """

    ssim: float
    psnr: float
    per_study: dict[str, np.ndarray] = field(repr=False, compare=False)

    def statistics(self) -> dict[str, Statistic]:
        """Both means as functions of study weights."""
        return {name: weighted_mean(values) for name, values in self.per_study.items()}


def image_similarity(images: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> ImageSimilarity:
    """SSIM and PSNR of images against the one true image of each.

    Args:
        images: ``N`` of ``[H, W]``.
        truth: ``N`` of the same size.

    Raises:
        DataError: If there are none, numbers or sizes differ, or values lie outside [0, 1].
        MissingExtraError: If torchmetrics is not installed.
    """
    if len(images) != len(truth) or not len(images):
        raise DataError(
            f"{len(images)} images and {len(truth)} true images", expected="one truth each, and at least one"
        )
    _checked(images, "scored")
    _checked(truth, "true")
    _checked([images[0], truth[0]], "scored and true")
    metrics, parts = _functional(), {"ssim": [], "psnr": []}
    for one, other in _batches(images, truth):
        ssim = metrics.structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
        error = ((one - other) ** 2).mean((1, 2, 3))
        parts["ssim"].append(ssim.reshape(-1).numpy())
        parts["psnr"].append((-10 * error.clamp(min=1e-10).log10()).numpy())
    per_study = {name: np.concatenate(values) for name, values in parts.items()}
    return ImageSimilarity(float(per_study["ssim"].mean()), float(per_study["psnr"].mean()), per_study)


@dataclass(frozen=True)
class Diversity:
    """Mean MS-SSIM between pairs of different patients' images; lower is more diverse. Read it beside that of real images.

    Attributes:
        ms_ssim: The mean.
        num_scales: Of MS-SSIM (see :func:`num_scales`).
        pairs: int ``[P, 2]``: rows of the images.
        per_pair: float64 ``[P]``.
    """

    ms_ssim: float
    num_scales: int
    pairs: np.ndarray = field(repr=False, compare=False)
    per_pair: np.ndarray = field(repr=False, compare=False)

    def statistic(self) -> Statistic:
        """The mean as a function of study weights: a pair counts as often as both of its studies do together."""

        def statistic(weights: np.ndarray) -> np.ndarray:
            weights = np.asarray(weights, dtype=np.float64)
            both = weights[:, self.pairs[:, 0]] * weights[:, self.pairs[:, 1]]
            with np.errstate(invalid="ignore", divide="ignore"):
                return both @ self.per_pair / both.sum(1)

        return statistic


def draw_pairs(patients: Sequence[str], num: int, *keys: Key) -> np.ndarray:
    """Different pairs of rows of different patients: int ``[P, 2]``, all of them where there are no more than ``num``.

    Raises:
        DataError: If all rows are of one patient.
    """
    codes = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)[1]
    if len(set(codes)) < 2:
        raise DataError(f"{len(codes)} images of one patient", expected="at least 2 patients for pairs")
    rows = np.array(np.triu_indices(len(codes), 1)).T if len(codes) <= 2000 else None
    generator = numpy_generator("pairs", *keys)
    if rows is None:  # too many to list: drawn, and drawn again where they repeat
        drawn = np.sort(generator.integers(0, len(codes), size=(4 * num, 2)), axis=1)
        _, places = np.unique(drawn, axis=0, return_index=True)
        rows = drawn[np.sort(places)]
    rows = rows[codes[rows[:, 0]] != codes[rows[:, 1]]]
    return rows if len(rows) <= num else rows[np.sort(generator.permutation(len(rows))[:num])]


def diversity(
    images: Sequence[np.ndarray],
    patients: Sequence[str],
    *keys: Key,
    num_pairs: int = 500,
    pairs: np.ndarray | None = None,
) -> Diversity:
    """Mean MS-SSIM over random pairs of images of different patients.

    Args:
        images: ``N`` of ``[H, W]``, all of one size.
        patients: Patient of each.
        *keys: Keys of the choice of pairs.
        num_pairs: At most so many.
        pairs: int ``[P, 2]``, instead of drawing them: the same for generated and real images, so that they compare.

    Raises:
        DataError: If there are fewer than 2 patients, sizes differ, or values lie outside [0, 1].
        MissingExtraError: If torchmetrics is not installed.
    """
    _checked(images, "scored")
    chosen = draw_pairs(patients, num_pairs, *keys) if pairs is None else np.asarray(pairs)
    scales = num_scales(*images[0].shape)
    betas = BETAS if scales == len(BETAS) else tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    metrics, values = _functional(), []
    for start in range(0, len(chosen), _BATCH):
        rows = chosen[start : start + _BATCH]
        for one, other in _batches([images[i] for i in rows[:, 0]], [images[i] for i in rows[:, 1]]):
            score = metrics.multiscale_structural_similarity_index_measure(
                one, other, data_range=1.0, betas=betas, normalize="relu", reduction="none"
            )
            values.append(score.reshape(-1).numpy())
    per_pair = np.concatenate(values).astype(np.float64)
    return Diversity(float(per_pair.mean()), scales, chosen, per_pair)
