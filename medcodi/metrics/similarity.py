"""Similarity and diversity: SSIM and PSNR to the one true image, MS-SSIM between generated images; and PRDC, how generated samples spread.

SSIM and PSNR equal torchmetrics' figures, in float64, about 30 times as fast on a CPU. Images are float ``[H, W]`` in [0, 1]. Precision,
recall, density and coverage (Kynkäänniemi et al., 2019; Naeem et al., 2020) are of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from scipy.ndimage import correlate1d

from medcodi.errors import DataError
from medcodi.metrics.bootstrap import Statistic
from medcodi.metrics.distances import checked_pair
from medcodi.randomness import Key, numpy_generator

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik (2003), section 4
KERNEL, SIGMA = 11, 1.5  # pixels of the Gaussian window (Wang et al., 2004, section III.B)
C1, C2 = 0.01**2, 0.03**2  # of a range of 1
# Of the Gaussian window along one axis; the window is their outer product.
_TAPS = np.exp(-((np.arange(KERNEL) - KERNEL // 2) ** 2) / (2 * SIGMA**2))
_TAPS /= _TAPS.sum()


def num_scales(height: int, width: int) -> int:
    """Number of scales of MS-SSIM that an image can have, at most 5: each halves it, and the window must fit the smallest.

    Five need 176 pixels a side. With fewer, their weights are divided by their sum; figures with different numbers of scales do not
    compare, so the number is part of the result.
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
    """Refuse images of several sizes, of another shape than [H, W], or with values outside [0, 1]."""
    shapes = {np.shape(image) for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"{name} images of {len(shapes)} sizes ({', '.join(map(str, sorted(shapes)[:3]))} …)",
            expected="one size, so that structure is compared at one scale",
            fix="bring them to one size first (medcodi.data.images.fit_square, antialiased)",
        )
    if shapes and len(next(iter(shapes))) != 2:
        raise DataError(f"{name} images of shape {next(iter(shapes))}", expected="[H, W]")
    for index, image in enumerate(images):
        if not (np.isfinite(image).all() and np.min(image) >= 0 and np.max(image) <= 1):
            raise DataError(
                f"{name} image {index} holds values outside [0, 1]", expected="finite numbers, black 0 and white 1"
            )


def _windowed(maps: np.ndarray) -> np.ndarray:
    """Mean under the Gaussian window around each pixel, mirrored at the edges: float64 ``[..., H, W]`` -> the same."""
    # The window is separable: 2 x 11 products a pixel in place of 121.
    across = correlate1d(maps, _TAPS, axis=-1, mode="mirror")
    return correlate1d(across, _TAPS, axis=-2, mode="mirror")


