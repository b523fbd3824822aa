"""Layers of maps: a convolution by two ways, residual blocks, resolutions."""

import pytest
import torch
from torch.nn import functional as F

from medcodi.networks.image_layers import FOLDED_SIDE, SMALL_SIDE, Convolution, ImageLayers, MeanPool, ResidualBlock
from medcodi.networks.unet import UNetConfig


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (7, 5), (1, 1), (16, 16), (40, 33)])
def test_every_way_is_the_convolution(layout, stride, size):
    generator = torch.Generator().manual_seed(0)
    layer = Convolution(24, 16, stride=stride)
    layer.weight.data = torch.randn(16, 24, 3, 3, generator=generator).contiguous(memory_format=layout)
    x = torch.randn(3, 24, *size, generator=generator).contiguous(memory_format=layout)
    expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, 1)
    with torch.no_grad():
        out = layer(x)
    assert out.shape == expected.shape
    assert (out - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, stride, 1)), "with gradients: nn.Conv2d"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(FOLDED_SIDE, FOLDED_SIDE + 3), (FOLDED_SIDE - 1, 20), (1, 2)])
def test_doubling_and_convolution_in_one_are_what_they_are_one_after_the_other(layout, size):
    """Values, and gradients of map, kernel and bias, to the rounding of float32."""
    generator = torch.Generator().manual_seed(0)
    layer = Convolution(24, 16, doubled=True)
    layer.weight.data = torch.randn(16, 24, 3, 3, generator=generator).contiguous(memory_format=layout)
    x = torch.randn(2, 24, *size, generator=generator).contiguous(memory_format=layout).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    expected = F.conv2d(F.interpolate(exact[0], scale_factor=2.0, mode="nearest"), *exact[1:], 1, 1)
    towards = torch.randn(expected.shape, generator=generator)
    out = layer(x)
    gradients = torch.autograd.grad(out, (x, layer.weight, layer.bias), towards)
    assert out.shape == (2, 16, 2 * size[0], 2 * size[1])
    for ours, theirs in zip(
        (out, *gradients), (expected, *torch.autograd.grad(expected, exact, towards.double())), strict=True
    ):
        assert (ours - theirs).abs().max() <= 5e-6 * theirs.abs().max()
    with torch.no_grad():
        assert (layer(x) - expected).abs().max() <= 5e-6 * expected.abs().max()


def test_a_channels_last_layer_answers_in_its_layout():
    layer = Convolution(8, 16).to(memory_format=torch.channels_last)
    for side in (4, 2 * SMALL_SIDE["channels_last"]):
        with torch.no_grad():
            out = layer(torch.randn(2, 8, side, side).to(memory_format=torch.channels_last))
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_out", [16, 24])
def test_an_untrained_residual_block_is_its_skip_with_and_without_gradient(channels_out):
    """The last convolution begins at zero; without gradients, results are overwritten, the input is not."""
    block = ResidualBlock(16, channels_out, time_dim=8, num_groups=8)
    x, time = torch.randn(2, 16, 4, 6), torch.randn(2, 8)
    before = x.clone()
    assert torch.equal(block(x, time), block.skip(x))
    for parameter in block.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape)
    expected = block(x, time)
    with torch.no_grad():
        torch.testing.assert_close(block(x, time), expected)
    assert torch.equal(x, before)


def test_steps_halve_and_double_the_resolution():
    layers = ImageLayers((4, 8, 8), UNetConfig(base_channels=32))
    x = torch.randn(2, 32, 8, 6)
    assert layers.stem(32)(torch.randn(2, 4, 8, 6)).shape == x.shape
    assert layers.down(32)(x).shape == (2, 32, 4, 3) and layers.up(32)(x).shape == (2, 32, 16, 12)
    assert layers.head(32)(x).shape == (2, 4, 8, 6) and layers.pool(32, 5)(x).shape == (2, 5)
    torch.testing.assert_close(MeanPool()(x), x.flatten(2).mean(2))
