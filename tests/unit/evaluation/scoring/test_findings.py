"""Findings: which count, sides, floors of areas, and annotators that recognise no sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medcodi.evaluation.annotations import AnnotationTable, StudyTable, side_codes
from medcodi.evaluation.scoring.case import NUM_DERANGEMENTS, Case, ScoredStudies, derangements
from medcodi.evaluation.scoring.direction import score_severity, urgency
from medcodi.evaluation.scoring.findings import SIDED, counted_findings, sided
from medcodi.evaluation.scoring.statistics import AreaStatistic
from medcodi.evaluation.studies import HeldOutStudies
from medcodi.study import CHEXPERT_LABELS, Finding
from tests.unit.evaluation.scoring.conftest import CONFIG, Toy


def test_a_finding_counts_with_enough_positives_and_a_negative() -> None:
    truth = np.array([[1, 1, 0, 1], [1, 1, np.nan, 1], [0, 1, 1, 0]], dtype=float)
    every = np.ones(4, bool)
    assert counted_findings(truth, every, 2) == [0, 3]  # the second has no negative, the third one positive
    assert counted_findings(truth, np.array([False, True, True, True]), 1) == [2, 3]


def test_sides_are_known_where_the_label_is_present_with_a_side() -> None:
    studies = [
        (Finding(label="Pneumothorax", side="left"),),
        (Finding(label="Pneumothorax", side="bilateral"),),
        (Finding(label="Pneumothorax"),),
        (),
    ]
    labels = np.zeros((4, 14))
    labels[:3, CHEXPERT_LABELS.index("Pneumothorax")] = 1
    columns = [SIDED.index(f"Pneumothorax/{side}") for side in ("left", "right")]
    expected = [[1, 0], [1, 1], [np.nan, np.nan], [0, 0]]
    np.testing.assert_array_equal(sided(side_codes(studies), labels)[:, columns], expected)


def test_an_annotator_that_recognises_no_sides_cannot_judge_a_generators(toy: Toy, monkeypatch) -> None:
    monkeypatch.setattr("medcodi.evaluation.scoring.findings.LEAST_SIDES", 1.01)
    scores = toy.score_moved("report->frontal", 0)["targets"]["frontal"]
    assert "side_accuracy" not in scores["metrics"]
    reason = next(entry["reason"] for entry in scores["left_out"] if entry["metric"] == "side_accuracy")
    assert "recognises no sides here: in real targets it has" in reason


def test_the_floor_of_areas_is_the_mean_over_all_derangements(toy: Toy) -> None:
    scores = toy.score("report->frontal", toy.held_out.values).targets["frontal"]
    areas, ones = scores.statistics["finding_auroc"], np.ones((1, len(toy.held_out)))
    assert isinstance(areas, AreaStatistic)
    floors = [
        AreaStatistic(areas.truth[moved], areas.scores, "auroc", areas.names).statistic()(ones)[0]
        for moved in derangements(toy.held_out.patients, NUM_DERANGEMENTS, CONFIG.seed)
    ]
    assert scores.metrics["finding_auroc"]["floor"] == pytest.approx(np.mean(floors)) != pytest.approx(floors[0])


def test_what_is_shown_and_was_not_mentioned_is_a_false_positive(toy: Toy, toy_dataset) -> None:
    """A generator that shows every finding everywhere must lose against one that shows the right ones."""
    dataset = toy_dataset(40, seed=5)
    everything = next(one for one in dataset.studies if min(one.labels["Cardiomegaly"], one.labels["Pleural Effusion"]))
    dataset.studies = [
        replace(study, labels={name: value for name, value in study.labels.items() if value})
        for study in dataset.studies
    ]

    def primary(unmentioned: str) -> float | None:
        held_out = HeldOutStudies(dataset, unmentioned=unmentioned)
        scores = replace(toy, held_out=held_out).score(
            "report->frontal", lambda target, rows: [everything.contents[target]] * len(rows)
        )
        return scores.primary["model"] and scores.primary["model"]["value"]

    absent = primary("absent")
    assert primary("unknown") is None  # without a negative nothing counts
    assert absent is not None and absent < 0.8


def test_a_missed_pneumothorax_weighs_four_times_an_enlarged_heart() -> None:
    """The example of docs/METRICS.md by hand: 2 (1 + 2) / (2 (1 + 2) + 4 + 1), of patients a and b."""
    weight_of = dict(zip(CHEXPERT_LABELS, urgency(), strict=True))
    assert (weight_of["Pneumothorax"], weight_of["Pleural Effusion"], weight_of["No Finding"]) == (4, 2, 0)

    def table(*studies: set[str]) -> np.ndarray:
        return np.array([[float(label in study) for label in CHEXPERT_LABELS] for study in studies], np.float32)

    truth = table({"Pneumothorax", "Cardiomegaly"}, {"Pleural Effusion", "No Finding"})
    made = table({"Cardiomegaly"}, {"Pleural Effusion", "Atelectasis"})
    known = StudyTable(["1", "2"], ["a", "b"], [0, 1], [frozenset({"report"})] * 2, truth, np.zeros((2, 14), np.int8))
    generated, real = (AnnotationTable("report", [0, 1], arrays={"labels": labels}) for labels in (made, truth))
    case = Case("report", ScoredStudies(known, [0, 1], CONFIG, 32), generated, real)
    score_severity(case)
    figure = case.scores.metrics["finding_severity_f1"]
    assert figure["value"] == pytest.approx(6 / 11) and figure["ceiling"] == 1
    assert figure["floor"] == pytest.approx(0)  # of the other patient nothing is right
    # A finding whose truth is unknown counts neither way; without any positive there is no figure.
    truth[:] = np.nan
    case = Case("report", ScoredStudies(known, [0, 1], CONFIG, 32), generated, real)
    score_severity(case)
    assert not case.scores.metrics and case.scores.left_out[0]["metric"] == "finding_severity_f1"
