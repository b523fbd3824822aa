"""Environment encoders: unit vectors of a latent and its time."""

from __future__ import annotations

import pytest
import torch

from medcodi.networks.environment import EnvironmentConfig, EnvironmentEncoder
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.vector_layers import VectorLayers
from tests.unit.networks.test_unet import SMALL, randomised

BOTH = pytest.mark.parametrize(("layers", "shape"), [(ImageLayers, (4, 8, 8)), (VectorLayers, (24,))])


@BOTH
def test_vectors_have_unit_norm_and_depend_on_latent_and_time(layers, shape) -> None:
    config = EnvironmentConfig(dim=10, base_channels=8, multipliers=(1, 2))
    encoder = randomised(EnvironmentEncoder(layers(shape, SMALL), config))
    z, t = torch.randn(3, *shape), torch.tensor([0, 500, 999])
    out = encoder(z, t)
    assert out.shape == (3, 10)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))
    assert not torch.allclose(encoder(z + 1.0, t), out) and not torch.allclose(encoder(z, t.flip(0))[0], out[0])
    torch.testing.assert_close(encoder(z[1:2], t[1:2])[0], out[1])  # a row does not depend on the batch around it


def test_the_width_of_the_time_can_be_that_of_the_denoisers() -> None:
    config = EnvironmentConfig(dim=10, base_channels=8, multipliers=(1, 2), time_channels=16)
    assert EnvironmentEncoder(ImageLayers((4, 8, 8), SMALL), config).time.out_proj.out_features == 64
