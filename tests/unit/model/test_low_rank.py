"""Low-rank changes of weights: nothing at first, then exactly W + B A, of linear layers and convolutions."""

import torch
from torch import nn
from torch.nn import functional as F

from medcodi.model.low_rank import LowRank, call_with


def test_a_fresh_change_changes_nothing_and_a_set_one_is_w_plus_b_a():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    change, x = LowRank(network, rank=2), torch.randn(4, 3, 4, 4)
    assert torch.equal(call_with(network, change.weights(network), x), network(x))
    assert call_with(network, None, x).equal(network(x))

    with torch.no_grad():
        for parameter in change.up.values():
            parameter.normal_()
    conv, linear = network[0], network[3]
    moved = conv.weight + (change.up["0"] @ change.down["0"]).view_as(conv.weight)
    hidden = F.silu(F.conv2d(x, moved, conv.bias, padding=1)).flatten(1)
    expected = F.linear(hidden, linear.weight + change.up["3"] @ change.down["3"], linear.bias)
    torch.testing.assert_close(call_with(network, change.weights(network), x), expected)
    torch.testing.assert_close(network(x), network(x))  # the network's own weights are as they were


def test_its_size_is_the_rank_times_the_sides_of_each_weight_and_no_more_than_the_weight_has():
    layer = nn.Sequential(nn.Linear(10, 3))
    assert {name: tuple(p.shape) for name, p in LowRank(layer, rank=2).named_parameters()} == {
        "down.0": (2, 10),
        "up.0": (3, 2),
    }
    assert LowRank(layer, rank=64).down["0"].shape == (3, 10)
