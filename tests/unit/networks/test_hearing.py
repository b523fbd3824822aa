"""Hearing features: which maps a denoiser hears, and when."""

from dataclasses import replace

import pytest
import torch

from medcodi.networks.attention import Context
from medcodi.networks.hearing import Connectors, Positions, lockstep
from medcodi.networks.image_layers import ImageLayers
from medcodi.networks.unet import MapShape, UNet
from medcodi.networks.vector_layers import VectorLayers
from tests.unit.networks.test_unet import SMALL, randomised

DEEP = replace(SMALL, num_res_blocks=2)
SHAPES = {"frontal": (4, 8, 8), "report": (24,)}


@pytest.fixture(scope="module", params=[SMALL, DEEP], ids=["as deep", "deeper"])
def denoisers(request) -> dict[str, UNet]:
    """Of an image and of a vector, which is as deep or deeper."""
    nets = {
        "frontal": UNet(ImageLayers(SHAPES["frontal"], SMALL), SMALL, context_dim=12, environment_dim=None),
        "report": UNet(
            VectorLayers(SHAPES["report"], request.param), request.param, context_dim=12, environment_dim=None
        ),
    }
    return {name: randomised(net) for name, net in nets.items()}  # pyright: ignore


def connectors_of(denoisers) -> dict[str, Connectors]:
    maps = {name: net.shared_maps for name, net in denoisers.items()}
    return {name: randomised(Connectors(name, maps, num_heads=2)) for name in denoisers}  # pyright: ignore


def passes(denoisers, latents, t, context):
    return {name: net.begin(latents[name], t, context) for name, net in denoisers.items()}


def inputs():
    generator = torch.Generator().manual_seed(3)
    latents = {name: torch.randn(2, *shape, generator=generator) for name, shape in SHAPES.items()}
    return latents, torch.tensor([100, 700]), Context(torch.randn(2, 5, 12, generator=generator), torch.zeros(2, 5))


@torch.no_grad()
def test_the_maps_that_a_pass_shows_are_those_it_declares(denoisers):
    latents, t, context = inputs()
    for name, net in denoisers.items():
        run = net.begin(latents[name], t, context)
        shown = [MapShape(*net.advance(run).shape[1:]) for _ in net.shared_maps]
        assert shown == net.shared_maps
        assert torch.equal(net.advance(run), net(latents[name], t, context))


def test_each_hears_the_other_and_gradients_reach_every_connector(denoisers):
    latents, t, context = inputs()
    connectors = connectors_of(denoisers)
    plain = {name: net(latents[name], t, context) for name, net in denoisers.items()}
    heard = lockstep(denoisers, passes(denoisers, latents, t, context), connectors)
    sum(prediction.square().mean() for prediction in heard.values()).backward()
    for name in denoisers:
        assert heard[name].shape == latents[name].shape and (heard[name] - plain[name]).abs().max() > 1e-5
        (other,) = (fellow for fellow in denoisers if fellow != name)
        moved = {**latents, other: latents[other] + 1}
        again = lockstep(denoisers, passes(denoisers, moved, t, context), connectors)
        assert (again[name] - heard[name]).abs().max() > 1e-6, f"{name} does not hear {other}"
        for block in connectors[name].blocks:
            assert not block.fellows or block.to_q.weight.grad.abs().max() > 0


def test_a_fellow_is_heard_at_the_same_relative_depth(denoisers):
    """All hear the same state of the others: maps as their own blocks made them, from no greater depth."""
    maps = {name: net.shared_maps for name, net in denoisers.items()}
    assert len(maps["frontal"]) == 7
    for name, other in (("frontal", "report"), ("report", "frontal")):
        own, fellow = len(maps[name]), len(maps[other])
        for place, block in enumerate(Connectors(name, maps, num_heads=2).blocks):
            last = max((i for i in range(fellow) if (i + 1) * (own + 1) <= (place + 1) * (fellow + 1)), default=None)
            if last is None:
                assert len(block.fellows) == 0
            else:
                assert block.fellows[other].to_keys_values.in_features == maps[other][last].channels


def test_rows_of_equal_height_find_each_other_at_first():
    """The views share the vertical axis: logits of positions alone peak at the own row, whatever the column."""
    shape = MapShape(32, 8, 8)
    queries, keys = Positions(shape, 32, 2, columns=False)(), Positions(shape, 32, 2, columns=True)()
    logits = (queries.view(64, 2, 16)[:, 0] @ keys.view(64, 2, 16)[:, 0].T).view(8, 8, 8, 8).mean(dim=(1, 3))
    assert torch.equal(logits.argmax(dim=1), torch.arange(8))
