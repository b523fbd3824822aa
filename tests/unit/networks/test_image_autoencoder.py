"""The image autoencoder: shapes, ranges, scale, refusals."""

import pytest
import torch

from medcodi.config import from_dict
from medcodi.errors import ConfigError, DataError
from medcodi.networks.autoencoder import draw, kl_to_standard_normal
from medcodi.networks.image_autoencoder import ImageAutoencoder, ImageAutoencoderConfig, edge_difference

SMALL = {"channels": (8, 16, 16), "norm_num_groups": 4, "latent_channels": 3}


def small(**changes) -> ImageAutoencoder:
    torch.manual_seed(0)
    return from_dict(ImageAutoencoderConfig, {**SMALL, **changes}).build(32).eval()


@pytest.mark.parametrize("in_channels", [1, 3])
@torch.no_grad()
def test_shapes_and_ranges(in_channels: int) -> None:
    autoencoder = small(in_channels=in_channels)
    x = torch.rand(2, 1, 32, 32)
    mean, logvar = autoencoder.encode(x)
    assert mean.shape == logvar.shape == (2, *autoencoder.latent_shape) == (2, 3, 8, 8)
    image = autoencoder.decode(autoencoder.latent(x) * 100)
    assert image.shape == x.shape and image.min() >= 0 and image.max() <= 1
    assert autoencoder.decode_unclamped(mean).shape == (2, in_channels, 32, 32)


@torch.no_grad()
def test_patches_go_into_the_channels_and_come_back_in_their_places() -> None:
    autoencoder = small(patch_size=4, channels=(16, 16))
    assert autoencoder.config.factor == 8 and autoencoder.latent_shape == (3, 4, 4)
    x = torch.rand(2, 1, 32, 32)
    assert autoencoder.decode(autoencoder.latent(x)).shape == x.shape
    moved = x.clone()
    moved[:, :, :8, 24:] = 1.0 - moved[:, :, :8, 24:]
    change = (autoencoder.encode(moved)[0] - autoencoder.encode(x)[0]).abs().mean(dim=(0, 1))
    assert change[:2, 2:].mean() > change[2:, :2].mean()  # what moved was up and to the right


@torch.no_grad()
def test_other_sizes_go_through() -> None:
    autoencoder = small()
    assert autoencoder.decode(autoencoder.latent(torch.rand(1, 1, 16, 24))).shape == (1, 1, 16, 24)


@torch.no_grad()
def test_scale_and_shift_undo_themselves_and_are_saved() -> None:
    autoencoder, x = small(), torch.rand(2, 1, 32, 32)
    mean, before = autoencoder.encode(x)[0], autoencoder.decode(autoencoder.latent(x))
    autoencoder.set_scale(2.5, torch.tensor([0.1, 0.2, 0.3]))
    expected = (mean - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) * 2.5
    assert torch.allclose(autoencoder.latent(x), expected)
    assert torch.allclose(autoencoder.decode(autoencoder.latent(x)), before, atol=1e-5)
    again = small()
    again.load_state_dict(autoencoder.state_dict())
    assert float(again.scale) == 2.5 and torch.equal(again.shift, autoencoder.shift)


@torch.no_grad()
def test_noise_samples_the_posterior() -> None:
    autoencoder, x = small(), torch.rand(1, 1, 32, 32)
    mean, logvar = autoencoder.encode(x)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(autoencoder.latent(x, noise), mean + (logvar / 2).exp() * noise)
    assert torch.equal(draw(mean, logvar, None), mean)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="norm_num_groups = 32"):
        small(norm_num_groups=32)
    with pytest.raises(ConfigError, match="image_size = 30.*multiple of 4"):
        from_dict(ImageAutoencoderConfig, SMALL).build(30)


