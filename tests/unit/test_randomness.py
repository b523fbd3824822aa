from __future__ import annotations

import torch

from medcodi.randomness import (
    StepRandomness,
    keyed_normal,
    keyed_uniform,
    numpy_generator,
    seed_from_keys,
    torch_generator,
)


def test_seed_is_pinned_on_every_machine() -> None:
    assert seed_from_keys("noise", 0, 1, 2) == 1712716875110715877
    assert 0 <= seed_from_keys() < 2**63


def test_type_and_place_of_a_key_count() -> None:
    seeds = {seed_from_keys(*keys) for keys in [(1, 2), (2, 1), ("1", 2), (12,), ("1", "2"), (1, 2, "")]}
    assert len(seeds) == 6


def test_generators_repeat() -> None:
    assert torch.equal(
        torch.rand(3, generator=torch_generator("a", 1)), torch.rand(3, generator=torch_generator("a", 1))
    )
    assert (numpy_generator("a", 1).random(3) == numpy_generator("a", 1).random(3)).all()


def test_shapes_and_types_also_of_an_empty_batch() -> None:
    assert keyed_normal([(1,), (2,)], (3, 4)).shape == (2, 3, 4)
    assert keyed_normal([], (3,)).shape == (0, 3)
    assert keyed_uniform([(1,), (2,)], 5).shape == (2, 5)
    assert keyed_uniform([(1,)]).dtype == torch.float64
    assert keyed_uniform([], 5).shape == (0, 5)


def test_draws_of_a_step_are_named() -> None:
    step = StepRandomness(seed=0, step=3, samples=(7, 8))
    assert not torch.equal(step.normal("noise", (4,)), step.normal("posterior", (4,)))
    assert torch.equal(step.normal("noise", (4,)), keyed_normal(step.keys("noise"), (4,)))
    assert not torch.equal(
        step.normal("noise", (4,)), StepRandomness(seed=0, step=4, samples=(7, 8)).normal("noise", (4,))
    )


def test_the_shared_generator_does_not_know_the_rows() -> None:
    one, other = StepRandomness(seed=0, step=3, samples=(7,)), StepRandomness(seed=0, step=3, samples=(9, 10))
    assert torch.equal(
        torch.rand(2, generator=one.shared_generator("t")), torch.rand(2, generator=other.shared_generator("t"))
    )
