"""Editing latents: the original's own prompts change nothing, others do, and a full edit of nothing is the new sample."""

from __future__ import annotations

import pytest
import torch

from medcodi.diffusion.sampling import SAMPLERS, edit_latents
from medcodi.errors import PromptError

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def towards(point: float):
    """A denoiser that moves latents towards a point, and depends on t."""

    def denoise(latents, t):
        return {name: torch.tanh(z - point) * (1 + t.view(-1, 1) / 1000) for name, z in latents.items()}

    return denoise


def run(new, original, seeds=(1, 2, 3), strength=0.6, sampler="dpm++", z0=None):
    z0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) if z0 is None else z0
    schedule = SCHEDULE if SAMPLERS[sampler].noise else {**SCHEDULE, "prediction_type": "velocity"}
    arguments = {"sampler": sampler, "schedule": schedule, "num_inference_steps": 10, "strength": strength}
    return edit_latents(new, original, {"x": z0}, list(seeds), **arguments)["x"], z0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.05, 0.6, 1.0])
def test_the_same_prompts_change_nothing_and_others_do(sampler: str, strength: float) -> None:
    same, z0 = run(towards(0.5), towards(0.5), strength=strength, sampler=sampler)
    torch.testing.assert_close(same, z0, atol=1e-5, rtol=0)
    if strength > 0.5:
        other, _ = run(towards(2.0), towards(0.5), strength=strength, sampler=sampler)
        assert (other - z0).abs().max() > 0.01


def test_more_strength_changes_more_and_a_row_depends_on_its_own_seed_only() -> None:
    changes = [
        (run(towards(2.0), towards(0.0), strength=s)[0] - run(towards(0.0), towards(0.0))[1]).abs().mean()
        for s in (0.2, 0.5, 0.9)
    ]
    assert changes[0] < changes[1] < changes[2]
    together, z0 = run(towards(2.0), towards(0.0))
    alone, _ = run(towards(2.0), towards(0.0), seeds=[2], z0=z0[1:2])
    torch.testing.assert_close(together[1], alone[0], atol=0, rtol=0)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(PromptError, match="above 0, and at most 1"):
        run(towards(0.0), towards(0.0), strength=strength)
