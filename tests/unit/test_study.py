from __future__ import annotations

import numpy as np
import pytest

from medcodi.errors import DataError, PromptError
from medcodi.study import CHEXPERT_LABELS, Direction, Study, all_directions

IMAGE = np.zeros((4, 4), dtype=np.float32)


def study(**changes: object) -> Study:
    return Study(**{"study_id": "s1", "patient_id": "p1", "contents": {"frontal": IMAGE, "report": "Clear."}} | changes)  # type: ignore[arg-type]


def test_contents_part_into_images_and_report() -> None:
    assert list(study().images) == ["frontal"]
    assert study().report == "Clear."
    assert study(contents={"frontal": IMAGE}).report is None


@pytest.mark.parametrize("contents", [{"frontal": "text"}, {"report": IMAGE}])
def test_a_value_of_the_wrong_kind_is_refused(contents: dict) -> None:
    with pytest.raises(DataError, match="study 's1'"):
        study(contents=contents)


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(PromptError, match="unknown modality 'ct'"):
        study(contents={"ct": IMAGE})


def test_an_unknown_label_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="Covid"):
        study(labels={"Covid": 1.0})


def test_chexpert_has_fourteen_labels() -> None:
    assert len(CHEXPERT_LABELS) == len(set(CHEXPERT_LABELS)) == 14


def test_three_modalities_have_twelve_directions_single_targets_first() -> None:
    directions = all_directions()
    assert len(directions) == len(set(directions)) == 12
    assert [len(direction.targets) for direction in directions] == [1] * 9 + [2] * 3
    assert all(direction.prompts and not set(direction.prompts) & set(direction.targets) for direction in directions)


def test_directions_of_a_part_of_the_table() -> None:
    assert [str(direction) for direction in all_directions(["report", "frontal"])] == [
        "report->frontal",
        "frontal->report",
    ]


@pytest.mark.parametrize(
    ("text", "prompts", "targets"),
    [
        ("frontal+report->lateral", ("frontal", "report"), ("lateral",)),
        ("report + frontal → lateral", ("frontal", "report"), ("lateral",)),
        ("->frontal", (), ("frontal",)),
    ],
)
def test_parse(text: str, prompts: tuple, targets: tuple) -> None:
    assert Direction.parse(text) == Direction(prompts, targets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frontal", "not a direction"),
        ("frontal->", "no targets"),
        ("frontal->frontal+report", "frontal is both prompt and target"),
        ("frontal->repport", "did you mean 'report'"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Direction.parse(text)
