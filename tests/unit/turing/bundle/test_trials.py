"""Orders: balance, never one patient twice in a row."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from medcodi.errors import DataError
from medcodi.turing.bundle.trials import reader_order, reader_trials
from medcodi.turing.design.config import ReaderStudyConfig
from medcodi.turing.design.items import GENERATED, PAIR, REAL, ReaderItem


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
