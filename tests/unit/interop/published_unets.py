"""The published layout's UNets and environment encoders: keys and shapes at any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

Pairs = Iterator[tuple[str, tuple[int, ...]]]
DEAD = (1,)  # video layers: what they hold, and how large they are, must not matter


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint; the defaults are the released one's."""

    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    positions: int = 4
    environment_base: int = 160
    environment_multipliers: tuple[int, ...] = (2, 4, 8)
    environment_dim: int = 1280
    embed_dim: int = 768
    latent_dim: int = 768
    vae: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2
    bert: tuple[int, int, int, int, int] = (768, 12, 3072, 28996, 512)  # width, layers, feed-forward, tokens, positions
    gpt2: tuple[int, int, int, int, int] = (768, 12, 3072, 50260, 1024)
    text: tuple[int, int, int, int, int] = (768, 12, 3072, 49408, 77)
    vision: tuple[int, int, int, int, int] = (1024, 24, 4096, 14, 16)  # ..., patch, patches on a side


MINI = Sizes(
    channels=8,
    multipliers=(1, 2),
    num_res_blocks=1,
    attention_levels=(0, 1),
    positions=2,
    environment_base=4,
    environment_multipliers=(2, 4),
    environment_dim=8,
    embed_dim=12,
    latent_dim=16,
    vae=(8, 8),
    vae_blocks=1,
    bert=(16, 1, 24, 20, 24),
    gpt2=(8, 2, 32, 30, 24),
    text=(8, 1, 16, 40, 10),
    vision=(16, 2, 32, 4, 2),
)


def layer(name: str, *shape: int) -> Pairs:
    """A weight, and a bias of its first axis."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def attention(name: str, width: int, context: int) -> Pairs:
    """A spatial transformer."""
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, 1, 1)
    inner = f"{name}.transformer_blocks.0"
    for part, key_width in (("attn1", width), ("attn2", context)):
        yield f"{inner}.{part}.to_q.weight", (width, width)
        yield f"{inner}.{part}.to_k.weight", (width, key_width)
        yield f"{inner}.{part}.to_v.weight", (width, key_width)
        yield from layer(f"{inner}.{part}.to_out.0", width, width)
    yield from layer(f"{inner}.ff.net.0.proj", 8 * width, width)
    yield from layer(f"{inner}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from layer(f"{inner}.{norm}", width)
    yield from layer(f"{name}.proj_out", width, width, 1, 1)


def temporal(name: str, frame_shift: bool = True) -> Pairs:
    """A video layer."""
    inner = ["pos_embeds", "frame_rate_embeds", "norm.g", "to_q.weight", "to_kv.weight", "to_out.weight"]
    keys = [f"temporal_attn.{key}" for key in inner]
    keys += [
        f"temporal_rel_pos_bias.net.{index}.{what}" for index in ("0.0", "1.0", "2") for what in ("weight", "bias")
    ]
    keys += ["ff.proj_in.0.weight", "ff.proj_out.0.g", "ff.proj_out.1.weight"]
    keys += [f"frameshiftblock.out_layers.{i}.{what}" for i in (0, 2) for what in ("weight", "bias") if frame_shift]
    for key in keys:
        yield f"{name}.{key}", DEAD


@dataclass(frozen=True)
class Unet:
    """One UNet: maps (``positions`` None), or folded vectors."""

    sizes: Sizes
    positions: int | None
    latent: int

    def residual(self, name: str, inside: int, outside: int) -> Pairs:
        """A residual block; in a map's UNet the first of a pair, whose second is a video layer."""
        fold, kernel = self.positions or 1, (3, 3) if self.positions is None else (1, 1)
        place = f"{name}.0" if self.positions is None else name
        inside, outside = inside * fold, outside * fold
        yield from layer(f"{place}.in_layers.0", inside)
        yield from layer(f"{place}.in_layers.2", outside, inside, *kernel)
        yield from layer(f"{place}.emb_layers.1", outside, 4 * self.sizes.channels)
        yield from layer(f"{place}.out_layers.0", outside)
        yield from layer(f"{place}.out_layers.3", outside, outside, *kernel)
        if inside != outside:
            yield from layer(f"{place}.skip_connection", outside, inside, 1, 1)
        if self.positions is None:
            yield from temporal(f"{name}.1")

    def step(self, name: str, width: int, inner: str) -> Pairs:
        """A step down or up."""
        if self.positions is None:
            yield from layer(f"{name}.{inner}", width, width, 3, 3)
        else:
            yield from layer(name, width * self.positions, width * self.positions)

    def stem(self, name: str, width: int) -> Pairs:
        """The first layer."""
        if self.positions is None:
            yield from layer(name, width, self.latent, 3, 3)
        else:
            yield from layer(name, width * self.positions, self.latent)

    def head(self, name: str, width: int, outside: int) -> Pairs:
        """Norm and projection."""
        yield from layer(f"{name}.0", width)
        if self.positions is None:
            yield from layer(f"{name}.2", outside, width, 3, 3)
        else:
            yield from layer(f"{name}.2", outside, width * self.positions)

    def environment(self) -> Pairs:
        """The environment encoder."""
        width = self.sizes.environment_base
        yield from self.stem("connecters_out.0.0", width)
        index = 1
        for level, multiplier in enumerate(self.sizes.environment_multipliers):
            if level:
                yield from self.step(f"connecters_out.{index}.0", width, "op")
                index += 1
            wider = self.sizes.environment_base * multiplier
            yield from self.residual(f"connecters_out.{index}.0", width, wider)
            width, index = wider, index + 1
        yield from self.head(f"connecters_out.{index}", width, self.sizes.environment_dim)

    def block(self, way: str, index: int, level: int, inside: int, outside: int) -> Pairs:
        """Residual block, attention, and what hears the other UNets."""
        yield from self.residual(f"{way}_blocks.{index}.0", inside, outside)
        if level in self.sizes.attention_levels:
            yield from attention(f"{way}_blocks.{index}.1", outside, self.sizes.embed_dim)
            yield from attention(f"{way}_block_connecters_in.{index}.0", outside, self.sizes.environment_dim)

    def pairs(self) -> Pairs:
        """All of it."""
        sizes = self.sizes
        widths = [sizes.channels * multiplier for multiplier in sizes.multipliers]
        yield from layer("time_embed.0", 4 * sizes.channels, sizes.channels)
        yield from layer("time_embed.2", 4 * sizes.channels, 4 * sizes.channels)
        yield from self.environment()
        yield from self.stem("input_blocks.0.0", sizes.channels)
        skips, index = [sizes.channels], 1
        for level, width in enumerate(widths):
            for _ in range(sizes.num_res_blocks):
                yield from self.block("input", index, level, skips[-1], width)
                skips.append(width)
                index += 1
            if level < len(widths) - 1:
                yield from self.step(f"input_blocks.{index}.0", width, "op")
                skips.append(width)
                index += 1
        yield from self.residual("middle_block.0", widths[-1], widths[-1])
        yield from attention("middle_block.1", widths[-1], sizes.embed_dim)
        yield from self.residual("middle_block.2", widths[-1], widths[-1])
        current, index = widths[-1], 0
        for level in reversed(range(len(widths))):
            for number in range(sizes.num_res_blocks + 1):
                yield from self.block("output", index, level, current + skips.pop(), widths[level])
                if level and number == sizes.num_res_blocks:
                    member = 2 if level in sizes.attention_levels else 1
                    yield from self.step(f"output_blocks.{index}.{member}", widths[level], "conv")
                current, index = widths[level], index + 1
        yield from self.head("out", widths[0], self.latent)
