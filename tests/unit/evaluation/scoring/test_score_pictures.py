"""Which studies are shown, and the notes on their contents."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.evaluation.annotations import AnnotationTable
from medcodi.evaluation.scoring.direction import DirectionScores
from medcodi.evaluation.scoring.figures import TargetScores
from medcodi.evaluation.scoring.metrics import PRIMARY
from medcodi.evaluation.scoring.score import content_note, shown_studies
from medcodi.evaluation.scoring.statistics import F1Statistic
from medcodi.metrics.findings import Confusion
from medcodi.study import CHEXPERT_LABELS, Direction


def scores(wrong: list[int]) -> DirectionScores:
    """A direction whose study ``i``, in row ``10 + i``, has ``wrong[i]`` wrong findings."""
    missed = np.array(wrong, float)[:, None]
    confusion = Confusion(np.zeros_like(missed), np.zeros_like(missed), missed)
    target = TargetScores(statistics={PRIMARY: F1Statistic((confusion,), "macro_f1", (("a",),))})
    return DirectionScores(Direction.parse("report->frontal"), [10 + i for i in range(len(wrong))], {"frontal": target})


def test_random_studies_come_first_and_the_worst_of_the_others_follow() -> None:
    wrong = [0, 3, 1, 0, 2, 0, 0, 0]
    shown = shown_studies(scores(wrong), seed=0, num=2)
    random = [row for title, row in shown if title == "random study"]
    assert len(random) == 2 and random == [row for _, row in shown_studies(scores(wrong[::-1]), 0, 2)][:2]
    rest = sorted((row for row in range(10, 18) if row not in random), key=lambda row: -wrong[row - 10])
    expected = [(f"worst study: {wrong[row - 10]} of its findings wrong", row) for row in rest[:2] if wrong[row - 10]]
    assert shown[2:] == expected
    assert len(shown_studies(scores([0] * 8), 0, 2)) == 2  # nothing is wrong, so nothing is worst


@pytest.mark.parametrize(
    ("found", "found_side", "true", "true_side", "expected"),
    [
        (1, 1, 1, 1, "right: Edema (left)"),
        (1, 1, 1, 2, "wrong side: Edema (left)"),
        (1, 3, 1, 0, "right: Edema (both sides)"),  # the true side is unknown
        (0, 0, 1, 2, "missed: Edema (right)"),
        (1, 0, 0, 0, "not true: Edema"),
        (1, 0, np.nan, 0, "nothing read"),  # the truth is unknown
        (np.nan, 0, 1, 0, "nothing read"),  # not annotated here
    ],
)
def test_a_note_compares_a_content_with_the_truth(found, found_side, true, true_side, expected) -> None:
    column = CHEXPERT_LABELS.index("Edema")
    labels, sides, truth, true_sides = (
        np.zeros((1, 14)),
        np.zeros((1, 14), np.int8),
        np.zeros(14),
        np.zeros(14, np.int8),
    )
    labels[0, column], sides[0, column], truth[column], true_sides[column] = found, found_side, true, true_side
    labels[0, CHEXPERT_LABELS.index("No Finding")] = 1  # "No Finding" is right or says nothing of its own
    table = AnnotationTable("frontal", [0], arrays={"labels": labels, "sides": sides})
    assert content_note(table, truth, true_sides) == expected
