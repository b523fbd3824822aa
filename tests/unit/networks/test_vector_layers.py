"""Layers of vectors: folding keeps every number in its place."""

from __future__ import annotations

import torch

from medcodi.networks.unet import UNetConfig
from medcodi.networks.vector_layers import VectorLayers, VectorResidualBlock

CONFIG = UNetConfig(base_channels=16, multipliers=(1,), attention_levels=(), num_heads=2, num_groups=8, num_positions=4)


def test_a_vector_is_folded_channel_by_channel_and_unfolded_in_the_same_order() -> None:
    layers, vector = VectorLayers((24,), CONFIG), torch.randn(2, 24)
    stem = layers.stem(16)
    folded = stem(vector)
    assert folded.shape == (2, 16, 4, 1)
    assert torch.equal(folded[1, 3, :, 0], stem.layer(vector)[1, 12:16])  # channel 3: numbers 12 to 15
    assert torch.equal(layers.down(16)(folded), layers.up(16)(folded)) is False  # maps of their own
    head = layers.head(16)
    assert head(folded).shape == vector.shape and layers.pool(16, 7)(folded).shape == (2, 7)


def test_an_untrained_residual_block_is_its_skip() -> None:
    """The last layer begins at zero."""
    time, x = torch.randn(2, 64), torch.randn(2, 16, 4, 1)
    same = VectorResidualBlock(16, 16, time_dim=64, num_groups=8, num_positions=4)
    assert torch.equal(same(x, time), x)
    wider = VectorResidualBlock(16, 32, time_dim=64, num_groups=8, num_positions=4)
    assert torch.equal(wider(x, time).flatten(1), wider.skip(x.flatten(1)))
    assert wider(x, time).shape == (2, 32, 4, 1)
