from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import ConfigError
from medcodi.trust.privacy.attacks.canaries import PlantedStudies, canary_figures, content_of, draw_canaries
from medcodi.trust.privacy.config import CanariesConfig
from medcodi.trust.privacy.measure import Subject
from medcodi.trust.privacy.scores import Scores

CONFIG = CanariesConfig(repetitions=(0, 1, 4), of_each=1, candidates=15)


def test_canaries_are_planted_as_often_as_they_say(subject: Subject) -> None:
    dataset = PlantedStudies(subject.studies.studies._dataset.parts[0], CONFIG)  # type: ignore[attr-defined]
    planted = [dataset[index] for index in range(24, len(dataset))]
    assert len(planted) == 2 * (1 + 4) and len({study.study_id for study in planted}) == 10
    assert [sum(name in study.contents for study in planted) for name in ("frontal", "report")] == [5, 5]
    # The same codes again, by the seed alone; candidates differ from them.
    canary = next(canary for canary in draw_canaries(CONFIG) if canary.modality == "report")
    assert content_of(canary, CONFIG, 32) == content_of(canary, CONFIG, 32) != content_of(canary, CONFIG, 32, 1)
    film = draw_canaries(CONFIG)[0]
    codes = [content_of(film, CONFIG, 32, code) for code in range(16)]
    assert len({np.asarray(code).tobytes() for code in codes}) == 16


def test_exposure_by_hand() -> None:
    measured = {
        "rank": np.array([1, 16, 8, 1]),
        "repetitions": np.array([4, 0, 0, 4]),
        "modality": np.array(["report"] * 4),
        "candidates": np.array(15),
    }
    figures = canary_figures(measured)
    assert [(row["repetitions"], row["exposure"]) for row in figures["rows"]] == [(0, 0.5), (4, 4.0)]
    assert figures["exposure"]["value"] == 4.0 and figures["exposure"]["p_value"] < 0.05
    assert figures["trend"]["correlation"] > 0.8 and figures["highest"] == 4.0


def test_what_was_planted_in_the_overfitted_model_is_exposed_and_rises(scores: Scores) -> None:
    assert scores.canaries is not None
    figures = canary_figures(scores.canaries)
    assert figures["exposure"]["p_value"] < 1e-3 and figures["trend"]["p_value"] < 0.05
    never = [row["exposure"] for row in figures["rows"] if row["repetitions"] == 0]
    often = [row["exposure"] for row in figures["rows"] if row["repetitions"] == 4]
    assert np.mean(never) < 3 < np.mean(often)


def test_canaries_that_cannot_be_planted_are_refused() -> None:
    with pytest.raises(ConfigError, match="'record': a canary is a film or a report"):
        CanariesConfig(modalities=("record",))
