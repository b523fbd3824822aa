"""Scores of a direction: a perfect and a blind generator, floors, ceilings, derangements, what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.evaluation.classifier import FindingClassifier
from medcodi.evaluation.held_out import HeldOut, derangements
from medcodi.evaluation.scoring import ScoringOptions, score_direction
from medcodi.metrics import TextScorer
from medcodi.study import Direction

OPTIONS = ScoringOptions(bootstrap_samples=200, min_positives=3)


@pytest.fixture(scope="module")
def held(toy_classifier: FindingClassifier, toy_dataset) -> HeldOut:
    """60 toy studies."""
    return HeldOut(toy_dataset(60, seed=5), toy_classifier)


@pytest.fixture(scope="module")
def scorer():
    """Without METEOR, which is slow to start."""
    pytest.importorskip("pycocoevalcap")
    with TextScorer(meteor=False) as one:
        yield one


def score(direction: str, held: HeldOut, scorer: TextScorer, move: int) -> dict:
    """Score the real targets of the study ``move`` places on, as if they had been generated."""
    parsed, rows = Direction.parse(direction), list(range(len(held)))
    generated = {target: held.values(target, np.roll(rows, -move).tolist()) for target in parsed.targets}
    return score_direction(parsed, generated, held, rows, scorer, OPTIONS)


def test_a_generator_that_gives_back_the_truth_reaches_the_ceiling(held: HeldOut, scorer: TextScorer) -> None:
    scores = score("report->frontal+lateral", held, scorer, 0)
    primary = scores["primary"]
    assert primary["fraction_of_ceiling"] == 1.0 and primary["beats_shuffled"] is True
    assert primary["difference"]["low"] > 0.2
    metrics = scores["targets"]["frontal"]["metrics"]
    assert (
        metrics["finding_macro_f1"]["value"]
        == metrics["finding_macro_f1"]["ceiling"]
        > metrics["finding_macro_f1"]["floor"] + 0.2
    )
    assert metrics["side_accuracy"]["value"] > 0.95 > metrics["side_accuracy"]["floor"] + 0.2
    assert metrics["frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert metrics["frechet"]["ceiling"] == pytest.approx(metrics["frechet"]["halves"])


def test_a_generator_that_does_not_listen_stays_at_the_floor(held: HeldOut, scorer: TextScorer) -> None:
    scores = score("report->frontal", held, scorer, 7)
    assert scores["primary"]["beats_shuffled"] is False
    assert abs(scores["primary"]["difference"]["value"]) < 0.25
    assert scores["targets"]["frontal"]["metrics"]["frechet"]["value"] == pytest.approx(
        0, abs=1e-6
    )  # a set does not know its order


def test_reports(held: HeldOut, scorer: TextScorer) -> None:
    right, wrong = (score("frontal->report", held, scorer, move)["targets"]["report"] for move in (0, 7))
    assert right["metrics"]["finding_macro_f1"]["value"] == 1.0 and right["metrics"]["side_accuracy"]["value"] == 1.0
    assert right["metrics"]["bleu_4"]["value"] == pytest.approx(1.0) and right["metrics"]["bleu_4"]["floor"] < 0.95
    assert wrong["metrics"]["finding_macro_f1"]["value"] < 0.8 and wrong["metrics"]["bleu_4"]["value"] < 0.95
    assert right["metrics"]["meteor"]["value"] is None if "meteor" in right["metrics"] else True
    assert set(right["findings"]) == {"No Finding", "Cardiomegaly", "Pleural Effusion"}


def test_without_prompts_there_is_nothing_to_shuffle(held: HeldOut, scorer: TextScorer) -> None:
    assert score("->report", held, scorer, 3)["primary"]["beats_shuffled"] is None


def test_the_same_scores_twice(held: HeldOut, scorer: TextScorer) -> None:
    assert score("report->frontal", held, scorer, 1) == score("report->frontal", held, scorer, 1)


def test_too_few_studies_leave_metrics_out_and_say_so(
    toy_classifier: FindingClassifier, toy_dataset, scorer: TextScorer
) -> None:
    few = HeldOut(toy_dataset(8, seed=5), toy_classifier)
    told = score_direction(
        Direction.parse("report->frontal"),
        {"frontal": few.values("frontal", range(8))},
        few,
        range(8),
        scorer,
        ScoringOptions(bootstrap_samples=100, min_positives=50),
    )
    notes = " ".join(told["targets"]["frontal"]["notes"])
    assert (
        "needs at least 16 studies; there are 8" in notes
        and "no finding counts" in notes
        and "at least 50 of 8 studies" in notes
    )
    assert told["primary"]["model"] is None and "frechet" not in told["targets"]["frontal"]["metrics"]


def test_truth_comes_from_the_report_where_no_labels_are_told(toy_dataset) -> None:
    dataset = toy_dataset(6, seed=5)
    told = HeldOut(dataset, None).truth
    for study in dataset.studies:
        object.__setattr__(study, "labels", {})
    read = HeldOut(dataset, None)
    assert read.truth_source == "reference report"
    np.testing.assert_array_equal(read.truth, told)


@pytest.mark.parametrize("patients", [None, 7, 2])
def test_derangements_give_everybody_another_patient(patients: int | None) -> None:
    names = [str(index % patients if patients else index) for index in range(20)]
    found = derangements(names, 5, seed=0)
    assert 1 <= len(found) <= 5
    for permutation in found:
        assert sorted(permutation) == list(range(20))
        assert all(names[permutation[index]] != names[index] for index in range(20))
    assert len({tuple(permutation) for permutation in found}) == len(found)


def test_one_patient_with_most_studies_cannot_be_shuffled() -> None:
    with pytest.raises(DataError, match="one patient has 3 of 4 studies"):
        derangements(["a", "a", "a", "b"], 1, seed=0)


def test_images_without_a_classifier_are_refused(toy_dataset) -> None:
    with pytest.raises(DataError, match="without a finding classifier"):
        HeldOut(toy_dataset(4), None).reading("frontal", [0, 1])
