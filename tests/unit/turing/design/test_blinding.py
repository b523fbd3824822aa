"""One pipeline for both arms: what differed between two files of one chest no longer does."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.data.refusals import Refused
from medcodi.data.sources.phantom import phantom_study
from medcodi.randomness import numpy_generator
from medcodi.turing.design.blinding import BlindingConfig, blind_text, cut_image, finish_image
from medcodi.turing.lint.features import image_encoding

SQUARE = BlindingConfig()


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    return phantom_study(0, 3, 160).images["frontal"]


def blinded(
    image: np.ndarray, blinding: BlindingConfig = SQUARE, native: int = 64, size: int = 128, key: str = ""
) -> np.ndarray:
    return finish_image(cut_image(image, blinding, size), blinding, native, numpy_generator("t", key))


def test_every_image_has_the_same_size_range_and_corners(chest: np.ndarray) -> None:
    for image in (
        chest,
        chest[:, 20:-20],
        chest * 0.5 + 0.2,
        np.pad(chest, 30),
        np.pad(chest, 12, constant_values=1.0),
    ):
        found = blinded(image)
        assert found.shape == (64, 64) and found.dtype == np.uint16
        assert (found.min(), found.max()) == (0, 65535)
        assert image_encoding(found, SQUARE.corner_mask, 8)["burnt-in mark"]["in the corners"] == 0


def test_grey_offset_and_gain_of_a_file_vanish(chest: np.ndarray) -> None:
    kept = BlindingConfig(crop="none")  # a black frame that is lifted is no frame any more
    plain, changed = (blinded(image, kept).astype(float) for image in (chest, chest * 0.6 + 0.25))
    assert np.abs(plain - changed).mean() / 65535 < 0.01  # what 8 bits of a smaller range lose
    assert np.abs(chest - (chest * 0.6 + 0.25)).mean() > 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_frame_vanishes(chest: np.ndarray, value: float) -> None:
    inner = chest[15:-15, 15:-15]
    plain, framed = blinded(inner).astype(float), blinded(np.pad(inner, 9, constant_values=value)).astype(float)
    assert np.abs(plain - framed).mean() / 65535 < 0.01


def test_a_finer_file_is_no_finer_on_the_screen(chest: np.ndarray) -> None:
    fine = phantom_study(0, 3, 320).images["frontal"]
    steps = [np.abs(np.diff(blinded(image).astype(float) / 65535, axis=0)).mean() for image in (chest, fine)]
    assert steps[0] == pytest.approx(steps[1], rel=0.03)


def test_no_grey_comb_and_a_full_band_whatever_the_file(chest: np.ndarray) -> None:
    coarse = np.rint(chest * 255) / 255
    for image in (chest, coarse):
        encoding = image_encoding(blinded(image), SQUARE.corner_mask, SQUARE.depth)
        assert encoding["grey offset"]["grey step"] == 257.0
        assert encoding["resolution"]["finest band"] == 0.7


def test_an_image_of_the_native_size_keeps_no_comb_of_its_file(chest: np.ndarray) -> None:
    narrow = np.rint((0.25 + 0.5 * chest) * 255) / 255  # half the grey values of 8 bits, stretched to all of them
    plain = BlindingConfig(crop="none", margin=0.0, corner_mask=0.0)
    levels = [np.bincount(blinded(image, plain, native=160).ravel() // 257, minlength=256) for image in (chest, narrow)]
    # Neighbouring levels are used alike: no more difference than between those of an image without a comb.
    combs = [np.abs(np.diff(counts[30:225])).sum() / counts[30:225].sum() for counts in levels]
    assert combs[1] < 1.15 * combs[0] + 0.02


def test_the_anatomy_is_kept(chest: np.ndarray) -> None:
    open_chest = BlindingConfig(crop="none", margin=0.0, corner_mask=0.0)
    found = blinded(chest, open_chest, native=160, size=160) / 65535
    assert np.corrcoef(found.ravel(), chest.ravel())[0, 1] > 0.995


def test_a_wide_image_is_filled_up_or_cut(chest: np.ndarray) -> None:
    wide = chest[30:-30]
    filled = cut_image(wide, BlindingConfig(crop="none", margin=0.0), 500)
    assert filled.shape == (160, 160) and not filled[:20].any()
    assert cut_image(wide, BlindingConfig(margin=0.0), 500).shape[0] <= 100


def test_dither_depends_on_its_key_only(chest: np.ndarray) -> None:
    assert np.array_equal(blinded(chest, key="a"), blinded(chest, key="a"))
    assert not np.array_equal(blinded(chest, key="a"), blinded(chest, key="b"))


def test_an_image_that_is_all_frame_is_refused() -> None:
    image = np.zeros((80, 80), np.float32)
    image[40, 40] = 1.0
    with pytest.raises(Refused, match="pixels of an image remain"):
        cut_image(image, SQUARE, 128)


def test_texts_take_one_form() -> None:
    real = "FINDINGS:  The lungs are clear ;no effusion.\n\nIMPRESSION: “No acute” finding – stable"
    assert (
        blind_text(real, SQUARE)
        == 'FINDINGS: The lungs are clear; no effusion.\nIMPRESSION: "No acute" finding - stable.'
    )
    assert blind_text("Clear lungs", BlindingConfig(text_case="upper")) == "CLEAR LUNGS."
    assert blind_text("É café", SQUARE) == "E cafe."
    cut = blind_text("One two three four five six. Seven eight nine ten eleven. Twelve.", BlindingConfig(max_words=11))
    assert cut == "One two three four five six. Seven eight nine ten eleven."
    assert blind_text(blind_text(real, SQUARE), SQUARE) == blind_text(real, SQUARE)
