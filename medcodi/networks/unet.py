"""The denoiser UNet: one block table for every kind of latent, in the layout of Stable Diffusion 1.x.

The table (which block follows which) is written once, in :class:`UNet`; what a residual block, a step down or a
step up *is* comes from a small set of layers: :class:`ImageLayers` here for maps, ``VectorLayers`` in
``report_denoiser`` for vectors. The environment encoders are built from the same layers.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from medcodi.config import config
from medcodi.networks.attention import AttentionBlock, Context
from medcodi.networks.convolution import Convolution
from medcodi.networks.image_parts import MeanPool, Normed, ResidualBlock, TimeEmbedding, Upsample


@config
class UNetConfig:
    """Size of one denoiser; the defaults are Stable Diffusion 1.x (and MedCoDi-M)."""

    base_channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    num_heads: int = 8
    num_groups: int = 32
    num_positions: int = 4  # vectors only: length of the second dimension the latent vector is folded into
    # What the first block of the way up is given beside the middle's output: the deepest block of the way down
    # (ordinary), or the middle's output once more (published: what the released MedCoDi-M weights were trained with).
    deepest_skip: Literal["ordinary", "published"] = "ordinary"

    def __post_init__(self) -> None:
        if not self.multipliers or self.base_channels < 1 or self.num_res_blocks < 1:
            raise ValueError("a UNet needs multipliers, base_channels >= 1 and num_res_blocks >= 1")
        for level, multiplier in enumerate(self.multipliers):
            width = self.base_channels * multiplier
            for divisor, name in ((self.num_groups, "num_groups"), (self.num_heads, "num_heads")):
                if width % divisor:
                    raise ValueError(f"level {level} has {width} channels, which {name}={divisor} does not divide")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels {self.attention_levels} name a level outside 0..{len(self.multipliers) - 1}"
            )


class Layers(Protocol):
    """What differs between kinds of latents."""

    def stem(self, channels: int) -> nn.Module:
        """Latent -> first width."""
        ...

    def residual(self, channels_in: int, channels_out: int, time_dim: int) -> nn.Module:
        """A residual block that hears the time."""
        ...

    def down(self, channels: int) -> nn.Module:
        """A step down."""
        ...

    def up(self, channels: int) -> nn.Module:
        """A step up."""
        ...

    def head(self, channels: int) -> nn.Module:
        """Last width -> latent."""
        ...

    def pool(self, channels: int, out: int) -> nn.Module:
        """-> one vector ``[B, out]``."""
        ...


class ImageLayers:
    """Layers for latent maps ``[B, C, H, W]``."""

    def __init__(self, latent_shape: tuple[int, ...], config: UNetConfig) -> None:
        self.latent_channels = latent_shape[0]
        self.num_groups = config.num_groups

    def stem(self, channels: int) -> nn.Module:
        """Latent -> first width."""
        return Convolution(self.latent_channels, channels)

    def residual(self, channels_in: int, channels_out: int, time_dim: int) -> nn.Module:
        """A residual block that hears the time."""
        return ResidualBlock(channels_in, channels_out, time_dim=time_dim, num_groups=self.num_groups)

    def down(self, channels: int) -> nn.Module:
        """Half the resolution."""
        return Convolution(channels, channels, stride=2)

    def up(self, channels: int) -> nn.Module:
        """Twice the resolution."""
        return Upsample(channels)

    def head(self, channels: int) -> nn.Module:
        """Last width -> latent."""
        return Normed(channels, self.num_groups, Convolution(channels, self.latent_channels))

    def pool(self, channels: int, out: int) -> nn.Module:
        """Map -> one vector ``[B, out]``."""
        return nn.Sequential(Normed(channels, self.num_groups, Convolution(channels, out)), MeanPool())


class Block(nn.Module):
    """One entry of the block table: residual block, prompts, resolution change, other denoisers; each but the first optional."""

    def __init__(
        self,
        residual: nn.Module | None,
        *,
        attention: AttentionBlock | None = None,
        resize: nn.Module | None = None,
        connector: AttentionBlock | None = None,
    ) -> None:
        super().__init__()
        self.residual, self.attention, self.resize, self.connector = residual, attention, resize, connector

    def forward(self, x: Tensor, time: Tensor, context: Context | None, environment: Context | None) -> Tensor:
        """``[B, C, H, W]`` -> the block's output; without ``environment`` the connector is not run."""
        if self.residual is not None:
            x = self.residual(x, time)
        if self.attention is not None and context is not None:
            x = self.attention(x, context)
        if self.resize is not None:
            x = self.resize(x)
        if self.connector is not None and environment is not None:
            x = self.connector(x, environment)
        return x


