"""Coherence between its ceiling and its floor; the geometry that both films of a phantom share; readers of findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medcodi.data.sources.phantom import line_integrals, phantom_body, phantom_findings
from medcodi.errors import CheckpointError, ConfigError, DataError
from medcodi.evaluation.annotators.geometry import (
    ATTRIBUTES,
    GeometryReader,
    fit_geometry,
    geometry_agreement,
    geometry_truth,
)
from medcodi.evaluation.annotators.image_annotators import XRV_LABELS, CachedReader, ClassifierReader, load_image_reader
from medcodi.evaluation.coherence import PairReadings, coherence
from medcodi.evaluation.derangements import derangements
from medcodi.metrics.bootstrap import resampling_weights
from medcodi.randomness import numpy_generator
from medcodi.storage.atomic import sha256_file
from medcodi.study import CHEXPERT_LABELS, Study
from tests.unit.evaluation.annotators.extractor_files import xrv_file

GENERATOR = np.random.default_rng(0)
NUM = 80
PATIENTS = [f"p{index}" for index in range(NUM)]
MOVED = derangements(PATIENTS, 8, 0)
WEIGHTS = resampling_weights(PATIENTS, 200, 0)


def noisy(values: np.ndarray, noise: float) -> np.ndarray:
    return values + noise * GENERATOR.normal(size=values.shape)


def flipped(labels: np.ndarray, share: float) -> np.ndarray:
    return np.where(GENERATOR.random(labels.shape) < share, 1 - labels, labels)


def test_figures_stand_between_floor_and_ceiling() -> None:
    labels = (GENERATOR.random((NUM, 3)) < 0.4).astype(float)
    latents, bodies = GENERATOR.normal(size=(NUM, 8)), GENERATOR.normal(size=(NUM, 2))
    real = PairReadings((labels, flipped(labels, 0.02)), (latents, noisy(latents, 0.2)), (bodies, noisy(bodies, 0.1)))
    made = PairReadings((labels, flipped(labels, 0.2)), (latents, noisy(latents, 0.8)), (bodies, noisy(bodies, 0.8)))
    found = coherence(made, real, ["a", "b", "c"], MOVED, WEIGHTS)
    assert not found.notes
    for name, figure in found.figures.items():
        assert figure.ceiling is not None and figure.floor is not None
        low, high = sorted((figure.floor, figure.ceiling))
        assert low < figure.value.value < high, name
        assert figure.value.low <= figure.value.value <= figure.value.high
        assert (figure.ceiling < figure.floor) == figure.lower_is_better
    kappa = found.figures["finding_kappa"]
    assert abs(kappa.floor or 0) < 0.1 and kappa.share_of_ceiling == pytest.approx(
        kappa.value.value / (kappa.ceiling or 1)
    )
    assert found.per_finding["a"]["kappa"] < found.per_finding["a"]["ceiling_kappa"]  # type: ignore[operator]
    assert kappa.to_dict().keys() >= {"value", "low", "high", "ceiling", "floor", "share_of_ceiling"}


def test_what_was_not_read_is_said() -> None:
    labels = np.ones((NUM, 1))
    found = coherence(PairReadings(labels=(labels, labels)), None, ["a"], MOVED, WEIGHTS)
    assert set(found.figures) == {"finding_kappa", "finding_f1"} and len(found.notes) == 2
    assert found.figures["finding_f1"].ceiling is None and found.figures["finding_kappa"].to_dict()["value"] is None
    with pytest.raises(DataError, match="no derangement"):
        coherence(PairReadings(), None, [], [], WEIGHTS)


# ---- geometry ----------------------------------------------------------------------------------------------------------
def test_the_body_is_that_of_the_films() -> None:
    for index in (0, 3):
        drawn, _ = line_integrals(phantom_findings(0, index), numpy_generator("phantom body", 0, index), 32)
        assert phantom_body(0, index) == drawn


class Bodies:
    """Studies whose views show the phantom's true attributes as brightness of bands: what a reader can learn in seconds."""

    def __init__(self, num: int, first: int = 0) -> None:
        self.first, self.num, self.image_size, self.name = first, num, 48, "bodies"
        self.fingerprint = f"bodies-{first}-{num}"

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Study:
        index += self.first
        told = {"source": "phantom", "seed": 0, "index": index}
        truth = np.array([read(phantom_body(0, index)) for read in ATTRIBUTES.values()])
        grain = numpy_generator("grain", index)
        image = 0.02 * grain.random((48, 48))
        for band, value in enumerate(truth):
            image[8 * band : 8 * band + 8] += 0.5 + 0.4 * value
        blind = 0.5 + 0.02 * grain.random((48, 48))
        contents = {"frontal": image.astype(np.float32), "lateral": (image[::-1] * 0.9).astype(np.float32).copy()}
        if self.name == "blind":
            contents["lateral"] = blind.astype(np.float32)
        return Study(study_id=str(index), patient_id=str(index), contents=contents, metadata=told)


