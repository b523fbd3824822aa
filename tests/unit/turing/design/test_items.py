"""Items: counts, controls, repeats, truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.study import Direction
from medcodi.turing.design.config import ReaderStudyConfig, TaskConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.items import GENERATED, MISMATCHED, PAIR, REAL, ReaderItem, draw_items
from medcodi.turing.design.real_arm import RealArm, open_real


def test_counts_are_those_of_the_study(items: list[ReaderItem]) -> None:
    count = Counter((item.task, item.arm, item.practice, bool(item.repeat_of)) for item in items)
    assert count["frontal", REAL, False, False] == count["frontal", GENERATED, False, False] == 14
    assert count["frontal", REAL, True, False] == count["frontal", GENERATED, True, False] == 1
    assert sum(number for (task, _, _, again), number in count.items() if task == "frontal" and again) == 3
    assert count["pick", PAIR, False, False] == 4
    assert count["fit", MISMATCHED, False, False] == 3
    assert len({item.name for item in items}) == len(items)


def test_mismatched_items_show_two_patients_and_all_that_is_real(items: list[ReaderItem]) -> None:
    for item in (item for item in items if item.arm == MISMATCHED):
        assert len(item.patients) == 2
        assert [(one.origin, one.modality) for one in item.contents] == [(REAL, "frontal"), (REAL, "report")]
        assert item.contents[0].case == item.case != item.contents[1].case


class Maker:
    """A generated arm that makes everything from a real study."""

    name = "maker"

    def available(self, task: TaskConfig, real: RealArm) -> None:
        return None

    def direction(self, task: TaskConfig, case: str, real: RealArm) -> Direction:
        return Direction(tuple(task.prompts or ()), task.shown_generated)


@pytest.mark.parametrize("generated", [["report"], ["frontal"], None])
@pytest.mark.parametrize("num", [2, 4, 6])
def test_mismatched_contents_are_shown_as_often_as_the_others(generated: list[str] | None, num: int) -> None:
    """Where both arms show a real content, it is shown twice; then also in the controls."""
    prompts = {"report": ["frontal"], "frontal": ["report"]}.get((generated or ["both"])[0], ["lateral"])
    task = {"id": "f", "kind": "coherence", "modalities": ["frontal", "report"], "generated": generated}
    task |= {"prompts": prompts, "num_items": 4, "mismatched": num}
    study = from_dict(ReaderStudyConfig, {"name": "s", "title": "t", "tasks": [task]})
    items = draw_items(study, open_real("phantom", num_phantoms=4 + num + 1, image_size=32), Maker())
    times = Counter(content for item in items for content in item.contents)
    shown = {
        arm: {tuple(times[content] for content in item.contents) for item in items if item.arm == arm}
        for arm in (REAL, GENERATED, MISMATCHED)
    }
    both = {"report": (2, 1), "frontal": (1, 2)}.get((generated or ["both"])[0], (1, 1))
    assert shown == {arm: {both} for arm in shown}
    controls = [item for item in items if item.arm == MISMATCHED]
    assert len(controls) == num and all(len(item.patients) == 2 for item in controls)
    assert not {item.case for item in controls} & {item.case for item in items if item.arm != MISMATCHED}


def test_a_number_of_mismatched_items_that_would_tell_is_refused() -> None:
    task = {"id": "f", "kind": "coherence", "modalities": ["frontal", "report"], "generated": ["report"]}
    task |= {"prompts": ["frontal"], "num_items": 4, "mismatched": 3}
    study = from_dict(ReaderStudyConfig, {"name": "s", "title": "t", "tasks": [task]})
    with pytest.raises(DataError, match=r"3 mismatched items tell themselves.*multiple of 2.*mismatched: 4"):
        draw_items(study, open_real("phantom", num_phantoms=20, image_size=32), Maker())


def test_repeats_show_the_same_again_and_practice_is_of_other_cases(items: list[ReaderItem]) -> None:
    by_name = {item.name: item for item in items}
    for item in items:
        if item.repeat_of:
            assert item.sides == by_name[item.repeat_of].sides and item.arm == by_name[item.repeat_of].arm
    practice = {item.case for item in items if item.task == "frontal" and item.practice}
    assert not practice & {item.case for item in items if item.task == "frontal" and not item.practice}


def test_truth_is_known_where_something_is_right(items: list[ReaderItem]) -> None:
    for item in items:
        if item.task == "frontal":
            assert item.truth == {"choice": item.arm}
        if item.task == "find" and item.arm == REAL:
            assert set(item.truth["findings"].values()) <= {"present", "absent"} and len(item.truth["findings"]) == 5


def test_fewer_than_needed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("study_id,report\na,Clear.\nb,Edema.\n")
    for num_items, named in (
        (5, "needs 5 real studies with report; phantom/test has 3"),
        (3, "needs 3 generated .* has 2 left"),
    ):
        task = {"id": "f", "kind": "rating", "modalities": ["report"], "num_items": num_items}
        study = from_dict(ReaderStudyConfig, {"name": "s", "title": "t", "tasks": [task]})
        with pytest.raises(DataError, match=named):
            draw_items(
                study,
                open_real("phantom", num_phantoms=3, image_size=32),
                open_generated(str(tmp_path), study.sampling, 0),
            )
