"""Forward process and training target against closed forms."""

import numpy as np
import pytest
import torch

from medcodi.diffusion.objective import (
    NoiseScheduleConfig,
    add_noise,
    denoising_error,
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


def test_error_and_timesteps():
    error = denoising_error(torch.zeros(2, 2, 2), torch.tensor([[[1.0, 1], [1, 1]], [[2, 0], [0, 0]]]))
    torch.testing.assert_close(error, torch.tensor([1.0, 1.0]))
    assert timesteps_from_uniform(torch.tensor([0.0, 0.5, 0.9999999999]), 1000).tolist() == [0, 500, 999]


def test_betas_that_do_not_rise_are_refused():
    with pytest.raises(ValueError, match="betas must rise"):
        NoiseScheduleConfig(beta_start=0.02, beta_end=0.01)
