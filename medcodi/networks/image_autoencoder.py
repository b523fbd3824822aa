"""Images <-> latents: a KL autoencoder (``diffusers.AutoencoderKL``) on images in [0, 1]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import ConfigError, DataError
from medcodi.networks.autoencoder import Autoencoder, draw, kl_to_standard_normal

_FIRST_LOGVAR = -6.0  # of a posterior of unit variance


@config
class ImageAutoencoderConfig:
    """Size of the image autoencoder. The published one: 3, (128, 256, 512, 512), 2, 4, 32 groups."""

    in_channels: Literal[1, 3] = 1  # 3: the grey image is repeated
    patch_size: int = 1  # pixels on a side of patches that become channels first: the finest levels cost most, do least
    channels: tuple[int, ...] = (16, 32, 64, 128)  # of each level; each but the first halves the side
    layers_per_block: int = 1  # residual blocks of each level
    latent_channels: int = 4  # channels of the latent
    norm_num_groups: int = 8  # groups of each group norm
    mid_attention: bool = True  # self-attention at the lowest resolution
    # beside the network a fixed linear map of each position's pixels, their principal components in the training split
    linear: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    # of the linear map: a channel of the latent varies as its component in the films, to this power (0: all alike; 1: as they do)
    component_power: Annotated[float, Field(exclude_if=lambda value: not value)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> ImageAutoencoderConfig:
        sizes = (*self.channels, self.layers_per_block, self.latent_channels, self.patch_size)
        if not self.channels or min(sizes) < 1:
            raise ValueError("channels, layers_per_block, latent_channels and patch_size must be positive")
        if any(width % self.norm_num_groups for width in self.channels):
            raise ValueError(
                f"channels {self.channels} must all be multiples of norm_num_groups = {self.norm_num_groups}"
            )
        if not 0.0 <= self.component_power <= 1.0 or (self.component_power and not self.linear):
            raise ValueError(
                f"component_power = {self.component_power} must be in [0, 1], and above 0 only with linear: true"
            )
        return self

    @property
    def factor(self) -> int:
        """Pixels on a side of one latent position."""
        return self.patch_size * 2 ** (len(self.channels) - 1)

    def build(self, image_size: int) -> ImageAutoencoder:
        """The autoencoder, untrained, for images of ``image_size`` pixels a side, which must be a multiple of :attr:`factor`."""
        if image_size < self.factor or image_size % self.factor:
            raise ConfigError(
                f"image_size = {image_size} does not fit an image autoencoder with {len(self.channels)} levels "
                f"on patches of {self.patch_size}",
                expected=f"a multiple of {self.factor}",
                fix="change image_size, image_autoencoder.patch_size or the number of image_autoencoder.channels",
            )
        return ImageAutoencoder(self, image_size)


class ImageAutoencoder(Autoencoder):
    """Image ``[B, 1, H, W]`` in [0, 1] <-> latent ``[B, C, H / f, W / f]``, for any H and W divisible by f."""

    # Of the linear map, if the config has one.
    components: Tensor  # [C, in_channels * f * f]
    deviations: Tensor  # [C, 1]
    mean_patch: Tensor  # [in_channels * f * f, 1]

    def __init__(self, config: ImageAutoencoderConfig, image_size: int) -> None:
        side = image_size // config.factor
        super().__init__((config.latent_channels, side, side))
        self.config = config
        levels = len(config.channels)
        network: Any = AutoencoderKL  # its annotations name 1-tuples
        self.net: Any = network(
            in_channels=config.in_channels * config.patch_size**2,
            out_channels=config.in_channels * config.patch_size**2,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_num_groups,
            sample_size=image_size // config.patch_size,
            mid_block_add_attention=config.mid_attention,
        )
        # Beside it, a fixed linear map: pixels of a position [f * f] <-> its latent [C].
        if config.linear:
            pixels = config.in_channels * config.factor**2
            self.register_buffer("components", torch.zeros(config.latent_channels, pixels))
            self.register_buffer("deviations", torch.ones(config.latent_channels, 1))
            self.register_buffer("mean_patch", torch.zeros(pixels, 1))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set the linear map to the principal components of images ``[N, 1, H, W]`` of the training split.

        The whole is the best linear autoencoder then: latents have unit variance, and the network adds nothing yet.

        Raises:
            DataError: If there are fewer positions than latent channels.
        """
        num = self.config.latent_channels
        x = (2.0 * images - 1.0).expand(-1, self.config.in_channels, -1, -1)
        patches = rearrange(F.pixel_unshuffle(x, self.config.factor), "n p h w -> (n h w) p").double()
        if len(patches) <= num:
            raise DataError(f"{len(patches)} patches of images", expected=f"more than {num}", fix="more studies")
        mean = patches.mean(0)
        variances, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))  # rising
        self.components.copy_(components.flip(1)[:, :num].T)
        self.deviations.copy_(variances.flip(0)[:num, None].clamp(min=1e-8).sqrt())
        self.mean_patch.copy_(mean[:, None])

        # The network's own mean and image start at 0, the posterior's deviation at exp(-3).
        nn.init.zeros_(self.net.quant_conv.weight)
        self.net.quant_conv.bias[:num].zero_()
        self.net.quant_conv.bias[num:].fill_(_FIRST_LOGVAR)
        nn.init.zeros_(self.net.decoder.conv_out.weight)
        nn.init.zeros_(self.net.decoder.conv_out.bias)

    def _linear_latents(self, x: Tensor) -> Tensor:
        """Principal components ``[B, C, h, w]`` of the patches of ``x`` ``[B, in_channels, H, W]``, of unit variance, in float32.

        The last ones are divided by deviations of a few grey levels, below what bfloat16 can tell apart.
        """
        patches = F.pixel_unshuffle(x, self.config.factor)
        with torch.autocast(x.device.type, enabled=False):
            latents = self.components.float() @ (patches.flatten(2) - self.mean_patch.float()) / self.deviations.float()
        return latents.unflatten(2, patches.shape[2:])

    def _linear_images(self, z: Tensor) -> Tensor:
        """The images ``[B, in_channels, H, W]`` of principal components ``z`` ``[B, C, h, w]``, in float32."""
        with torch.autocast(z.device.type, enabled=False):
            patches = self.components.float().T @ (z.flatten(2) * self.deviations.float()) + self.mean_patch.float()
        return F.pixel_shuffle(patches.unflatten(2, z.shape[2:]), self.config.factor)

    @property
    def factors(self) -> Tensor:
        """The scale, or with a ``component_power`` one factor per channel ``[C, 1, 1]``, whose root mean square is the scale."""
        if not self.config.component_power:
            return self.scale
        weights = self.deviations.float() ** self.config.component_power
        return self.scale * (weights / weights.square().mean().sqrt())[..., None]

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (in [-30, 20]) of the unscaled latents' posterior, float32 ``[B, C, H / f, W / f]``."""
        x = (2.0 * values - 1.0).expand(-1, self.config.in_channels, -1, -1)
        posterior = self.net.encode(F.pixel_unshuffle(x.to(self.net.dtype), self.config.patch_size)).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        if self.config.linear:
            mean = mean + self._linear_latents(x.float())
        return mean, logvar

    def decoder_parts(self) -> list[nn.Module]:
        """The decoder, and the convolution between it and the latent."""
        return [self.net.post_quant_conv, self.net.decoder]

    def decode_unclamped(self, z: Tensor) -> Tensor:
        """Images ``[B, in_channels, H, W]``, about [-1, 1], from unscaled latents, with gradient."""
        image = F.pixel_shuffle(self.net.decode(z.to(self.net.dtype)).sample, self.config.patch_size).float()
        if self.config.linear:
            image = image + self._linear_images(z.float())
        return image

    def decode(self, latent: Tensor) -> Tensor:
        """Images float32 ``[B, 1, h * f, w * f]`` in [0, 1] from scaled latents ``[B, C, h, w]``."""
        image = self.decode_unclamped(self.unscaled(latent)).mean(dim=1, keepdim=True)
        return torch.clamp(0.5 * image + 0.5, 0.0, 1.0)

    def reconstruction_terms(
        self, images: Tensor, noise: Tensor, *, edge_scales: int, hard_share: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Terms ``[B]`` of the reconstruction loss of ``[B, 1, H, W]``, in units of the [-1, 1] range, and the posteriors' mean.

        ``l1``; ``edges``, of gradients; ``hard``, l1 over the worst ``hard_share`` of the pixels; ``kl`` per latent element; and
        ``psnr`` in dB, without gradient.
        """
        # Encode, sample the posterior, decode.
        mean, logvar = self.encode(images)
        decoded = self.decode_unclamped(draw(mean, logvar, noise))
        x = (2.0 * images - 1.0).expand_as(decoded)

        # Compare.
        error = (decoded - x).abs().flatten(1)  # [B, pixels]
        num_worst = max(1, round(hard_share * error.shape[1]))
        mse = (0.5 * (decoded.detach() - x)).square().flatten(1).mean(1).clamp(min=1e-10)  # of the [0, 1] range
        terms = {
            "l1": error.mean(1),
            "edges": edge_difference(decoded, x, edge_scales),
            "hard": error.topk(num_worst, dim=1).values.mean(1),
            "kl": kl_to_standard_normal(mean, logvar).flatten(1).mean(1),
            "psnr": -10.0 * torch.log10(mse),
        }
        return terms, mean


def fit_images(model: nn.Module, images: Tensor) -> None:
    """Fit the linear map of a model's image autoencoder, if it has one, to images ``[N, 1, H, W]`` of the training split."""
    for module in model.modules():
        if isinstance(module, ImageAutoencoder) and module.config.linear:
            module.fit(images)


def edge_difference(a: Tensor, b: Tensor, num_scales: int) -> Tensor:
    """Mean absolute difference ``[B]`` of the horizontal and vertical gradients of two ``[B, C, H, W]``.

    It is averaged over ``num_scales`` resolutions, each half the one before; those below 2 pixels are left out.
    """
    difference = a - b  # gradients are linear: the gradient of the difference is the difference of the gradients
    terms = []
    for _ in range(num_scales):
        if min(difference.shape[-2:]) < 2:
            break
        across = difference.diff(dim=-1).abs().flatten(1).mean(1)
        down = difference.diff(dim=-2).abs().flatten(1).mean(1)
        terms.append(across + down)
        difference = F.avg_pool2d(difference, 2) if min(difference.shape[-2:]) >= 4 else difference[..., :1, :1]
    return torch.stack(terms).mean(0)
