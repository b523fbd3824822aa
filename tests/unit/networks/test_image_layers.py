"""The ways through a convolution: the same numbers, and training's own."""

import pytest
import torch
from torch.nn import functional as F

from medcodi.networks.convolution import SMALL_SIDE, Convolution


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


def test_a_channels_last_layer_answers_in_its_layout():
    layer = Convolution(8, 16).to(memory_format=torch.channels_last)
    for side in (4, 2 * SMALL_SIDE["channels_last"]):
        with torch.no_grad():
            out = layer(torch.randn(2, 8, side, side).to(memory_format=torch.channels_last))
        assert out.is_contiguous(memory_format=torch.channels_last)
