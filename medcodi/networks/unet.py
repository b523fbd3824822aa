"""The denoiser UNet: one block table for every kind of latent, in the layout of Stable Diffusion 1.x.

The table (which block follows which) is written once, in :class:`UNet`; a residual block, a step down or a step up comes from
:class:`Layers`: ``image_layers.ImageLayers`` for maps, ``vector_layers.VectorLayers`` for vectors. The environment encoders
are built from the same layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcodi.config import config
from medcodi.networks.attention import AttentionBlock, Context


@config
class UNetConfig:
    """Size of one denoiser; the defaults are Stable Diffusion 1.x (and MedCoDi-M)."""

    base_channels: int = 320  # channels of the first level
    # channels of each level, in base_channels; each level but the first halves the side
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # residual blocks of each level on the way down
    attention_levels: tuple[int, ...] = (0, 1, 2)  # levels with attention, to itself and to the context; 0 is the first
    num_heads: int = 8  # attention heads
    num_groups: int = 32  # groups of each group norm
    num_positions: int = 4  # vectors only: the S that the latent vector is folded into, [B, C, S, 1]
    # Input of the first block of the way up beside the middle's output: the deepest block of the way down (ordinary), or the
    # middle's output once more (published: as the released MedCoDi-M weights were trained).
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


class MapShape(NamedTuple):
    """Shape of a feature map, without the batch; a vector is folded into ``S x 1`` positions."""

    channels: int
    height: int
    width: int


class Layers(Protocol):
    """The layers that differ between kinds of latents."""

    def grid(self, level: int) -> tuple[int, int]:
        """Height and width of the map at a level, 0 at the top."""
        ...

    def stem(self, channels: int) -> nn.Module:
        """Latent -> first width."""
        ...

    def residual(self, channels_in: int, channels_out: int, time_dim: int) -> nn.Module:
        """A residual block that is given the time."""
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


class TimeEmbedding(nn.Module):
    """Timestep -> vector: sinusoid (cosines first, max period 10,000), linear, SiLU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.in_proj = nn.Linear(channels, 4 * channels)
        self.out_proj = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        """``t`` ``[B]`` -> ``[B, 4 * channels]``."""
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
        angles = t[:, None].float() * frequencies  # [B, channels / 2]
        wave = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.in_proj.weight.dtype)
        return self.out_proj(F.silu(self.in_proj(wave)))


class Block(nn.Module):
    """One entry of the block table: residual block, attention to prompts, change of resolution, connector; each optional."""

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


class Pass:
    """A forward pass of one denoiser that pauses at each of ``UNet.shared_maps``, where ``h`` may be replaced."""

    h: Tensor  # [B, C, H, W], what the next block reads; at the end the prediction

    def __init__(self, steps: Callable[[Pass], Iterator[None]]) -> None:
        self.steps = steps(self)