def test_reconstruction_terms_by_hand() -> None:
    autoencoder, x = small(), torch.rand(2, 1, 32, 32)
    mean, logvar = autoencoder.encode(x)
    terms, latents = autoencoder.reconstruction_terms(x, torch.zeros_like(mean), edge_scales=1, hard_share=0.25)
    error = (autoencoder.decode_unclamped(mean) - (2 * x - 1)).flatten(1)
    worst = error.abs().sort(dim=1, descending=True).values[:, : 32 * 32 // 4]
    expected = {
        "l1": error.abs().mean(1),
        "hard": worst.mean(1),
        "kl": kl_to_standard_normal(mean, logvar).flatten(1).mean(1),
        "psnr": 10 * torch.log10(1 / (error / 2).square().mean(1)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    assert terms["hard"].gt(terms["l1"]).all() and not terms["psnr"].requires_grad and terms["edges"].requires_grad


def test_edges_by_hand() -> None:
    a = torch.zeros(1, 1, 4, 4)
    a[..., 2:] = 1.0  # one vertical edge: 1 of 3 differences across, none down
    assert edge_difference(a, torch.zeros_like(a), 1).item() == pytest.approx(1 / 3)
    # halved once: 2 x 2 with the edge in its only difference across
    assert edge_difference(a, torch.zeros_like(a), 2).item() == pytest.approx((1 / 3 + 1) / 2)
    assert torch.allclose(
        edge_difference(a + 0.5, torch.full_like(a, 0.2), 5), edge_difference(a, torch.zeros_like(a), 5)
    )


@torch.no_grad()
def test_with_a_linear_map_it_starts_as_the_best_linear_autoencoder() -> None:
    rng = torch.Generator().manual_seed(0)
    waves = torch.rand(12, 6, generator=rng) @ torch.rand(6, 32 * 32, generator=rng)  # images of six patterns
    images = (waves / waves.max()).reshape(12, 1, 32, 32)
    autoencoder = small(linear=True)
    autoencoder.fit(images)

    # Latents are uncorrelated, of mean 0 and variance 1.
    mean, logvar = autoencoder.encode(images)
    columns = mean.transpose(0, 1).flatten(1)  # [C, positions]
    torch.testing.assert_close(torch.cov(columns, correction=0), torch.eye(3), atol=1e-3, rtol=0)
    assert (logvar == -6).all() and columns.mean(1).abs().max() < 1e-4

    # Three components lose what the singular value decomposition of the patches loses.
    patches = (2 * images - 1).reshape(12, 8, 4, 8, 4).transpose(2, 3).reshape(-1, 16).double()
    lost = torch.linalg.svdvals(patches - patches.mean(0))[3:].square().sum()
    error = (autoencoder.decode_unclamped(mean) - (2 * images - 1)).double().square().sum()
    assert float(error) == pytest.approx(float(lost), rel=1e-3) and lost > 0

    # The map is computed in float32 where weights are bfloat16 and under autocast.
    half = small(linear=True)
    half.load_state_dict(autoencoder.state_dict())
    torch.testing.assert_close(half.to(torch.bfloat16).encode(images)[0], mean, atol=0.1, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(autoencoder.encode(images)[0], mean, atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="1 patches of images"):
        autoencoder.fit(images[:1, :, :4, :4])


@torch.no_grad()
def test_channels_can_vary_as_their_components_do() -> None:
    plain, weighed, as_films = (small(linear=True, component_power=power) for power in (0.0, 0.5, 1.0))
    rng = torch.Generator().manual_seed(0)
    images = (torch.rand(12, 6, generator=rng) @ torch.rand(6, 32 * 32, generator=rng) / 6).reshape(12, 1, 32, 32)
    plain.fit(images)
    for each in (weighed, as_films):
        each.load_state_dict(plain.state_dict())  # nothing of it is stored: one config more, no weight
    latents = [each.latent(images) for each in (plain, weighed, as_films)]

    # Standard deviations go as the components' to the power; altogether the variance stays 1.
    deviations = plain.deviations.flatten()
    for latent, power in zip(latents, (0.0, 0.5, 1.0), strict=True):
        measured = latent.transpose(0, 1).flatten(1).std(1, correction=0)
        torch.testing.assert_close(measured / measured[0], (deviations / deviations[0]) ** power, rtol=1e-2, atol=1e-3)
        assert float(latent.square().mean()) == pytest.approx(1.0, rel=1e-2)
    for each, latent in zip((weighed, as_films), latents[1:], strict=True):
        torch.testing.assert_close(each.decode(latent), plain.decode(latents[0]), atol=1e-5, rtol=0)

    for wrong in ({"component_power": 0.5}, {"component_power": 1.5, "linear": True}):
        with pytest.raises(ConfigError, match=r"component_power = \d.5 must be in \[0, 1\]"):
            small(**wrong)