def structural_maps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM around each pixel, and its contrast-structure factor (Wang et al., 2004, equations 13 and 12): ``[H, W]`` both."""
    # Local moments of the images, in one call: [5, H, W].
    maps = np.stack([first, second, first * first, second * second, first * second])
    mean_1, mean_2, square_1, square_2, product = _windowed(maps)
    means, squares = mean_1 * mean_2, mean_1**2 + mean_2**2
    # Each variance is clamped by itself: rounding may put one below 0.
    variances = np.maximum(square_1 - mean_1**2, 0) + np.maximum(square_2 - mean_2**2, 0)
    factor = (2 * (product - means) + C2) / (variances + C2)
    return (2 * means + C1) / (squares + C1) * factor, factor


def multiscale_ssim(first: np.ndarray, second: np.ndarray, betas: Sequence[float] = BETAS) -> float:
    """MS-SSIM (Wang, Simoncelli and Bovik, 2003, equation 7) of two images; terms below 0 count as 0.

    As in torchmetrics: SSIM over all pixels of the coarsest scale, the factor over those whose window is inside the image.
    ``betas`` are the exponents of the scales, the finest first.
    """
    value, inside = 1.0, slice(KERNEL // 2, -(KERNEL // 2))
    # The factor at each scale but the coarsest, then SSIM there.
    for beta in betas[:-1]:
        _, factor = structural_maps(first, second)
        value *= max(float(factor[inside, inside].mean()), 0.0) ** beta
        first, second = _halved(first), _halved(second)
    ssim, _ = structural_maps(first, second)
    return value * max(float(ssim.mean()), 0.0) ** betas[-1]


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 for side in image.shape)
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean((1, 3))


def image_similarity(images: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """``ssim`` and ``psnr`` (decibel, of a range of 1) of ``N`` images ``[H, W]`` against the one true image of each: float64 ``[N]``.

    Identical images have an infinite PSNR, which counts as 100 dB.

    Raises:
        DataError: If there are none, numbers or sizes differ, or values are outside [0, 1].
    """
    if len(images) != len(truth) or not len(images):
        raise DataError(
            f"{len(images)} images and {len(truth)} true images", expected="one truth each, and at least one"
        )
    _checked(images, "scored")
    _checked(truth, "true")
    _checked([images[0], truth[0]], "scored and true")
    # Per pair, in float64.
    pairs = [tuple(np.asarray(image, np.float64) for image in pair) for pair in zip(images, truth, strict=True)]
    errors = np.array([((image - true) ** 2).mean() for image, true in pairs])
    return {
        "ssim": np.array([structural_maps(image, true)[0].mean() for image, true in pairs]),
        "psnr": -10 * np.log10(np.maximum(errors, 1e-10)),
    }


def similarity_floor(
    images: Sequence[np.ndarray], truth: Sequence[np.ndarray], patients: Sequence[str]
) -> dict[str, np.ndarray]:
    """As :func:`image_similarity`, of each image against the next true one of another patient; NaN where there is none."""
    num = len(images)
    others = [
        next((other for step in range(1, num) if patients[other := (row + step) % num] != patients[row]), None)
        for row in range(num)
    ]
    pairs = [(row, other) for row, other in enumerate(others) if other is not None]
    floors = {name: np.full(num, np.nan) for name in ("ssim", "psnr")}
    if pairs:
        scores = image_similarity([images[row] for row, _ in pairs], [truth[other] for _, other in pairs])
        for name, values in scores.items():
            floors[name][[row for row, _ in pairs]] = values
    return floors


@dataclass(frozen=True)
class Diversity:
    """Mean MS-SSIM between pairs of different patients' images; lower is more diverse. Compare it with that of real images."""

    ms_ssim: float
    num_scales: int  # see :func:`num_scales`
    pairs: np.ndarray = field(repr=False, compare=False)  # int [P, 2]: rows of the images
    per_pair: np.ndarray = field(repr=False, compare=False)  # float64 [P]

    def statistic(self) -> Statistic:
        """The mean as a function of study weights: a pair counts as often as both of its studies do together."""

        def statistic(weights: np.ndarray) -> np.ndarray:
            weights = np.asarray(weights, dtype=np.float64)
            both = weights[:, self.pairs[:, 0]] * weights[:, self.pairs[:, 1]]
            with np.errstate(invalid="ignore", divide="ignore"):
                return both @ self.per_pair / both.sum(1)

        return statistic


def draw_pairs(patients: Sequence[str], num: int, *keys: Key) -> np.ndarray:
    """At most ``num`` different pairs of rows of different patients: int ``[P, 2]``. One patient alone is a DataError."""
    codes = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)[1]
    if len(set(codes)) < 2:
        raise DataError(f"{len(codes)} images of one patient", expected="at least 2 patients for pairs")
    generator = numpy_generator("pairs", *keys)
    if len(codes) <= 2000:  # all pairs
        rows = np.array(np.triu_indices(len(codes), 1)).T
    else:  # too many to list: more are drawn than needed, and repetitions left out
        drawn = np.sort(generator.integers(0, len(codes), size=(4 * num, 2)), axis=1)
        _, places = np.unique(drawn, axis=0, return_index=True)
        rows = drawn[np.sort(places)]
    # Those of different patients, and a random choice of them in order.
    rows = rows[codes[rows[:, 0]] != codes[rows[:, 1]]]
    return rows if len(rows) <= num else rows[np.sort(generator.permutation(len(rows))[:num])]


