"""Items and orders: controls, balance, never one patient twice in a row."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from medcodi.config import from_dict
from medcodi.errors import DataError
from medcodi.turing.bundle.trials import reader_order, reader_trials
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.generated_arm import open_generated
from medcodi.turing.design.items import GENERATED, MISMATCHED, PAIR, REAL, ReaderItem, draw_items
from medcodi.turing.design.real_arm import open_real


@pytest.fixture(scope="module")
def items(small_study: ReaderStudyConfig, generated_folder: Path) -> list[ReaderItem]:
    made = open_generated(str(generated_folder), small_study.sampling, 0)
    return draw_items(small_study, open_real("phantom", num_phantoms=22, image_size=32), made)


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


def test_orders_hold_their_promises(items: list[ReaderItem], small_study: ReaderStudyConfig) -> None:
    orders = [reader_trials(small_study, items, reader, "salt") for reader in range(3)]
    for trials in orders:
        shown = [trial.item for trial in trials]
        assert sorted(item.name for item in shown) == sorted(item.name for item in items)
        assert all(not set(a.patients) & set(b.patients) for a, b in pairwise(shown))
        assert [item.task for item in shown] == sorted(
            [item.task for item in shown], key=[t.id for t in small_study.blocks].index
        )
        for task in small_study.tasks:
            flags = [item.practice for item in shown if item.task == task.id]
            assert flags == sorted(flags, reverse=True)
        place = {item.name: number for number, item in enumerate(shown)}
        gaps = [place[item.name] - place[item.repeat_of] for item in shown if item.repeat_of]
        assert min(gaps) >= 5  # after their originals, and well apart
        arms = [item.arm == GENERATED for item in shown if item.task == "frontal" and not item.practice]
        assert abs(np.flatnonzero(arms).mean() / (len(arms) - 1) - 0.5) < 0.15
    assert [t.item.name for t in orders[0]] != [t.item.name for t in orders[1]]
    ids = [panel.payload for trials in orders for trial in trials for panel in trial.panels]
    assert len(set(ids)) == len(ids)


def test_the_real_one_of_a_pair_stands_left_as_often_as_right(
    items: list[ReaderItem], small_study: ReaderStudyConfig
) -> None:
    for reader in range(3):
        pairs = [trial for trial in reader_trials(small_study, items, reader, "salt") if trial.item.arm == PAIR]
        assert Counter(trial.truth["real"] for trial in pairs) == {"A": 2, "B": 2}
        for trial in pairs:
            origin = {panel.slot: panel.content.origin for panel in trial.panels}
            assert origin[trial.truth["real"]] == REAL and sorted(origin.values()) == [GENERATED, REAL]


def test_another_salt_is_another_order(items: list[ReaderItem], small_study: ReaderStudyConfig) -> None:
    names = [[trial.item.name for trial in reader_trials(small_study, items, 0, salt)] for salt in ("a", "b", "a")]
    assert names[0] == names[2] != names[1]


def test_one_patient_only_cannot_be_ordered() -> None:
    items = [ReaderItem(name=f"i{n}", task="t", arm=REAL, case=f"c{n}", patients=("p",), sides=((),)) for n in range(3)]
    with pytest.raises(DataError, match="twice in a row"):
        reader_order([items], 0, 1, "k")


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
