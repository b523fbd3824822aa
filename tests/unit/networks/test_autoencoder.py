"""Base of the autoencoders: posterior, scale and shift."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcodi.errors import CheckpointError
from medcodi.networks.autoencoder import Autoencoder, draw, kl_to_standard_normal


class Identity(Autoencoder):
    """Values are their own latents, known to a standard deviation of 2."""

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values, torch.full_like(values, 2 * math.log(2.0))

    def decode(self, latent: Tensor) -> Tensor:
        return self.unscaled(latent)


def test_latents_are_shifted_scaled_and_decoded_again() -> None:
    autoencoder, values = Identity((3, 2, 2)), torch.randn(4, 3, 2, 2)
    assert torch.equal(autoencoder.latent(values), values)  # scale 1, shift 0 until they are set
    autoencoder.set_scale(0.5, torch.tensor([1.0, 2.0, 3.0]))
    shift = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    assert torch.equal(autoencoder.latent(values), (values - shift) * 0.5)
    torch.testing.assert_close(autoencoder.decode(autoencoder.latent(values)), values)
    noise = torch.randn_like(values)
    torch.testing.assert_close(autoencoder.latent(values, noise), (values + 2 * noise - shift) * 0.5)


def test_scale_and_shift_are_stored_with_the_weights() -> None:
    one, two = Identity((3,)), Identity((3,))
    one.set_scale(0.25, 7.0)
    two.load_state_dict(one.state_dict())
    assert float(two.scale) == 0.25 and two.shift.tolist() == [7.0, 7.0, 7.0]


def test_without_noise_the_posterior_gives_its_mean() -> None:
    mean, logvar = torch.randn(2, 3), torch.randn(2, 3)
    assert draw(mean, logvar, None) is mean
    torch.testing.assert_close(draw(mean, logvar, torch.ones(2, 3)), mean + logvar.exp().sqrt())


def test_kl_by_hand() -> None:
    mean, logvar = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert torch.allclose(kl_to_standard_normal(mean, logvar), torch.tensor([0.0, 0.5, 0.5 * (math.e - 2.0)]))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_scale_is_refused(value: float) -> None:
    with pytest.raises(CheckpointError, match="latent scale"):
        Identity((3,)).set_scale(value)
