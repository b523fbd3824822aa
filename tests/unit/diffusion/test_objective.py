"""Forward process and training target against closed forms."""

import numpy as np
import pytest
import torch

from medcodi.config import to_dict
from medcodi.diffusion.objective import (
    NoiseScheduleConfig,
    add_noise,
    ddim_step,
    denoising_error,
    min_snr_weight,
    path_scales,
    timesteps_from_uniform,
    training_target,
)


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


def test_the_velocity_is_that_of_a_straight_path_and_one_step_of_euler_gives_x0():
    config = NoiseScheduleConfig(prediction_type="velocity", shift=3.0)
    schedule = config.build()
    x0, noise, t = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 10, 500, 999])
    x_t, velocity = add_noise(schedule, x0, noise, t), training_target(schedule, x0, noise, t)

    # s = shift u / (1 + (shift - 1) u), and x_t moves by the velocity times the change of s: exactly, however far.
    u = (t + 1) / 1000
    a, s = path_scales(schedule, t, x0)
    torch.testing.assert_close(s[:, 0], 3 * u / (1 + 2 * u))
    torch.testing.assert_close(a + s, torch.ones(4, 1))
    other = torch.tensor([900, 0, 20, 400])
    moved = x_t + (path_scales(schedule, other, x0)[1] - s) * velocity
    torch.testing.assert_close(moved, add_noise(schedule, x0, noise, other))

    # Pure noise at the first timestep; one step to the end from anywhere.
    torch.testing.assert_close(x_t[3], noise[3])
    torch.testing.assert_close(ddim_step(schedule, velocity, t, torch.full((4,), -1), x_t), x0, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("prediction_type", "formula"), [
    ("epsilon", lambda snr, s: np.minimum(snr, 5) / snr),
    ("v_prediction", lambda snr, s: np.minimum(snr, 5) / (snr + 1)),
    ("velocity", lambda snr, s: np.minimum(snr, 5) * s**2),
])  # fmt: skip
def test_min_snr_is_the_papers_formula(prediction_type, formula):
    schedule, t = NoiseScheduleConfig(prediction_type=prediction_type).build(), torch.tensor([0, 100, 500, 990])
    a, s = (scale.double().numpy() for scale in path_scales(schedule, t, t))
    weight = min_snr_weight(schedule, t, 5.0)
    assert weight is not None
    np.testing.assert_allclose(weight.numpy(), formula((a / s) ** 2, s), rtol=1e-4)
    assert min_snr_weight(schedule, t, 0.0) is None


def test_error_and_timesteps():
    error = denoising_error(torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1], [1, 1]], [[2, 0], [0, 0]]]))
    torch.testing.assert_close(error, torch.tensor([1.0, 1.0]))
    assert timesteps_from_uniform(torch.tensor([0.0, 0.5, 0.9999999999]), 1000).tolist() == [0, 500, 999]


def test_betas_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="betas must rise"):
        NoiseScheduleConfig(beta_start=0.02, beta_end=0.01)


def test_a_shift_without_velocity_is_refused_and_a_shift_of_one_is_left_out_of_files():
    for values in ({"shift": 3.0}, {"shift": 0.0, "prediction_type": "velocity"}):
        with pytest.raises(ValueError, match="shift is"):
            NoiseScheduleConfig(**values)
    assert "shift" not in to_dict(NoiseScheduleConfig())
    assert to_dict(NoiseScheduleConfig(prediction_type="velocity", shift=3.0))["shift"] == 3.0
