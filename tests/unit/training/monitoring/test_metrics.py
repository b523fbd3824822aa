"""Named means: exact, over rows of all ranks, restored bit for bit, also on another number of ranks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from medcodi.distributed import Ranks
from medcodi.training.monitoring.metrics import NamedMeans, redistribute

TWO = [{"loss": [2.0, 2.0], "grad_norm": [6.0, 2.0]}, {"loss": [4.0, 2.0], "grad_norm": [6.0, 2.0], "rare": [1.0, 1.0]}]


class Beside(Ranks):
    """The first of two ranks; what the second one gathers is given."""

    second: Any = None

    def gather(self, value: Any) -> list[Any]:
        return [value, self.second]


def filled(ranks: Ranks, *steps: dict[str, Any]) -> NamedMeans:
    means = NamedMeans(ranks)
    for values in steps:
        means.update({name: torch.tensor(value) for name, value in values.items()})
    return means


def test_nan_counts_as_absent_and_take_starts_anew() -> None:
    means = NamedMeans(Ranks())
    means.update({"loss": torch.tensor(1.0), "lateral": torch.tensor(math.nan)})
    means.update({"loss": 2.0, "lateral": 4.0})
    assert means.take() == {"lateral": 4.0, "loss": 1.5}
    assert means.take() == {} and means.state() == {}
    means.update({"late": torch.tensor(3.0), "loss": torch.tensor(7.0)})  # a new name beside one of before
    assert means.take() == {"late": 3.0, "loss": 7.0}


@pytest.mark.filterwarnings("error")
def test_a_window_without_a_step_has_no_means_and_no_warning() -> None:
    assert NamedMeans(Ranks()).take() == {}


def test_rows_weigh_the_same_on_whichever_rank_they_are() -> None:
    ranks = Beside(rank=0, world_size=2)
    second = filled(Ranks(rank=1, world_size=2), {"a": [5.0, 1.0], "only there": 8.0})
    object.__setattr__(ranks, "second", second.state())
    first = filled(ranks, {"a": [6.0, 3.0], "b": [0.0, 0.0]}, {"a": [1.0, 1.0]})
    assert first.take() == {"a": 12.0 / 5.0, "only there": 8.0}  # no row was in b
    assert first.state() == {}


def test_synchronising_leaves_the_sums_of_this_rank_alone() -> None:
    ranks = Beside(rank=0, world_size=2)
    object.__setattr__(ranks, "second", {"loss": [10.0, 1.0]})
    means = filled(ranks, {"loss": 2.0})
    assert means.compute() == {"loss": 6.0} and means.state() == {"loss": [2.0, 1.0]}


def test_sums_are_those_of_python_in_double_precision() -> None:
    values = [0.1, 0.2, 0.3, 0.7, 1e-8]
    means = filled(Ranks(), *({"loss": value} for value in values))
    total = 0.0
    for value in values:
        total += float(torch.tensor(value))
    assert means.state() == {"loss": [total, 5.0]} and means.take() == {"loss": total / 5.0}


def test_a_state_is_json_and_is_restored_bit_for_bit() -> None:
    steps = [{"loss": value, "rows": [value, 3.0]} for value in (0.1, 0.2, 0.3, 0.7)]
    whole, first, second = filled(Ranks(), *steps), filled(Ranks(), *steps[:2]), NamedMeans(Ranks())
    second.load(json.loads(json.dumps(first.state())))
    for values in steps[2:]:
        second.update({name: torch.tensor(value) for name, value in values.items()})
    assert second.state() == whole.state() and second.take() == whole.take()


def test_a_state_of_the_version_before_is_restored() -> None:
    means = NamedMeans(Ranks())
    means.load({"loss": [3.0, 2.0], "rows:loss/frontal/from report": [6.0, 4.0], "clipped": [1.0, 2.0]})
    means.update({"loss": torch.tensor(3.0), "loss/frontal/from report": torch.tensor([2.0, 4.0])})
    assert means.take() == {"clipped": 0.5, "loss": 2.0, "loss/frontal/from report": 1.0}


def test_the_same_number_of_ranks_keeps_its_own() -> None:
    assert redistribute(TWO, 2, 1.0) == TWO


@pytest.mark.parametrize(
    ("micro", "loss"), [(1.0, [6.0, 4.0]), (0.5, [3.0, 2.0])]
)  # one rank: two micro-batches, or one
def test_one_rank_takes_all_scaled_as_its_own(micro: float, loss: list[float]) -> None:
    (merged,) = redistribute(TWO, 1, micro)
    assert merged["loss"] == loss and merged["grad_norm"] == [6.0, 2.0] and merged["rare"] == [micro, micro]


def test_more_ranks_have_the_first_take_all() -> None:
    first, *others = redistribute(TWO, 4, 2.0)
    assert first["loss"] == [12.0, 8.0] and first["grad_norm"] == [24.0, 8.0] and others == [{}, {}, {}]


def test_rows_keep_their_weight_on_another_number_of_ranks() -> None:
    states = [filled(Ranks(), {"a": [6.0, 3.0], "loss": 2.0, "clipped": 1.0}).state() for _ in range(2)]
    merged, *_ = redistribute(states, 1, 0.5)
    one = NamedMeans(Ranks())
    one.load(merged)
    assert sorted(merged.values()) == [[1.0, 1.0], [2.0, 1.0], [12.0, 6.0]]
    assert one.take() == {"a": 2.0, "clipped": 1.0, "loss": 2.0}
