"""Samplers: exact data is reached, samples are independent of their batch, refusals."""

import pytest
import torch

from medcodi.diffusion.objective import NoiseScheduleConfig, path_scales
from medcodi.diffusion.sampling import SAMPLERS, build_scheduler, sample_jointly
from medcodi.errors import PromptError

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
FLOW = {**SCHEDULE, "prediction_type": "velocity", "shift": 3.0}
OF_NOISE = [name for name, sampler in SAMPLERS.items() if sampler.noise]
OF_VELOCITY = [name for name, sampler in SAMPLERS.items() if sampler.velocity is not None]


@pytest.mark.parametrize("num_steps", [1, 4, 40])
@pytest.mark.parametrize("sampler", OF_VELOCITY)
def test_the_exact_velocity_leads_to_a_point_mass(sampler, num_steps):
    forward, seen = NoiseScheduleConfig(**FLOW).build(), []

    def denoise(latents, t):
        seen.append(int(t[0]))
        s = path_scales(forward, t, t)[1].view(-1, 1)
        return {name: (z - 0.7) / s for name, z in latents.items()}

    settings = {"sampler": sampler, "schedule": FLOW, "num_inference_steps": num_steps}
    out = sample_jointly(denoise, {"x": (6,)}, [1, 2, 3], **settings)
    torch.testing.assert_close(out["x"], torch.full((3, 6), 0.7), atol=1e-4, rtol=0)
    assert seen[0] == 999 and len(seen) == num_steps


def test_a_sampler_for_other_predictions_is_refused():
    for sampler, schedule, fix in (("ddim", FLOW, "sampler euler"), ("euler", SCHEDULE, "sampler ddim")):
        with pytest.raises(PromptError, match=fix):
            build_scheduler(sampler, schedule, 10)


@pytest.mark.parametrize("sampler", OF_NOISE)
def test_samplers_start_from_unit_noise_and_take_latents_as_they_are(sampler):
    scheduler, z = build_scheduler(sampler, SCHEDULE, 4), torch.ones(1)
    assert scheduler.init_noise_sigma == 1 and scheduler.scale_model_input(z, scheduler.timesteps[0]) is z


@pytest.mark.parametrize("sampler", OF_NOISE)
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
        schedule = SCHEDULE if sampler in OF_NOISE else FLOW
        return sample_jointly(denoise, shapes, seeds, sampler=sampler, schedule=schedule, num_inference_steps=5)

    together = run({"x": (4,), "y": (3,)}, [7, 8, 9])
    alone = run({"y": (3,)}, [8])
    torch.testing.assert_close(together["y"][1], alone["y"][0], atol=0, rtol=0)
    assert (together["y"][0] - together["y"][1]).abs().max() > 1e-3


def test_unknown_sampler_and_invalid_steps_are_refused():
    with pytest.raises(PromptError, match="did you mean 'ddim'"):
        build_scheduler("dddim", SCHEDULE, 10)
    for steps in (0, -3, 1001):
        with pytest.raises(PromptError, match=str(steps)):
            build_scheduler("ddim", SCHEDULE, steps)


def test_a_given_start_is_used_and_steps_are_counted():
    seen: list[tuple[int, int]] = []
    start = {"x": torch.zeros(2, 3)}
    out = sample_jointly(
        lambda latents, t: {name: torch.zeros_like(z) for name, z in latents.items()},
        {"x": (3,)},
        [1, 2],
        sampler="ddim",
        schedule=SCHEDULE,
        num_inference_steps=3,
        start=start,
        on_step=lambda done, total: seen.append((done, total)),
    )
    assert out["x"].eq(0).all() and seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_a_target_that_follows_waits_as_noise_and_then_hears_the_first_clean(sampler):
    """At its own t a target takes the same steps as alone; what others hear of it meanwhile is noise, or clean."""
    seen = []

    def denoise(latents, t):
        times = {name: (t if isinstance(t, torch.Tensor) else t[name]) for name in latents}
        seen.append({name: (int(times[name][0]), latents[name].clone()) for name in latents})
        return {name: torch.tanh(z) * (1 + times[name].view(-1, 1) / 1000) for name, z in latents.items()}

    def run(shapes, delays=None):
        seen.clear()
        arguments = {"sampler": sampler, "schedule": SCHEDULE, "num_inference_steps": 4, "delays": delays}
        return sample_jointly(denoise, shapes, [7, 8], **arguments)

    shapes = {"x": (4,), "y": (3,)}
    together, staggered = run(shapes), run(shapes, {"y": 3})
    for name in shapes:
        torch.testing.assert_close(staggered[name], together[name], atol=0, rtol=0)
    assert [step["x"][0] for step in seen] == [999, 749, 499, 249, 0, 0, 0]
    assert [step["y"][0] for step in seen] == [999, 999, 999, 999, 749, 499, 249]
    torch.testing.assert_close(seen[0]["y"][1], seen[3]["y"][1], atol=0, rtol=0)
    torch.testing.assert_close(seen[4]["x"][1], staggered["x"], atol=0, rtol=0)
