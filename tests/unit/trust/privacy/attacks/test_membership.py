from __future__ import annotations

import numpy as np

from medcodi.trust.privacy.attacks.membership import Losses, denoising_losses, membership_figures
from medcodi.trust.privacy.measure import Subject


def test_losses_are_those_of_the_denoiser_and_depend_on_the_study_alone(subject: Subject) -> None:
    arguments = (("frontal", "report"), (0.1, 0.4), 1, 0)
    together = denoising_losses(subject.model, subject.studies, [0, 5, 30], *arguments)
    assert together.shape == (3, 2, 2, 2) and np.isfinite(together).all() and (together > 0).all()
    alone = denoising_losses(subject.model, subject.studies, [5], *arguments)
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-3)
    assert not np.allclose(together[:, :, 0], together[:, :, 1])  # prompts change the losses


def test_calibration_takes_the_difficulty_out() -> None:
    rng = np.random.default_rng(0)
    num = 100
    labels, patients = np.repeat([1, 0], num), [f"p{row}" for row in range(2 * num)]
    difficulty = np.exp(rng.normal(size=(2 * num, 1, 1, 1)))  # varies far more than membership changes it
    noise = np.exp(0.02 * rng.normal(size=(2 * num, 1, 2, 3)))
    reference = np.broadcast_to(difficulty, (2 * num, 1, 2, 3)).astype(np.float32)
    model = (reference * noise * np.where(labels == 1, 0.97, 1.0)[:, None, None, None]).astype(np.float32)
    plain = membership_figures(Losses(["frontal"], [0.1, 0.2, 0.3], {"model": model}), labels, patients, 100, 0)
    both = Losses(["frontal"], [0.1, 0.2, 0.3], {"model": model, "reference": reference})
    figures = membership_figures(both, labels, patients, 100, 0)
    assert plain["main"]["attack"] == "loss" and plain["main"]["auroc"]["value"] < 0.6
    assert figures["main"]["attack"] == "reference" and figures["main"]["auroc"]["value"] > 0.9
    assert figures["p_value"] < 1e-9 < plain["p_value"]
    # What there are too few non-members for is left out by name.
    assert figures["main"]["true_alarms"] == {"0.1": figures["main"]["true_alarms"]["0.1"], "0.01": None, "0.001": None}
    assert any("10,000 non-members" in entry["reason"] for entry in figures["left_out"])
    assert any("reference" in entry["figure"] for entry in plain["left_out"])
