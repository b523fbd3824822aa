"""Distillation: steps are those of diffusers' DDIM, and the student's goal is where the teacher goes."""

from itertools import pairwise

import pytest
import torch

from medcodi.config import to_dict
from medcodi.diffusion.objective import (
    NoiseScheduleConfig,
    ddim_step,
    prediction_of_step,
    teacher_prediction,
    trailing_timesteps,
)
from medcodi.diffusion.sampling import build_scheduler, take_step

SCHEDULES = [
    NoiseScheduleConfig(),
    NoiseScheduleConfig(prediction_type="v_prediction"),
    NoiseScheduleConfig(prediction_type="velocity", shift=3.0),
]
IDS = ["eps", "v", "velocity"]


@pytest.mark.parametrize("config", SCHEDULES, ids=IDS)
def test_steps_are_those_of_the_sampler_and_have_an_inverse(config: NoiseScheduleConfig) -> None:
    name = "euler" if config.prediction_type == "velocity" else "ddim"
    schedule, sampler = config.build(), build_scheduler(name, to_dict(config), 4)
    timesteps = trailing_timesteps(1000, 4)
    assert timesteps.tolist() == [*sampler.timesteps.tolist(), -1]
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 4, 8, 8, generator=generator)
    for t, then in pairwise(timesteps):
        prediction = torch.randn(3, 4, 8, 8, generator=generator)
        expected = take_step(name, sampler, prediction, int(t), z, [])
        rows = (t.expand(3), then.expand(3))
        stepped = ddim_step(schedule, prediction, *rows, z)
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prediction_of_step(schedule, z, *rows, stepped), prediction, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", SCHEDULES, ids=IDS)
def test_one_step_of_the_goal_goes_where_the_teacher_goes(config: NoiseScheduleConfig) -> None:
    schedule = config.build()
    z, place = torch.randn(2, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 3])

    def denoise(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(latents) * (1 + t[:, None] / 1000)

    goal = teacher_prediction(schedule, denoise, z, place, num_steps=4, num_substeps=2)
    grid, fine = trailing_timesteps(1000, 4), trailing_timesteps(1000, 8)
    assert fine[::2].tolist() == grid.tolist()
    arrived = ddim_step(schedule, goal, grid[place], grid[place + 1], z)
    for row, at in enumerate(place.tolist()):
        own = z[row : row + 1]
        for index in (2 * at, 2 * at + 1):
            t, then = fine[index : index + 1], fine[index + 1 : index + 2]
            own = ddim_step(schedule, denoise(own, t), t, then, own)
        torch.testing.assert_close(arrived[row : row + 1], own, rtol=1e-4, atol=1e-4)

    # With one step each, the goal is the teacher's own prediction.
    alone = teacher_prediction(schedule, denoise, z, place, num_steps=4, num_substeps=1)
    torch.testing.assert_close(alone, denoise(z, grid[place]), rtol=1e-4, atol=1e-4)
