"""Recipes by hand: shapes of the sources, concatenation, reshaping, stored precision; derivable tensors are compared."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medcodi.diffusion.objective import NoiseScheduleConfig
from medcodi.errors import CheckpointError
from medcodi.interop.xgem_checkpoint import XgemCheckpoint, tensors_in
from medcodi.interop.xgem_keys import Census
from medcodi.interop.xgem_plan import Recipe, UnusableWeightsError, check_derived, noise_schedule


@pytest.fixture
def checkpoint_of(tmp_path):
    """A function: tensors -> a checkpoint that holds them."""

    def build(tensors: dict[str, Tensor]) -> XgemCheckpoint:
        save_file(tensors, tmp_path / "some.safetensors")
        return XgemCheckpoint(
            (tmp_path / "some.safetensors",), tensors_in(tmp_path / "some.safetensors"), {}, Census.of(tensors)
        )

    return build


def test_sources_are_reshaped_and_concatenated(checkpoint_of) -> None:
    q, k = torch.arange(6.0).reshape(2, 3), 10 + torch.arange(6.0).reshape(2, 3)
    checkpoint = checkpoint_of({"q": q, "k": k, "conv": q[:, :, None, None].clone()})
    joined = Recipe((4, 3), True, ("q", "k"))
    assert joined.source_shape == (2, 3) and torch.equal(joined.make(checkpoint), torch.cat([q, k]))
    transposed = Recipe((3, 2), True, ("q",), "transposed")
    assert transposed.source_shape == (2, 3) and torch.equal(transposed.make(checkpoint), q.T)
    matrix = Recipe((2, 3), True, ("conv",), "matrix")
    assert matrix.source_shape == (2, 3, 1, 1) and torch.equal(matrix.make(checkpoint), q)
    assert torch.equal(Recipe((2,), False, value=0.5).make(checkpoint), torch.tensor([0.5, 0.5]))


def test_weights_alone_are_stored_in_the_chosen_precision() -> None:
    assert Recipe((2, 3), True).stored_dtype(torch.bfloat16) == torch.bfloat16
    assert Recipe((), True).stored_dtype(torch.bfloat16) == torch.float32  # a single number
    assert Recipe((2, 3), False).stored_dtype(torch.bfloat16) == torch.float32  # a buffer


def test_weights_that_are_not_finite_are_refused(checkpoint_of) -> None:
    checkpoint = checkpoint_of({"w": torch.tensor([1.0, float("nan")])})
    with pytest.raises(UnusableWeightsError, match="w holds 1 numbers that are not finite"):
        Recipe((2,), True, ("w",)).make(checkpoint)


def test_the_noise_schedule_comes_from_the_betas(checkpoint_of) -> None:
    assert noise_schedule(checkpoint_of({"other": torch.ones(1)})) == NoiseScheduleConfig()
    betas = torch.linspace(0.001**0.5, 0.02**0.5, 50, dtype=torch.float64) ** 2
    schedule = noise_schedule(checkpoint_of({"betas": betas.float()}))
    assert (schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end) == (50, 0.001, 0.02)
    with pytest.raises(CheckpointError, match="does not follow a scaled-linear schedule"):
        noise_schedule(checkpoint_of({"betas": betas.float(), "alphas_cumprod": torch.ones(50)}))


def test_derivable_tensors_are_compared_with_their_definition(checkpoint_of) -> None:
    mask, positions = "optimus.decoder.transformer.h.0.attn.bias", "clip.model.text_model.embeddings.position_ids"
    check_derived(checkpoint_of({mask: torch.ones(1, 1, 4, 4).tril(), positions: torch.arange(4)[None]}))
    with pytest.raises(CheckpointError, match="a causal mask"):
        check_derived(checkpoint_of({mask: torch.ones(1, 1, 4, 4)}))
    with pytest.raises(CheckpointError, match="0, 1, 2 and so on"):
        check_derived(checkpoint_of({positions: torch.tensor([[1, 2, 3]])}))