def diversity(images: Sequence[np.ndarray], pairs: np.ndarray) -> Diversity:
    """Mean MS-SSIM over pairs of images.

    Args:
        images: ``N``, ``[H, W]`` in [0, 1], all of one size.
        pairs: int ``[P, 2]``, from :func:`draw_pairs`: the same for generated and real images, so that they compare.
    """
    _checked(images, "scored")
    scales = num_scales(*images[0].shape)
    # Fewer scales share the weight of all.
    betas = BETAS if scales == len(BETAS) else tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    float_images = {row: np.asarray(images[row], np.float64) for row in np.unique(pairs).tolist()}
    per_pair = np.array(
        [multiscale_ssim(float_images[first], float_images[second], betas) for first, second in pairs.tolist()]
    )
    return Diversity(float(per_pair.mean()), scales, pairs, per_pair)


# ---- sets of features: precision, recall, density, coverage ----------------------------------------------------------
_BLOCK = 1024  # rows of a distance matrix in memory at once


@dataclass(frozen=True)
class PRDC:
    """How generated samples are spread among the real ones; the ball of a sample reaches to its k-th neighbour in its own set."""

    precision: float  # share of generated samples inside a ball of some real one
    recall: float  # share of real samples inside a ball of some generated one
    density: float  # number of real balls that a generated sample is inside, over k; may exceed 1
    coverage: float  # share of real samples whose ball holds a generated one
    k: int
    # Precision and density float64 [M] of generated samples, recall and coverage [N] of real ones.
    per_sample: dict[str, np.ndarray] = field(repr=False, compare=False, default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """The four figures."""
        return {name: value for name, value in asdict(self).items() if name not in ("k", "per_sample")}


def prdc(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of ``[N, D]`` and ``[M, D]``; memory does not grow with their product.

    A sample is not its own neighbour, so a set with fewer than ``k + 1`` samples is a DataError.
    """
    if k < 1:
        raise DataError(f"k is {k}", expected="a neighbour, 1 or more")
    name = f"precision and recall at k = {k}"
    real, generated = checked_pair(real, generated, least=k + 1, metric=name)
    centre = real.mean(0)  # distances lose fewer digits near the origin
    real, generated = real - centre, generated - centre
    real_radius, generated_radius = _radii(real, k), _radii(generated, k)
    # One pass over blocks of real samples.
    balls, nearest = np.zeros(len(generated)), np.full(len(real), np.inf)
    recall = np.zeros(len(real), dtype=bool)
    for start, squared in _distances(real, generated):
        stop = start + len(squared)  # squared: [block, M]
        balls += (squared < real_radius[start:stop, None]).sum(0)
        recall[start:stop] = (squared < generated_radius[None]).any(1)
        nearest[start:stop] = squared.min(1)
    per_sample = {
        "precision": (balls > 0).astype(np.float64),
        "recall": recall.astype(np.float64),
        "density": balls / k,
        "coverage": (nearest < real_radius).astype(np.float64),
    }
    return PRDC(**{name: float(values.mean()) for name, values in per_sample.items()}, k=k, per_sample=per_sample)


def _distances(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Squared distances by blocks of rows: start, ``[block, M]``."""
    norms = (second**2).sum(1)
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        yield start, np.maximum((block**2).sum(1)[:, None] + norms - 2 * block @ second.T, 0.0)


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th neighbour."""
    radii = np.empty(len(features))
    for start, squared in _distances(features, features):
        rows = np.arange(len(squared))
        squared[rows, start + rows] = 0.0  # rounding may leave more; index 0 of the sorted row is the sample itself
        radii[start : start + len(squared)] = np.partition(squared, k, axis=1)[:, k]
    return radii
