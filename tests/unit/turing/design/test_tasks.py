"""Kinds of task: every row is answerable, and what is disclosed comes late."""

from __future__ import annotations

import pytest

from medcodi.errors import ConfigError
from medcodi.turing.design.tasks import TASK_KINDS, task_kind


def test_a_kind_has_what_its_answer_needs() -> None:
    for kind in TASK_KINDS.values():
        assert bool(kind.choices) == (kind.answer == "choice")
        assert all(kind.labels) == (kind.answer == "rating" or kind.confidence)  # both ends of every scale
        assert kind.question.endswith("?") and kind.instructions.endswith(".")
        assert len(kind.sides) in (1, 2) and (len(kind.sides) == 1 or kind.choices == kind.sides)


def test_only_quality_ratings_come_before_disclosure() -> None:
    assert [name for name, kind in TASK_KINDS.items() if not kind.disclosed] == ["quality"]
    assert "generated" not in TASK_KINDS["quality"].question + TASK_KINDS["quality"].instructions


def test_an_unknown_kind_is_refused_with_the_nearest_one() -> None:
    assert task_kind("coherence").least_modalities == 2
    with pytest.raises(ConfigError, match="did you mean 'forced_choice'"):
        task_kind("forced_choise")
