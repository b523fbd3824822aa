"""Forward process, prompt mixing, guidance and sampling against closed forms."""

import numpy as np
import pytest
import torch

from medcodi.diffusion.guidance import guided, guided_by_each_other
from medcodi.diffusion.objective import (
    NoiseScheduleConfig,
    add_noise,
    denoising_error,
    timesteps_from_uniform,
    training_target,
)
from medcodi.diffusion.prompts import draw_prompts, mix_pooled, mix_tokens
from medcodi.diffusion.sampling import SAMPLERS, build_scheduler, sample_jointly
from medcodi.errors import PromptError

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def test_alpha_bar_is_the_papers():
    expected = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    np.testing.assert_allclose(NoiseScheduleConfig().build().alphas_cumprod.numpy(), expected, rtol=2e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_target_and_noisy_latent_give_x0_back(prediction_type):
    schedule = NoiseScheduleConfig(prediction_type=prediction_type).build()
    x0, noise, t = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 10, 500, 999])
    x_t, target = add_noise(schedule, x0, noise, t), training_target(schedule, x0, noise, t)
    a = schedule.alphas_cumprod[t][:, None]
    found = (
        (x_t - (1 - a).sqrt() * target) / a.sqrt()
        if prediction_type == "epsilon"
        else a.sqrt() * x_t - (1 - a).sqrt() * target
    )
    torch.testing.assert_close(found, x0, atol=1e-4, rtol=1e-4)


def test_error_and_timesteps():
    error = denoising_error(torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1], [1, 1]], [[2, 0], [0, 0]]]))
    torch.testing.assert_close(error, torch.tensor([1.0, 1.0]))
    assert timesteps_from_uniform(torch.tensor([0.0, 0.5, 0.9999999999]), 1000).tolist() == [0, 500, 999]


def test_drawn_subsets_are_uniform_and_available():
    num = 6000
    u = (torch.arange(num) + 0.5) / num
    both = draw_prompts(torch.ones(num, 2, dtype=torch.bool), u)
    codes = (both * torch.tensor([1, 2])).sum(1)
    assert torch.bincount(codes, minlength=4).tolist() == [0, 2000, 2000, 2000]
    one = draw_prompts(torch.tensor([[False, True]]).expand(num, 2), u)
    assert one.tolist() == [[False, True]] * num
    assert not draw_prompts(torch.zeros(5, 2, dtype=torch.bool), u[:5]).any()
    single = draw_prompts(torch.ones(num, 2, dtype=torch.bool), u, most=1)
    assert single.sum(1).eq(1).all() and abs(single[:, 0].float().mean() - 0.5) < 0.05


def test_pooled_mix_is_the_weighted_mean_and_ignores_the_absent():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    weights = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    b[1] = torch.nan
    mixed = mix_pooled([a, b], weights)
    torch.testing.assert_close(mixed[0, 0], 0.25 * a[0] + 0.75 * b[0])
    torch.testing.assert_close(mixed[1, 0], a[1])


def test_token_mix_offsets_are_logarithms_of_weights():
    tokens = [torch.ones(1, 2, 3), torch.full((1, 1, 3), 2.0)]
    masks = [torch.tensor([[True, False]]), torch.tensor([[True]])]
    out, offset = mix_tokens(tokens, masks, torch.tensor([[1.0, 3.0]]))
    assert out.shape == (1, 3, 3)
    torch.testing.assert_close(offset, torch.tensor([[0.25, 0.0, 0.75]]).log())
    out, offset = mix_tokens(tokens, masks, torch.tensor([[1.0, 0.0]]))
    assert offset[0].tolist() == [0.0, -torch.inf, -torch.inf] and out[0, 2].abs().sum() == 0


def test_guidance_is_linear_and_both_halves_share_the_latent():
    def doubled(latents, t):
        assert torch.equal(*latents["a"].chunk(2)) and torch.equal(*t.chunk(2))
        return {"a": torch.cat([torch.full((2, 1), 1.0), torch.full((2, 1), 3.0)])}

    for scale, expected in ((0.0, 1.0), (1.0, 3.0), (2.5, 6.0)):
        out = guided(doubled, scale)({"a": torch.randn(2, 1)}, torch.tensor([5, 5]))
        torch.testing.assert_close(out["a"], torch.full((2, 1), expected))


def test_without_a_prompt_targets_are_guided_by_each_other():
    def together(latents, t):
        return {name: z + 1.0 for name, z in latents.items()}

    def apart(latents, t):
        return dict(latents)

    latents, t = {"a": torch.randn(2, 3, 4, 4), "b": torch.randn(2, 5)}, torch.tensor([5, 5])
    out = guided_by_each_other(together, apart, 4.0, torch.tensor([True, False]))(latents, t)
    for name, z in latents.items():
        torch.testing.assert_close(out[name], torch.stack([z[0] + 4.0, z[1] + 1.0]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_finds_a_point_mass(sampler):
    """The exact eps of data that is one point leads every sampler to that point."""
    point = 0.7
    alphas = NoiseScheduleConfig().build().alphas_cumprod

    def denoise(latents, t):
        a = alphas[t].view(-1, 1)
        return {name: (z - a.sqrt() * point) / (1 - a).sqrt() for name, z in latents.items()}

    out = sample_jointly(denoise, {"x": (6,)}, [1, 2, 3], sampler=sampler, schedule=SCHEDULE, num_inference_steps=40)
    assert (out["x"] - point).abs().max() < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_depends_on_its_own_seed_only(sampler):
    def denoise(latents, t):
        return {name: torch.tanh(z) for name, z in latents.items()}

    def run(shapes, seeds):
        return sample_jointly(denoise, shapes, seeds, sampler=sampler, schedule=SCHEDULE, num_inference_steps=5)

    together = run({"x": (4,), "y": (3,)}, [7, 8, 9])
    alone = run({"y": (3,)}, [8])
    torch.testing.assert_close(together["y"][1], alone["y"][0], atol=0, rtol=0)
    assert (together["y"][0] - together["y"][1]).abs().max() > 1e-3


def test_unknown_sampler_and_impossible_steps_are_refused():
    with pytest.raises(PromptError, match="did you mean 'ddim'"):
        build_scheduler("dddim", SCHEDULE, 10)
    for steps in (0, -3, 1001):
        with pytest.raises(PromptError, match=str(steps)):
            build_scheduler("ddim", SCHEDULE, steps)
