"""Features of images, texts and names: by hand, on synthetic images, and blind to what they must not see."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.turing.bundle.payloads import Payload
from medcodi.turing.design.blinding import BlindingConfig, with_filled_corners
from medcodi.turing.lint.features import (
    PayloadFeatures,
    file_features,
    image_appearance,
    image_encoding,
    name_features,
    text_appearance,
    text_encoding,
)

SIDE = 128


def dithered(seed: int = 0, depth: int = 8) -> np.ndarray:
    """A smooth image, dithered as the exporter does."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    smooth = 0.5 + 0.2 * np.sin(3 * down) * np.cos(2 * across)
    levels = 2**depth - 1
    dither = rng.random((4, SIDE, SIDE)).sum(0) - 2
    return np.rint(np.rint(smooth * levels + dither) * (65535 / levels)).astype(np.uint16)


def encoding(image: np.ndarray, corner: float = 0.0) -> dict[str, dict[str, float]]:
    return image_encoding(image, corner, 8)


def test_a_comb_of_grey_values_is_seen_and_dither_has_none() -> None:
    assert encoding(dithered())["grey offset"]["grey step"] == 257.0  # 8 bits
    assert encoding(dithered(depth=12))["grey offset"]["grey step"] == 16.0  # the least that is counted
    comb = (dithered() // 514 * 514).astype(np.uint16)  # 7 bits
    assert encoding(comb)["grey offset"]["grey step"] == 514.0


def test_smoothing_takes_the_finest_band_away() -> None:
    image = dithered()
    smooth = image.astype(float)
    smooth[1:-1, 1:-1] = (
        sum(image[1 + y : SIDE - 1 + y, 1 + x : SIDE - 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9
    )
    assert encoding(image)["resolution"]["finest band"] == pytest.approx(0.7)
    assert encoding(smooth.astype(np.uint16))["resolution"]["finest band"] < 0.3


def test_constant_lines_at_an_edge_are_counted() -> None:
    image = dithered()
    image[:3] = 1000
    border = encoding(image)["border"]
    assert border["flat lines, top"] == 3 and border["flat lines, bottom"] == border["flat lines, left"] == 0


def test_a_letter_near_the_edge_is_a_mark_and_one_in_the_middle_is_not() -> None:
    edge, middle = dithered(), dithered()
    edge[6:12, 60:64] = 65535
    middle[60:66, 60:64] = 65535
    assert encoding(edge)["burnt-in mark"]["marks"] == 24 and encoding(middle)["burnt-in mark"]["marks"] == 0
    assert encoding(dithered())["burnt-in mark"]["marks"] == 0


def test_what_is_in_the_corners_is_counted_where_they_are_masked() -> None:
    smooth = with_filled_corners(dithered() / 65535, 0.1)
    image = (np.rint(smooth * 255) * 257).astype(np.uint16)
    assert encoding(image, corner=0.1)["burnt-in mark"]["in the corners"] == 0  # nothing but what is beside them
    image[2:6, 2:6] += 10 * 257  # a faint spot
    assert encoding(image, corner=0.1)["burnt-in mark"]["in the corners"] == 16
    assert encoding(image)["burnt-in mark"]["in the corners"] == 0
    # Bundles of version 0.1 have black corners.
    black = image_encoding(image, 0.1, 8, old=True)["burnt-in mark"]
    assert black["in the corners"] == 4 * round(0.1 * SIDE) ** 2


def test_the_spectrum_of_white_noise_is_its_variance() -> None:
    noise = np.random.default_rng(1).normal(0.5, 0.1, (SIDE, SIDE))
    features = image_appearance(np.rint(np.clip(noise, 0, 1) * 65535).astype(np.uint16))
    bands = [features[f"band {row:02d}"] for row in range(4, 28)]
    assert np.mean(bands) == pytest.approx(np.log10(0.1**2), abs=0.1)
    assert features["spread"] == pytest.approx(0.1, rel=0.05) and features["percentile 50"] == pytest.approx(
        0.5, abs=0.01
    )


def test_the_format_of_a_text_is_apart_from_its_content() -> None:
    plain = text_encoding("Clear lungs. No effusion.")["text format"]
    assert not any(plain.values())
    other = text_encoding("CLEAR LUNGS ; no  effusion").get("text format", {})
    assert other["doubled or stray spaces"] == 2 and other["cut short"] == 1
    assert text_encoding("CLEAR LUNGS.")["text format"]["all upper or lower"] == 1
    assert text_encoding("Größe.")["text format"]["not ASCII"] == 2
    content = text_appearance("Clear lungs. No effusion.")
    assert (content["words"], content["lines"], content["words a sentence"]) == (4, 0, 2)
    assert sum(value for name, value in content.items() if name.startswith("threes")) == pytest.approx(1)


def test_names_and_files_are_numbers() -> None:
    features = name_features("0a3f", "file name")
    assert features["name", "last letter of file name"] == 15 and features["name", "digits in file name"] == 2
    assert name_features("0b", "x")["name", "x as a number"] < name_features("10", "x")["name", "x as a number"]
    assert file_features(12, 3.5) == {("payload size", "bytes"): 12.0, ("mtime", "file time"): 3.5}


def test_a_payload_is_measured_by_its_kind() -> None:
    features = PayloadFeatures(BlindingConfig())
    image = dithered()
    fields = {"kind": "image", "width": SIDE, "height": SIDE, "bits": 16}
    features.add("reader-01", Payload("a", fields, image.tobytes()))
    features.add("reader-01", Payload("b", {"kind": "text"}, b"Clear lungs.   "))
    assert features.kinds == {("reader-01", "a"): "image", ("reader-01", "b"): "text"}
    assert features.encoding["reader-01", "a"]["resolution", "side"] == SIDE
    assert features.encoding["reader-01", "b"]["text format", "cut short"] == 0  # the padding is off
