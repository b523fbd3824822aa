"""Law 1 at its root: a draw depends on its own keys only, not on the batch around it, its ranks or its order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from medcodi.randomness import StepRandomness, keyed_uniform, seed_from_keys

SAMPLES = st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True)
KEYS = st.lists(st.integers() | st.text(max_size=4), max_size=4)


@given(samples=SAMPLES, seed=st.integers(0, 2**31), step=st.integers(0, 10**6), data=st.data())
def test_a_row_does_not_know_its_batch(samples: list[int], seed: int, step: int, data: st.DataObject) -> None:
    whole = StepRandomness(seed=seed, step=step, samples=tuple(samples)).normal("noise", (3,))
    order = data.draw(st.permutations(range(len(samples))))
    shuffled = StepRandomness(seed=seed, step=step, samples=tuple(samples[i] for i in order)).normal("noise", (3,))
    assert torch.equal(shuffled, whole[list(order)])
    alone = StepRandomness(seed=seed, step=step, samples=(samples[0],)).normal("noise", (3,))
    assert torch.equal(alone[0], whole[0])


@given(samples=SAMPLES, ranks=st.integers(1, 3))
def test_ranks_together_draw_what_one_rank_draws(samples: list[int], ranks: int) -> None:
    whole = StepRandomness(seed=1, step=2, samples=tuple(samples)).uniform("t")
    parts = [StepRandomness(seed=1, step=2, samples=tuple(samples[rank::ranks])).uniform("t") for rank in range(ranks)]
    for rank, part in enumerate(parts):
        assert torch.equal(part, whole[rank::ranks])


@given(one=KEYS, other=KEYS)
def test_other_keys_give_another_seed(one: list, other: list) -> None:
    assert (seed_from_keys(*one) == seed_from_keys(*other)) == (one == other)


def test_uniform_draws_are_uniform_and_rows_independent() -> None:
    draws = keyed_uniform([("t", index) for index in range(4000)], 2)
    assert float(draws.min()) >= 0 and float(draws.max()) < 1
    assert torch.allclose(draws.mean(0), torch.full((2,), 0.5, dtype=torch.float64), atol=0.02)
    assert abs(float(torch.corrcoef(draws.T)[0, 1])) < 0.05
    assert abs(float(torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1])) < 0.05
