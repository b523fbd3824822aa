"""The denoisers' block table: its sizes, and its inputs that change the prediction."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from medcodi.networks.attention import Context
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.unet import Layers, TimeEmbedding, UNet, UNetConfig
from medcodi.networks.vector_layers import VectorLayers

SMALL = UNetConfig(
    base_channels=16, multipliers=(1, 2), num_res_blocks=1, attention_levels=(0, 1), num_heads=2, num_groups=8
)
BOTH = pytest.mark.parametrize(("layers", "shape"), [(ImageLayers, (4, 8, 8)), (VectorLayers, (24,))])


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """The module with random weights: zero-initialised layers would hide whether an input has any influence."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def small(layers: Layers) -> torch.nn.Module:
    return randomised(UNet(layers, SMALL, context_dim=12, environment_dim=10))


def count(modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_default_size_is_stable_diffusion_1():
    with torch.device("meta"):
        config = UNetConfig()
        ours = UNet(ImageLayers((4, 32, 32), config), config, context_dim=768, environment_dim=1280)
        theirs = UNet2DConditionModel(cross_attention_dim=768)
    assert count(ours.single_target_parts()) == count([theirs]) == 859_520_964
    assert count(ours.single_target_parts()) + count(ours.connectors()) == count([ours])


@BOTH
def test_shape_in_is_shape_out(layers, shape):
    net = small(layers(shape, SMALL))
    z, t = torch.randn(3, *shape), torch.tensor([0, 500, 999])
    context = Context(torch.randn(3, 5, 12), torch.zeros(3, 5))
    assert net(z, t, context).shape == z.shape
    assert net(z, t, context, Context(torch.randn(3, 2, 10))).shape == z.shape


@BOTH
def test_prompts_time_and_environment_change_the_prediction(layers, shape):
    net = small(layers(shape, SMALL))
    z, t = torch.randn(2, *shape), torch.tensor([100, 100])
    context, environment = Context(torch.randn(2, 1, 12)), Context(torch.randn(2, 1, 10))
    out = net(z, t, context, environment)
    for other in (
        net(z, t, Context(context.tokens + 1), environment),
        net(z, t + 300, context, environment),
        net(z, t, context, Context(environment.tokens + 1)),
        net(z, t, context),
    ):
        assert (out - other).abs().max() > 1e-5


@BOTH
def test_every_part_is_a_connector_or_a_single_target_part_and_blocks_run_in_order(layers, shape):
    net = small(layers(shape, SMALL))
    single, connectors = net.single_target_parts(), net.connectors()
    assert {id(p) for part in (*single, *connectors) for p in part.parameters()} == {id(p) for p in net.parameters()}
    assert count(single) + count(connectors) == count([net])
    order: list[int] = []
    for block in net.context_blocks():
        block.register_forward_hook(lambda module, inputs, output: order.append(id(module)))
    net(torch.randn(1, *shape), torch.tensor([3]), Context(torch.randn(1, 1, 12)))
    assert order == [id(block) for block in net.context_blocks()]


def test_the_time_embedding_by_hand():
    embedding = TimeEmbedding(4)
    waves: list[torch.Tensor] = []
    embedding.in_proj.register_forward_pre_hook(lambda module, inputs: waves.append(inputs[0]))
    assert embedding(torch.tensor([0, 7])).shape == (2, 16)
    angles = torch.tensor([7.0, 7.0 / 100.0])  # 10,000 ** (-i / 2) for i = 0, 1
    expected = torch.stack([torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.cat([angles.cos(), angles.sin()])])
    torch.testing.assert_close(waves[0], expected)


def test_the_published_deepest_skip_replaces_one_input():
    ordinary, published = (
        UNet(ImageLayers((4, 8, 8), SMALL), config, context_dim=12, environment_dim=10)
        for config in (SMALL, UNetConfig(**{**vars(SMALL), "deepest_skip": "published"}))
    )
    randomised(ordinary), published.load_state_dict(ordinary.state_dict())
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([3]), Context(torch.randn(1, 1, 12))
    first_up: dict[str, torch.Tensor] = {}
    for name, net in (("ordinary", ordinary), ("published", published)):
        net.up[0].register_forward_pre_hook(lambda module, args, name=name: first_up.update({name: args[0]}))
        net(*inputs)
    middle, skip = first_up["published"].chunk(2, dim=1)
    assert torch.equal(middle, skip) and torch.equal(middle, first_up["ordinary"].chunk(2, dim=1)[0])
    assert not torch.equal(first_up["ordinary"], first_up["published"])


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match="num_groups=32 does not divide"):
        UNetConfig(base_channels=20)
    with pytest.raises(ValueError, match=r"outside 0..1"):
        UNetConfig(multipliers=(1, 2), attention_levels=(0, 2))