class UNet(nn.Module):
    """Denoiser of one modality; its *connectors* are the paper's joint attention to the other targets' environment vectors.

    Without ``environment_dim`` there are none: fellows then hear its maps (``medcodi.networks.hearing``).
    """

    def __init__(self, layers: Layers, config: UNetConfig, *, context_dim: int, environment_dim: int | None) -> None:
        super().__init__()
        widths = [config.base_channels * multiplier for multiplier in config.multipliers]
        time_dim = 4 * config.base_channels
        self.deepest_skip = config.deepest_skip
        self.time = TimeEmbedding(config.base_channels)

        # The maps at which a pass pauses, in order: after each block that attends to the prompts.
        self.shared_maps: list[MapShape] = []

        def share(level: int, grid_level: int) -> None:
            self.shared_maps.append(MapShape(widths[level], *layers.grid(grid_level)))

        def attention(level: int, to: int, zero_init: bool = False) -> AttentionBlock:
            heads, groups = config.num_heads, config.num_groups
            return AttentionBlock(
                widths[level], context_dim=to, num_heads=heads, num_groups=groups, zero_init=zero_init
            )

        def block(level: int, channels_in: int, *, steps_up: bool = False) -> Block:
            attends = level in config.attention_levels
            environment = environment_dim if attends else None
            made = Block(
                layers.residual(channels_in, widths[level], time_dim),
                attention=attention(level, context_dim) if attends else None,
                resize=layers.up(widths[level]) if steps_up else None,
                connector=None if environment is None else attention(level, environment, zero_init=True),
            )
            # The map after a step up has the size of the level above.
            if attends:
                share(level, level - 1 if steps_up else level)
            return made

        # The way down: per level, residual blocks with attention, then a step down.
        self.stem = layers.stem(config.base_channels)
        self.down = nn.ModuleList()
        skips = [config.base_channels]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.down.append(block(level, skips[-1]))
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Block(None, resize=layers.down(width)))
                skips.append(width)

        # The middle.
        self.middle_channels = deepest = widths[-1]
        self.middle_in = layers.residual(deepest, deepest, time_dim)
        self.middle_attention = attention(len(widths) - 1, context_dim)
        self.middle_out = layers.residual(deepest, deepest, time_dim)
        share(len(widths) - 1, len(widths) - 1)

        # The way up: one block more per level, each given the output of its mirror image on the way down. The last block of a level
        # steps up.
        self.up = nn.ModuleList()
        current = deepest
        for level in reversed(range(len(widths))):
            for index in range(config.num_res_blocks + 1):
                steps_up = level > 0 and index == config.num_res_blocks
                self.up.append(block(level, current + skips.pop(), steps_up=steps_up))
                current = widths[level]
        self.head = layers.head(widths[0])

    def forward(self, z: Tensor, t: Tensor, context: Context, environment: Context | None = None) -> Tensor:
        """Predict eps, v or velocity (the schedule's ``prediction_type``), shaped like ``z``.

        Args:
            z: Noisy latent ``[B, *latent_shape]``.
            t: Timesteps ``[B]`` in 0..num_train_timesteps-1.
            context: The mixed prompts, ``[B, L, D]``.
            environment: Environment vectors of the other targets ``[B, K, E]``; None: single-target, connectors are skipped.
        """
        dtype = self.time.in_proj.weight.dtype
        if environment is not None:
            environment = Context(environment.tokens.to(dtype), environment.log_weight)
        return self.predict(z.to(dtype), t, self._contexts(context), environment).to(z.dtype)

    def predict(self, z: Tensor, t: Tensor, contexts: list[Context], environment: Context | None) -> Tensor:
        """As :meth:`forward`, in the weights' precision, with a context for each of :meth:`context_blocks`."""
        alone = Pass(lambda run: self._steps(run, z, t, contexts, environment))
        for _ in alone.steps:
            pass
        return alone.h

    def begin(self, z: Tensor, t: Tensor, context: Context) -> Pass:
        """A pass that :meth:`advance` runs, with the arguments of :meth:`forward`."""
        z, contexts = z.to(self.time.in_proj.weight.dtype), self._contexts(context)
        return Pass(lambda run: self._steps(run, z, t, contexts, None))

    def advance(self, run: Pass, h: Tensor | None = None) -> Tensor:
        """Run a pass to the next of ``shared_maps``, which is returned, or to the prediction; ``h`` replaces the map it paused at."""
        if h is not None:
            run.h = h
        next(run.steps, None)
        return run.h

    def _contexts(self, context: Context) -> list[Context]:
        layers = [block.cross_attention for block in self.context_blocks()]
        return context.for_layers(self, layers, self.time.in_proj.weight.dtype)

    def _steps(
        self, run: Pass, z: Tensor, t: Tensor, contexts: list[Context], environment: Context | None
    ) -> Iterator[None]:
        """The blocks in order, with a pause after each that attends to the prompts."""
        remaining = iter(contexts)

        # Down.
        time = self.time(t)
        run.h = self.stem(z)
        skips = [run.h]
        for block in self.down:
            run.h = block(run.h, time, None if block.attention is None else next(remaining), environment)
            if block.attention is not None:
                yield
            skips.append(run.h)
        # Middle.
        run.h = self.middle_out(self.middle_attention(self.middle_in(run.h, time), next(remaining)), time)
        yield
        if self.deepest_skip == "published":
            skips[-1] = run.h
        # Up, each block beside its skip.
        for block in self.up:
            run.h = torch.cat([run.h, skips.pop()], dim=1)
            run.h = block(run.h, time, None if block.attention is None else next(remaining), environment)
            if block.attention is not None:
                yield
        run.h = self.head(run.h)

    def context_blocks(self) -> list[AttentionBlock]:
        """The blocks that attend to the prompts, in the order in which they are called."""
        down, up = (
            [block.attention for block in way if isinstance(block, Block) and block.attention is not None]
            for way in (self.down, self.up)
        )
        return [*down, self.middle_attention, *up]

    def blocks(self) -> list[Block]:
        """The block table, downwards and upwards, without the middle."""
        return [block for block in (*self.down, *self.up) if isinstance(block, Block)]

    def connectors(self) -> list[nn.Module]:
        """The blocks that attend to the other denoisers: the stage ``join`` trains them."""
        return [block.connector for block in self.blocks() if block.connector is not None]

    def single_target_parts(self) -> list[nn.Module]:
        """All but the connectors: the stage ``diffuse`` trains them."""
        whole = [self.time, self.stem, self.middle_in, self.middle_attention, self.middle_out, self.head]
        parts = [part for block in self.blocks() for part in (block.residual, block.attention, block.resize)]
        return whole + [part for part in parts if part is not None]
