"""What the loop carries over to another number of ranks."""

from __future__ import annotations

import pytest

from medcodi.training.monitoring.metrics import means_for_ranks

TWO = [{"loss": [2.0, 2.0], "grad_norm": [6.0, 2.0]}, {"loss": [4.0, 2.0], "grad_norm": [6.0, 2.0], "rare": [1.0, 1.0]}]


def test_the_same_ranks_take_their_own() -> None:
    assert means_for_ranks(TWO, 2, 1.0) is TWO


@pytest.mark.parametrize(
    ("micro", "loss"), [(1.0, [6.0, 4.0]), (0.5, [3.0, 2.0])]
)  # one rank takes two micro-batches, or one
def test_one_rank_takes_all_weighed_as_its_own(micro: float, loss: list[float]) -> None:
    (merged,) = means_for_ranks(TWO, 1, micro)
    assert merged["loss"] == loss and merged["grad_norm"] == [6.0, 2.0] and merged["rare"] == [micro, micro]


def test_more_ranks_have_the_first_take_all() -> None:
    first, *others = means_for_ranks(TWO, 4, 2.0)
    assert first["loss"] == [12.0, 8.0] and first["grad_norm"] == [24.0, 8.0] and others == [{}, {}, {}]
