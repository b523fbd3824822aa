"""Corners: nothing of what was in them remains, nothing else changes, and no step is cut."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.data.sources.phantom import phantom_study
from medcodi.randomness import numpy_generator
from medcodi.turing.design.blinding import BlindingConfig, corner_mask, cut_image, finish_image, with_filled_corners

SHARE = 0.16


@pytest.fixture(scope="module")
def shoulders() -> np.ndarray:
    """A chest whose shoulders reach the upper corners, as a closely collimated film has it."""
    return phantom_study(0, 3, 160).images["frontal"][12:-28, 20:-20]


def test_shoulders_are_untouched_and_continued_without_a_step(shoulders: np.ndarray) -> None:
    filled, hidden = with_filled_corners(shoulders, SHARE), corner_mask(len(shoulders), SHARE)
    assert np.array_equal(filled[~hidden], shoulders[~hidden]) and filled.dtype == shoulders.dtype
    side = round(SHARE * len(shoulders))
    black = np.where(hidden, 0, shoulders)

    def step(image: np.ndarray) -> float:
        """Median step across the inner sides of the two upper corners."""
        beside = [image[:side, side] - image[:side, side - 1], image[side, :side] - image[side - 1, :side]]
        right = image[:, ::-1]
        beside += [right[:side, side] - right[:side, side - 1], right[side, :side] - right[side - 1, :side]]
        return float(np.median(np.abs(np.concatenate(beside))))

    assert step(black) > 0.15  # what a black square cuts into them
    assert step(filled) < 0.02
    # No value that is not beside the corner.
    assert filled[hidden].min() >= shoulders.min() and filled[hidden].max() <= shoulders.max()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mark_in_a_corner_leaves_no_trace(shoulders: np.ndarray, value: float) -> None:
    marked = shoulders.copy()
    marked[3:12, 4:10] = value
    marked[-9:-4, -14:-4] = value
    blinding = BlindingConfig(crop="none", margin=0.0)
    plain, painted = (
        finish_image(cut_image(image, blinding, 200), blinding, 100, numpy_generator("t"))
        for image in (shoulders, marked)
    )
    assert np.array_equal(plain, painted)


def test_a_plane_between_two_sides_is_continued() -> None:
    flat = np.full((50, 50), 0.3, np.float32)
    flat[:8, :8] = 1.0
    np.testing.assert_allclose(with_filled_corners(flat, SHARE), 0.3, atol=1e-6)
    assert np.array_equal(with_filled_corners(flat, 0.0), flat)
