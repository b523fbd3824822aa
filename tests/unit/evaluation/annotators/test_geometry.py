"""The geometry that both views of a phantom share: the true body, fit, measure, files, agreement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcodi.data.sources.phantom import line_integrals, phantom_body, phantom_findings
from medcodi.errors import CheckpointError, DataError
from medcodi.evaluation.annotators.geometry import (
    ATTRIBUTES,
    GeometryAnnotator,
    fit_geometry,
    geometry_agreement,
    geometry_truth,
    small_images,
)
from medcodi.randomness import numpy_generator
from medcodi.study import Study


def test_the_body_is_that_of_the_films() -> None:
    for index in (0, 3):
        drawn, _ = line_integrals(phantom_findings(0, index), numpy_generator("phantom body", 0, index), 32)
        assert phantom_body(0, index) == drawn


class Bodies:
    """Studies whose views show the phantom's true attributes as brightness of bands: what an annotator can learn in seconds."""

    def __init__(self, num: int, first: int = 0) -> None:
        self.first, self.num, self.image_size, self.name = first, num, 48, "bodies"
        self.fingerprint = f"bodies-{first}-{num}"

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Study:
        index += self.first
        metadata = {"source": "phantom", "seed": 0, "index": index}
        truth = np.array([attribute(phantom_body(0, index)) for attribute in ATTRIBUTES.values()])
        grain = numpy_generator("grain", index)
        image = 0.02 * grain.random((48, 48))
        for band, value in enumerate(truth):
            image[8 * band : 8 * band + 8] += 0.5 + 0.4 * value
        blind = 0.5 + 0.02 * grain.random((48, 48))
        contents = {"frontal": image.astype(np.float32), "lateral": (image[::-1] * 0.9).astype(np.float32).copy()}
        if self.name == "blind":
            contents["lateral"] = blind.astype(np.float32)
        return Study(study_id=str(index), patient_id=str(index), contents=contents, metadata=metadata)


def test_an_annotator_is_fitted_measured_saved_and_agrees_on_one_body(tmp_path: Path) -> None:
    annotator = fit_geometry(Bodies(120), Bodies(40, first=500), ("frontal", "lateral"))
    assert annotator.judged("frontal", "lateral") == tuple(range(len(ATTRIBUTES)))
    studies = [Bodies(30, first=900)[index] for index in range(30)]
    first, second = (
        annotator.annotate([study.images[name] for study in studies], name) for name in ("frontal", "lateral")
    )
    ones = np.ones((1, 30))
    assert (
        geometry_agreement(first, second)(ones)[0]
        > 0.9
        > 0.5
        > geometry_agreement(first, np.roll(second, 1, 0))(ones)[0]
    )
    annotator.save(tmp_path)
    again = GeometryAnnotator.load(tmp_path)
    np.testing.assert_allclose(again.annotate([studies[0].images["frontal"]], "frontal"), first[:1], atol=1e-5)
    assert (
        again.identity("frontal") == GeometryAnnotator.load(tmp_path).identity("frontal") != again.identity("lateral")
    )
    assert again.reads("lateral") and not again.reads("report") and again.name == "geometry"
    assert again.attributes == annotator.attributes and again.card["num_fitted"] == 120
    (tmp_path / "geometry_reader.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        GeometryAnnotator.load(tmp_path)
    with pytest.raises(CheckpointError, match="no geometry annotator"):
        GeometryAnnotator.load(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot read 'report'"):
        annotator.annotate([], "report")


def test_attributes_that_one_view_does_not_show_do_not_count() -> None:
    train, held = Bodies(60), Bodies(30, first=500)
    train.name = held.name = "blind"
    assert fit_geometry(train, held, ("frontal", "lateral")).judged("frontal", "lateral") == ()


def test_real_studies_have_no_geometry() -> None:
    assert geometry_truth(Study(study_id="a", patient_id="b")) is None
    with pytest.raises(DataError, match="10 studies to fit"):
        fit_geometry(Bodies(10), Bodies(30), ("frontal",))


def test_small_images_are_antialiased_means() -> None:
    """48 pixels a side are halved: a checkerboard becomes gray, a constant stays."""
    board = np.indices((48, 48)).sum(0) % 2
    rows = small_images([board.astype(np.float32), np.full((96, 96), 0.25, np.float32)])
    assert rows.shape == (2, 24 * 24)
    np.testing.assert_allclose(rows[1], 0.25, rtol=1e-6)
    np.testing.assert_allclose(rows[0].reshape(24, 24)[1:-1, 1:-1], 0.5, atol=1e-6)


def test_agreement_is_the_mean_correlation() -> None:
    """Column 0 agrees (r = 1), column 1 is reversed (r = -1): by hand 0; the second alone -1."""
    first = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    second = first * [1, -1]
    ones = np.ones((1, 3))
    assert geometry_agreement(first, second)(ones)[0] == pytest.approx(0)
    assert geometry_agreement(first[:, 1:], second[:, 1:])(ones)[0] == pytest.approx(-1)
    with pytest.raises(DataError, match=r"\[N, A\] both"):
        geometry_agreement(first, second[:2])