def test_a_reader_is_fitted_measured_saved_and_agrees_on_one_body(tmp_path: Path) -> None:
    reader = fit_geometry(Bodies(120), Bodies(40, first=500), ("frontal", "lateral"))
    assert reader.judged("frontal", "lateral") == tuple(range(len(ATTRIBUTES)))
    studies = [Bodies(30, first=900)[index] for index in range(30)]
    first, second = (reader.read([study.images[name] for study in studies], name) for name in ("frontal", "lateral"))
    ones = np.ones((1, 30))
    assert (
        geometry_agreement(first, second)(ones)[0]
        > 0.9
        > 0.5
        > geometry_agreement(first, np.roll(second, 1, 0))(ones)[0]
    )
    reader.save(tmp_path)
    again = GeometryReader.load(tmp_path)
    np.testing.assert_allclose(again.read([studies[0].images["frontal"]], "frontal"), first[:1], atol=1e-5)
    assert again.attributes == reader.attributes and again.card["num_fitted"] == 120
    (tmp_path / "geometry_reader.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        GeometryReader.load(tmp_path)
    with pytest.raises(CheckpointError, match="no geometry reader"):
        GeometryReader.load(tmp_path / "empty")
    with pytest.raises(DataError, match="cannot read 'report'"):
        reader.read([], "report")


def test_attributes_that_one_view_does_not_show_do_not_count() -> None:
    train, held = Bodies(60), Bodies(30, first=500)
    train.name = held.name = "blind"
    assert fit_geometry(train, held, ("frontal", "lateral")).judged("frontal", "lateral") == ()


def test_real_studies_have_no_geometry() -> None:
    assert geometry_truth(Study(study_id="a", patient_id="b")) is None
    with pytest.raises(DataError, match="10 studies to fit"):
        fit_geometry(Bodies(10), Bodies(30), ("frontal",))


# ---- readers of findings ------------------------------------------------------------------------------------------------
def test_xrv_reads_chexperts_labels_by_its_own_outputs(tmp_path: Path) -> None:
    path = xrv_file(tmp_path)
    reader = load_image_reader("xrv", weights=path, sha256=sha256_file(path))
    images = [GENERATOR.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(2)]
    told = reader.probabilities(images, "frontal")
    assert set(reader.targets) <= set(CHEXPERT_LABELS) and told.shape == (2, 12) and told.min() >= 0 and told.max() <= 1
    from medcodi.evaluation.annotators.extractor_networks import xrv_input

    network = reader.network  # type: ignore[attr-defined]
    with torch.inference_mode():
        outputs = network(torch.stack([xrv_input(image) for image in images])).numpy()
    for label, names in XRV_LABELS.items():
        expected = outputs[:, [network.targets.index(name) for name in names]].max(1)
        np.testing.assert_allclose(told[:, reader.targets.index(label)], expected, rtol=1e-5)
    assert reader.describe()["labels"]["Pleural Effusion"] == ["Effusion"]
    assert reader.judged("frontal") == reader.targets and reader.judged("lateral") == ()  # trained on frontals
    assert CachedReader(reader, tmp_path / "cache").modalities == ("frontal",)


def test_an_image_is_read_once_whatever_the_batch(tmp_path: Path) -> None:
    class Counting(ClassifierReader):
        read = 0

        def probabilities(self, images, modality: str) -> np.ndarray:
            self.read += len(images)
            return super().probabilities(images, modality)

    reader = Counting(load_image_reader("demo").classifier)  # type: ignore[attr-defined]
    images = [GENERATOR.random((32, 32)).astype(np.float32) for _ in range(4)]
    told = CachedReader(reader, tmp_path).probabilities([*images[:3], images[0]], "frontal")
    again = CachedReader(reader, tmp_path)  # another run
    found = again.probabilities(images[::-1], "frontal")
    assert reader.read == 4 and again.judged("frontal") == reader.judged("frontal")
    np.testing.assert_array_equal(found[1:], told[2::-1])
    np.testing.assert_array_equal(told[3], told[0])
    again.probabilities(images[:1], "lateral")  # another head
    assert reader.read == 5


def test_ours_reads_sides_and_unknown_readers_are_refused() -> None:
    reader = load_image_reader("demo")
    told = reader.probabilities([GENERATOR.random((32, 32)).astype(np.float32)], "frontal")
    assert told.shape == (1, len(reader.targets)) and "Pneumothorax/left" in reader.targets
    assert reader.thresholds("frontal").shape == (len(reader.targets),)
    with pytest.raises(ConfigError, match="did you mean 'xrv'"):
        load_image_reader("xrvv")
