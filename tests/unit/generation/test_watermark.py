"""The watermark: exact scores without it, found after the changes that films go through, and off unless asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medcodi.data.images import to_uint8
from medcodi.data.sources.phantom import phantom_study
from medcodi.errors import PromptError
from medcodi.generation.pipeline import generate, generate_batch
from medcodi.generation.watermark import P_VALUE, detect, embed, embed_contents, pattern, placements, score
from medcodi.model import MedCoDi, tiny_model
from medcodi.model.generation_config import GenerationConfig

Film = np.ndarray
# Of the key that ships: films that are marked today must be found for ever.
PINNED = [-1.201081 + 0.225506j, 1.382236 - 0.055899j, 1.49445 + 0.361786j]
NUM_COEFFICIENTS = 1074


@pytest.fixture(scope="module")
def films() -> list[Film]:
    """Both films of two phantoms, ``[128, 128]``."""
    return [np.asarray(film) for index in (0, 1) for film in phantom_study(21, index, 128).images.values()]


@pytest.fixture(scope="module")
def marked(films: list[Film]) -> list[Film]:
    return [embed(film) for film in films]


def saved(film: Film, format: str = "PNG", size: tuple[int, int] | None = None, **options: int) -> Film:
    """A film after it was written, with 8 bits, and read."""
    file, picture = io.BytesIO(), Image.fromarray(to_uint8(film))
    (picture if size is None else picture.resize(size, Image.Resampling.BILINEAR)).save(file, format, **options)
    return np.asarray(Image.open(file), np.float32) / 255


CHANGES = {
    "8 bits": saved,
    "JPEG": lambda film: saved(film, "JPEG", quality=50),
    "half": lambda film: saved(film, size=(64, 64)),
    "double": lambda film: saved(film, size=(256, 256)),
    "cropped": lambda film: saved(film[10:125, 3:118]),
    "one side": lambda film: saved(film[:, 20:123]),
    "cropped and resized": lambda film: saved(film[10:125, 3:118], size=(200, 200)),
    "window": lambda film: saved((film - 0.5) * 1.25 + 0.5),
    "level": lambda film: saved(film - 0.2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_mark_is_found_after_a_change_that_alone_is_none(films, marked, change) -> None:
    assert all(detect(change(film)).p_value < P_VALUE for film in marked)
    assert all(detect(change(film)).p_value > 1e-3 for film in films)


def test_without_a_mark_scores_are_standard_normal_over_keys_whatever_the_film_is(films) -> None:
    stripes = np.tile(np.sin(np.arange(128) * 0.7) * 0.5 + 0.5, (128, 1))
    for film in (films[0], stripes):
        places = placements(film)
        results = [score(places, pattern(f"key {number}")) for number in range(400)]
        scores = np.array([result.score for result in results])
        assert abs(scores.mean()) < 0.2 and abs(scores.std() - 1) < 0.12  # four deviations of 400 draws
        # The union bound keeps the share of small p-values below their size.
        assert np.mean([result.p_value < 0.05 for result in results]) < 0.05 + 4 * (0.05 / 400) ** 0.5


def test_another_key_is_not_found_and_the_key_that_ships_stays(marked) -> None:
    assert all(detect(film, "another").p_value > 1e-3 for film in marked)
    values = pattern()
    assert np.round(values[30, 12:15], 6).tolist() == PINNED and np.count_nonzero(values) == NUM_COEFFICIENTS


def test_a_marked_film_looks_the_same(films, marked) -> None:
    for film, other in zip(films, marked, strict=True):
        assert other.dtype == np.float32 and other.min() >= 0 and other.max() <= 1
        assert -10 * np.log10(np.mean((film - other) ** 2)) > 38
        assert np.array_equal(other[film == 0], film[film == 0]) and np.array_equal(embed(film), other)
    assert embed(np.full((64, 64), 0.5, np.float32)).std() > 0  # the smallest film


def test_a_film_of_one_value_and_a_narrow_one_hold_nothing() -> None:
    assert detect(np.zeros((96, 96))) == (1.0, 0.0)
    narrow = detect(np.random.default_rng(0).random((128, 60)))
    assert narrow.p_value == 1.0 and np.isnan(narrow.score) and not narrow.is_marked


@pytest.fixture(scope="module")
def model() -> MedCoDi:
    return tiny_model(seed=0, image_size=64).eval()


def test_a_request_marks_its_films_and_nothing_else(model) -> None:
    config, targets = GenerationConfig(num_inference_steps=2), ("frontal", "lateral", "report")
    plain = generate_batch(model, [{}], targets, [3], config)[0]
    out = generate({}, targets, model=model, num_inference_steps=2, seed=3, watermark=True)
    contents = out.samples[0].contents
    assert contents["report"] == plain["report"] and out.provenance["settings"]["watermark"] is True
    for name in ("frontal", "lateral"):
        assert np.array_equal(contents[name], embed_contents(plain)[name])
        assert not np.array_equal(contents[name], plain[name])
    assert "watermark" not in generate({}, "report", model=model, num_inference_steps=2).provenance["settings"]


def test_films_that_are_too_small_are_refused(tiny_model) -> None:
    with pytest.raises(PromptError, match=r"films of 32 pixels\. Expected films of at least 64"):
        generate({}, "frontal", model=tiny_model, watermark=True)