class UNet(nn.Module):
    """Denoiser of one modality.

    The paper's joint attention (section "multi-output generation") sits after every context block: each denoiser
    attends to the environment vectors of the *other* targets.
    """

    def __init__(self, layers: Layers, config: UNetConfig, *, context_dim: int, environment_dim: int) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.multipliers]
        time_dim = 4 * config.base_channels
        self.deepest_skip = config.deepest_skip
        self.time = TimeEmbedding(config.base_channels)

        def attention(level: int, dim: int, to: int, zero_init: bool = False) -> AttentionBlock | None:
            if level not in config.attention_levels:
                return None
            return AttentionBlock(
                dim, context_dim=to, num_heads=config.num_heads, num_groups=config.num_groups, zero_init=zero_init
            )

        self.stem = layers.stem(config.base_channels)
        self.down = nn.ModuleList()
        skips = [config.base_channels]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.down.append(
                    Block(
                        layers.residual(skips[-1], width, time_dim),
                        attention=attention(level, width, context_dim),
                        connector=attention(level, width, environment_dim, zero_init=True),
                    )
                )
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Block(None, resize=layers.down(width)))
                skips.append(width)

        deepest = widths[-1]
        self.middle_in = layers.residual(deepest, deepest, time_dim)
        self.middle_attention = AttentionBlock(
            deepest, context_dim=context_dim, num_heads=config.num_heads, num_groups=config.num_groups
        )
        self.middle_out = layers.residual(deepest, deepest, time_dim)

        self.up = nn.ModuleList()
        current = deepest
        for level in reversed(range(len(widths))):
            for index in range(config.num_res_blocks + 1):
                self.up.append(
                    Block(
                        layers.residual(current + skips.pop(), widths[level], time_dim),
                        attention=attention(level, widths[level], context_dim),
                        resize=layers.up(widths[level]) if level and index == config.num_res_blocks else None,
                        connector=attention(level, widths[level], environment_dim, zero_init=True),
                    )
                )
                current = widths[level]
        self.head = layers.head(widths[0])

    def forward(self, z: Tensor, t: Tensor, context: Context, environment: Context | None = None) -> Tensor:
        """Predict eps (or v, as the schedule says).

        Args:
            z: Noisy latent ``[B, *latent_shape]``.
            t: Timesteps ``[B]`` in 0..999.
            context: The mixed prompts, ``[B, L, D]``.
            environment: Environment vectors of the other targets ``[B, K, E]``; None: single-target, connectors are skipped.

        Returns:
            A tensor shaped like ``z``.
        """
        dtype = self.time.in_proj.weight.dtype
        contexts = context.for_layers(self, [block.cross_attention for block in self.context_blocks()], dtype)
        heard = None if environment is None else Context(environment.tokens.to(dtype), environment.log_weight)
        return self.predict(z.to(dtype), t, contexts, heard).to(z.dtype)

    def predict(self, z: Tensor, t: Tensor, contexts: list[Context], environment: Context | None) -> Tensor:
        """As :meth:`forward`, in the weights' precision, with a context for each of :meth:`context_blocks`."""
        remaining = iter(contexts)

        def run(block: nn.Module, h: Tensor) -> Tensor:
            return block(h, time, None if block.attention is None else next(remaining), environment)

        time = self.time(t)
        h = self.stem(z)
        skips = [h]
        for block in self.down:
            h = run(block, h)
            skips.append(h)
        h = self.middle_out(self.middle_attention(self.middle_in(h, time), next(remaining)), time)
        if self.deepest_skip == "published":
            skips[-1] = h
        for block in self.up:
            h = run(block, torch.cat([h, skips.pop()], dim=1))
        return self.head(h)

    def context_blocks(self) -> list[AttentionBlock]:
        """The blocks that attend to the prompts, in the order in which they are called."""
        ways = ([block.attention for block in way if isinstance(block, Block)] for way in (self.down, self.up))
        down, up = ([block for block in way if block is not None] for way in ways)
        return [*down, self.middle_attention, *up]

    def blocks(self) -> list[Block]:
        """The block table, downwards and upwards, without the middle."""
        return [block for block in (*self.down, *self.up) if isinstance(block, Block)]

    def connectors(self) -> list[nn.Module]:
        """The blocks through which this denoiser hears the others: what the stage ``join`` trains."""
        return [block.connector for block in self.blocks() if block.connector is not None]

    def single_target_parts(self) -> list[nn.Module]:
        """All but the connectors: what the stage ``diffuse`` trains."""
        whole = [self.time, self.stem, self.middle_in, self.middle_attention, self.middle_out, self.head]
        parts = [part for block in self.blocks() for part in (block.residual, block.attention, block.resize)]
        return whole + [part for part in parts if part is not None]


def image_denoiser(
    latent_shape: tuple[int, ...], config: UNetConfig, *, context_dim: int, environment_dim: int
) -> UNet:
    """A denoiser of latent maps ``[C, h, w]``.

    Raises:
        ValueError: If the map is too small for the number of levels.
    """
    smallest = min(latent_shape[1:]) // 2 ** (len(config.multipliers) - 1)
    if smallest < 1:
        raise ValueError(
            f"a {latent_shape} latent cannot be halved {len(config.multipliers) - 1} times; give fewer multipliers"
        )
    return UNet(ImageLayers(latent_shape, config), config, context_dim=context_dim, environment_dim=environment_dim)
