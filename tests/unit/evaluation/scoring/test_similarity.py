"""Likeness and diversity, scores of reports by other packages, and flags of odd contents."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.data.reports import is_language
from medcodi.evaluation.annotations import AnnotationTable
from medcodi.evaluation.scoring.case import Case, ScoredStudies
from medcodi.evaluation.scoring.similarity import (
    pairs_are_scored,
    repeated,
    score_diversity,
    score_texts,
)
from medcodi.evaluation.studies import Value
from tests.unit.evaluation.scoring.conftest import CONFIG, Toy, study_table


def test_pairs_need_images_studies_and_a_window() -> None:
    assert pairs_are_scored("frontal", 8, 11) and not pairs_are_scored("report", 8, 11)
    assert not pairs_are_scored("frontal", 7, 11) and not pairs_are_scored("frontal", 8, 10)


def test_the_second_of_two_equal_contents_is_repeated() -> None:
    assert repeated(["a", "b", "a", "a"]).tolist() == [False, False, True, True]


def test_odd_contents_are_flagged_and_scored_as_they_are(toy_with_texts: Toy) -> None:
    def odd(target: str, rows: list[int]) -> list[Value]:
        values = toy_with_texts.held_out.values(target, rows)
        if isinstance(values[0], str):
            values[5] = "eeeee"
            values[3], values[4] = "", "El corazón y los pulmones son normales sin derrame pleural ni neumotórax."
        else:
            values[3], values[4] = np.zeros_like(values[3]), np.full_like(values[4], 0.7)
        return values

    images = toy_with_texts.score("report->frontal", odd).targets["frontal"]
    assert images.flags["constant"] == {"count": 2, "studies": ["toy3", "toy4"]}
    assert images.flags["black"] == {"count": 1, "studies": ["toy3"]}
    reports = toy_with_texts.score("frontal->report", odd).targets["report"]
    assert reports.flags["empty"] == {"count": 1, "studies": ["toy3"]}
    assert reports.flags["not English"]["studies"] == ["toy4"]
    assert reports.flags["no language"] == {"count": 1, "studies": ["toy5"]}
    assert any("1 of 60 reports are empty" in note for note in reports.notes)


def test_a_text_is_language_if_real_reports_have_some_of_its_words() -> None:
    vocabulary = {"heart", "size", "is", "normal", "no", "effusion"}
    said = ("Heart size is normal.", "Cardiomegaly, no infiltrate seen", "normal", "No no no effusion!")
    assert all(is_language(text, vocabulary) for text in said)
    noise = ("eeeee", "e e e e e e e e", "123 456", "...", "asdf qwer zxcv hjkl", "normal " * 12)
    assert not any(is_language(text, vocabulary) for text in noise)


def case(toy: Toy, table: AnnotationTable, image_size: int = 32) -> Case:
    studies = ScoredStudies(study_table(toy.held_out), list(range(len(table))), CONFIG, image_size)
    return Case(table.modality, studies, table, table, toy.scorer)


def test_scores_of_reports_by_other_packages_are_means_of_their_annotations(toy_with_texts: Toy) -> None:
    held_out = toy_with_texts.held_out
    table = toy_with_texts.annotate("report", held_out.values("report", list(range(len(held_out)))))
    values = np.linspace(0, 1, len(held_out))
    table.arrays["report/radgraph_simple"], table.arrays["report/radgraph_simple_floor"] = values, values / 2
    own = case(toy_with_texts, table)
    score_texts(own)
    figure = own.scores.metrics["radgraph_simple"]
    assert figure["value"] == pytest.approx(0.5) and figure["floor"] == pytest.approx(0.25)
    assert own.scores.metrics["bleu_4"]["value"] == pytest.approx(1)  # against itself


def test_the_share_of_reports_that_cite_a_prior_stands_beside_that_of_real_ones(toy_with_texts: Toy) -> None:
    def citing(target: str, rows: list[int]) -> list[Value]:
        values = toy_with_texts.held_out.values(target, rows)
        return ["Stable small effusion, unchanged from the prior study."] * 15 + values[15:]

    figure = toy_with_texts.score("frontal->report", citing).targets["report"].metrics["prior_cited"]
    assert figure["value"] == pytest.approx(15 / 60) and figure["ceiling"] == 0
    assert figure["low"] < 15 / 60 < figure["high"]


def test_small_images_and_few_studies_have_no_diversity(toy: Toy) -> None:
    images = toy.held_out.values("frontal", list(range(9)))
    small = case(toy, toy.annotate("frontal", images), image_size=8)
    few = case(toy, toy.annotate("frontal", images[:7]))
    for own, reason in ((small, "smaller than its window"), (few, "at least 8 studies; there are 7")):
        score_diversity(own)
        assert "ms_ssim" not in own.scores.metrics and reason in own.scores.left_out[0]["reason"]
