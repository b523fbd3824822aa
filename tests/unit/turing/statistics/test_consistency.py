"""Repeated answers and learning, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medcodi.turing.power.simulation import SimulatedStudy
from medcodi.turing.statistics import (
    Cases,
    consistency,
)
from medcodi.turing.statistics.intervals import share_interval


def test_a_straight_line_of_learning_is_found() -> None:
    order = np.arange(20.0)[None]
    values = 0.3 + 0.4 * order / 19
    cases = Cases.of([str(i) for i in range(20)], ["real"] * 20)
    assert consistency.trend(values, order, cases).mean == pytest.approx(0.4)


def test_blocks_hold_every_answer_once(study: SimulatedStudy) -> None:
    answers = study.as_detection
    found = consistency.blocks(answers.correct, study.seconds, study.order.astype(float), study.cases)
    assert sum(block.accuracy.num for block in found) == answers.correct.size
    assert [block.first for block in found] == [1, 13, 25, 37, 49]


def test_a_reader_who_repeats_himself_has_kappa_one() -> None:
    first = np.tile([1.0, 2, 3, 4, 5], (2, 4))
    pairs = consistency.Repeats(
        readers=["a", "b"], first=first, second=first.copy(), case=[str(i) for i in range(20)], arm=["real"] * 20
    )
    found = consistency.pooled_repeats(pairs, ordered=True)
    assert found["kappa"].value == 1 and found["within_sd"] == 0 and found["same"].value == 1
    assert found["same"].low == pytest.approx(share_interval(1.0, 0.0, 19, 20)[0])


def test_within_reader_standard_deviation_by_hand() -> None:
    pairs = consistency.Repeats(
        readers=["a"], first=np.array([[1.0, 2, 3]]), second=np.array([[2.0, 2, 1]]), case=list("abc"), arm=["real"] * 3
    )
    found = consistency.pooled_repeats(pairs, ordered=True)
    assert found["within_sd"] == pytest.approx(np.sqrt((1 + 0 + 4) / 3 / 2))
    assert np.isnan(found["same"].low)  # three cases give no interval
