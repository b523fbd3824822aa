from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medcodi.errors import DataError
from medcodi.randomness import numpy_generator
from medcodi.study import Study
from medcodi.trust.privacy.attacks.reidentification import (
    SPACE,
    PatientFilms,
    measure_ruler,
    reidentification_figures,
    train_network,
)
from medcodi.trust.privacy.config import ReidentificationConfig

DATA: Any = {"source": "phantom", "num_studies": 8, "version": 2, "studies_per_patient": 2}
CONFIG = ReidentificationConfig(train=DATA, validation=DATA, num_steps=12, batch_size=12)


class Visits:
    """Two films of each patient: blobs at places of the patient's own, shifted and with noise."""

    name, fingerprint, image_size = "visits", "visits", 32

    def __init__(self, first: int, num: int, visits: int = 2) -> None:
        self.keys = [(first + index // visits, index % visits) for index in range(num * visits)]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Study:
        patient, visit = self.keys[index]
        film = np.zeros((32, 32), np.float32)
        for down, across in numpy_generator("places", patient).integers(4, 24, (4, 2)):
            film[down : down + 5, across : across + 5] += 0.5
        rng = numpy_generator("visit", patient, visit)
        film = np.roll(film, rng.integers(-1, 2, 2), (0, 1)) + 0.05 * rng.random((32, 32))
        contents = {"frontal": np.clip(film, 0, 1).astype(np.float32)}
        return Study(study_id=f"v{patient}-{visit}", patient_id=f"v{patient}", contents=contents)


def test_a_network_tells_patients_apart_and_its_ruler_says_how_well() -> None:
    network = train_network(CONFIG, PatientFilms.of(Visits(0, 48), set()))
    ruler = measure_ruler(network, PatientFilms.of(Visits(1000, 40), set()), 0)
    assert ruler["frontal"]["auroc"]["value"] > 0.9 and ruler["frontal"]["pairs"] == 40
    assert ruler["frontal"]["matched_real_pairs"] > 0.2
    again = train_network(CONFIG, PatientFilms.of(Visits(0, 48), set()))
    assert all(
        torch.equal(first, second) for first, second in zip(network.parameters(), again.parameters(), strict=True)
    )


def test_patients_who_are_audited_and_single_studies_are_refused() -> None:
    with pytest.raises(DataError, match="1 patients of visits are audited: v3"):
        PatientFilms.of(Visits(0, 10), {"v3"})
    with pytest.raises(DataError, match="fewer than 8 patients with several studies"):
        PatientFilms.of(Visits(0, 20, visits=1), set())


def test_matches_are_counted_only_by_a_ruler_that_measures() -> None:
    labels, patients = np.repeat([1, 0], 20), [f"p{row}" for row in range(40)]
    own = np.where(labels == 1, 0.1, 0.9)
    measured: Any = {("report->frontal", "frontal", SPACE): {"own": own}}
    ruler = {"frontal": {"auroc": {"value": 0.97, "low": 0.9, "high": 1.0}, "distance": 0.3}}
    figures = reidentification_figures(measured, ruler, labels, patients, 100, 0)
    assert figures["rows"][0]["excess"]["value"] == 1.0
    blunt = {"frontal": {"auroc": {"value": 0.8, "low": 0.7, "high": 0.9}, "distance": 0.3}}
    left_out = reidentification_figures(measured, blunt, labels, patients, 100, 0)
    assert not left_out["rows"] and "AUROC of 0.80 on frontal, must have 0.9" in left_out["left_out"][0]["reason"]
    none = reidentification_figures(measured, None, labels, patients, 100, 0)
    assert "no such network was trained" in none["left_out"][0]["reason"]
