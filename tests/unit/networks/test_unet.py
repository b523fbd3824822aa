"""The denoisers' block table, its sizes, and what they hear."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from medcodi.networks.attention import Attention, Context
from medcodi.networks.environment import EnvironmentConfig, EnvironmentEncoder
from medcodi.networks.report_denoiser import VectorLayers, report_denoiser
from medcodi.networks.unet import ImageLayers, UNet, UNetConfig, image_denoiser

SMALL = UNetConfig(
    base_channels=16, multipliers=(1, 2), num_res_blocks=1, attention_levels=(0, 1), num_heads=2, num_groups=8
)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Zero-initialised layers would hide whether anything is heard."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def count(modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_the_default_size_is_stable_diffusion_1():
    with torch.device("meta"):
        ours = image_denoiser((4, 32, 32), UNetConfig(), context_dim=768, environment_dim=1280)
        theirs = UNet2DConditionModel(cross_attention_dim=768)
    assert count(ours.single_target_parts()) == count([theirs]) == 859_520_964
    assert count(ours.single_target_parts()) + count(ours.connectors()) == count([ours])


@pytest.mark.parametrize(("make", "shape"), [(image_denoiser, (4, 8, 8)), (report_denoiser, (24,))])
def test_shape_in_is_shape_out(make, shape):
    net = randomised(make(shape, SMALL, context_dim=12, environment_dim=10))
    z, t = torch.randn(3, *shape), torch.tensor([0, 500, 999])
    context = Context(torch.randn(3, 5, 12), torch.zeros(3, 5))
    assert net(z, t, context).shape == z.shape
    assert net(z, t, context, Context(torch.randn(3, 2, 10))).shape == z.shape


@pytest.mark.parametrize(("make", "shape"), [(image_denoiser, (4, 8, 8)), (report_denoiser, (24,))])
def test_prompts_time_and_environment_are_heard(make, shape):
    net = randomised(make(shape, SMALL, context_dim=12, environment_dim=10))
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


def test_one_key_shortcut_is_exact():
    attention = Attention(16, num_heads=2, context_dim=6)
    x, key = torch.randn(2, 7, 16), torch.randn(2, 1, 6)
    twice = key.expand(-1, 2, -1)  # two equal keys: the softmax is 1/2 and 1/2 of the same value
    torch.testing.assert_close(attention(x, key), attention(x, twice), atol=1e-6, rtol=1e-5)


def test_a_masked_token_has_no_influence_and_a_doubled_one_weighs_like_two():
    attention = Attention(16, num_heads=2, context_dim=6)
    x, tokens = torch.randn(2, 7, 16), torch.randn(2, 3, 6)
    masked = torch.tensor([[0.0, 0.0, -torch.inf]]).expand(2, 3)
    torch.testing.assert_close(attention(x, tokens, masked), attention(x, tokens[:, :2], torch.zeros(2, 2)))
    doubled = torch.cat([tokens, tokens[:, :1]], dim=1)
    weight = torch.tensor([[2.0, 1.0, 1.0]]).log().expand(2, 3)
    torch.testing.assert_close(attention(x, tokens, weight), attention(x, doubled, torch.zeros(2, 4)))


@pytest.mark.parametrize(("layers", "shape"), [(ImageLayers, (4, 8, 8)), (VectorLayers, (24,))])
def test_environment_vectors_have_unit_norm(layers, shape):
    config = EnvironmentConfig(dim=10, base_channels=8, multipliers=(1, 2))
    encoder = randomised(EnvironmentEncoder(layers(shape, SMALL), config))
    out = encoder(torch.randn(3, *shape), torch.tensor([0, 500, 999]))
    assert out.shape == (3, 10)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="num_groups=32 does not divide"):
        UNetConfig(base_channels=20)
    with pytest.raises(ValueError, match="cannot be halved"):
        image_denoiser((4, 4, 4), UNetConfig(base_channels=32), context_dim=8, environment_dim=8)
    assert isinstance(image_denoiser((4, 8, 8), SMALL, context_dim=8, environment_dim=8), UNet)
