"""What a stage runs on one micro-batch, without any data: networks on tensors of the right shapes, for counting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.networks.attention import Context
from medcodi.stages.stage import Stage

Forward = Callable[[int], list[Tensor]]  # studies -> what the loss is made of


@dataclass(frozen=True)
class Workload:
    """The forward passes of a stage.

    Attributes:
        trained: Whose activations wait for the backward pass; all of them are alive together.
        frozen: Run without gradient before that; empty where studies come from a cache of encodings.
        drawn: Share of the trained ones that a step runs on average, where it draws some of them.
    """

    trained: tuple[Forward, ...]
    frozen: tuple[Forward, ...] = ()
    drawn: float = 1.0


def workload(stage: Stage, *, cached: bool = False) -> Workload:
    """The forward passes of one micro-batch of a stage, every study complete.

    Args:
        stage: Around a model, which may hold no memory (meta or fake tensors).
        cached: Studies come encoded (``diffuse`` and ``join``).
    """
    return WORKLOADS[stage.name](stage, cached)


def _named(model: Any, kind: Kind) -> list[str]:
    return [name for name in model.config.modalities if MODALITIES[name].kind == kind]


def _images(model: Any, rows: int, side: int | None = None) -> Tensor:
    pixels = int(side or model.config.image_size)
    return torch.zeros(rows, 1, pixels, pixels)


def _context(model: Any, rows: int, prompts: list[str]) -> Context:
    encoders = model.prompt_encoders
    if model.config.context == "pooled":
        return Context(torch.zeros(rows, 1, encoders.embed_dim))
    length = sum(encoders.max_tokens(MODALITIES[name].kind) for name in prompts)
    return Context(torch.zeros(rows, length, encoders.embed_dim), torch.zeros(rows, length))


def _image_autoencoder(stage: Any) -> Forward:
    model = stage.model
    autoencoder, views = model.autoencoders["image"], len(_named(model, "image"))

    def forward(studies: int) -> list[Tensor]:
        mean, logvar = autoencoder.encode(_images(model, views * studies, stage.options.crop_size))
        return [autoencoder.decode_unclamped(mean + logvar), mean, logvar]

    return forward


def _report_autoencoder(stage: Any) -> Forward:
    autoencoder = stage.model.autoencoders["text"]

    def forward(studies: int) -> list[Tensor]:
        ids = torch.zeros(studies, autoencoder.config.max_length, dtype=torch.long)
        mean, logvar = autoencoder.encode_ids(ids, torch.ones_like(ids, dtype=torch.bool))
        return [autoencoder.logits(mean + logvar, ids[:, 1:]).float().log_softmax(-1)]

    return forward


def _autoencode(stage: Any, cached: bool) -> Workload:
    rows: dict[Kind, Callable[[Any], Forward]] = {"image": _image_autoencoder, "text": _report_autoencoder}
    return Workload(tuple(rows[kind](stage) for kind in stage.options.kinds))


def _image_tower(model: Any) -> Forward:
    views = len(_named(model, "image"))
    return lambda studies: [model.prompt_encoders.encode("image", _images(model, views * studies)).pooled]


def _text_tower(model: Any) -> Forward:
    encoders = model.prompt_encoders

    def forward(studies: int) -> list[Tensor]:
        tower, length = encoders.text_tower, encoders.max_tokens("text")
        x = tower.token_embedding(torch.zeros(studies, length, dtype=torch.long)) + tower.positional_embedding[:length]
        return [tower.ln_final(tower.transformer(x)) @ tower.text_projection]

    return forward


def _towers(model: Any) -> tuple[Forward, ...]:
    return (_image_tower(model), _text_tower(model))


def _align(stage: Any, cached: bool) -> Workload:
    return Workload(_towers(stage.model))


def _encoding(model: Any) -> tuple[Forward, ...]:
    """Autoencoders and prompt encoders, which ``diffuse`` and ``join`` only listen to."""
    images, autoencoders = len(_named(model, "image")), model.autoencoders

    def report(studies: int) -> list[Tensor]:
        ids = torch.zeros(studies, autoencoders["text"].config.max_length, dtype=torch.long)
        return list(autoencoders["text"].encode_ids(ids, torch.ones_like(ids, dtype=torch.bool)))

    def image(studies: int) -> list[Tensor]:
        return list(autoencoders["image"].encode(_images(model, images * studies)))

    return (image, report, *_towers(model))


def _denoiser(model: Any, name: str, environments: int = 0) -> Forward:
    prompts = [other for other in model.config.modalities if other != name]

    def forward(studies: int) -> list[Tensor]:
        z, t = torch.zeros(studies, *model.latent_shape(name)), torch.zeros(studies, dtype=torch.long)
        heard = Context(torch.zeros(studies, environments, model.config.environment.dim)) if environments else None
        return [model.denoisers[name](z, t, _context(model, studies, prompts), heard)]

    return forward


def _environment(model: Any, name: str) -> Forward:
    network: nn.Module = model.environment[name]
    return lambda studies: [
        network(torch.zeros(studies, *model.latent_shape(name)), torch.zeros(studies, dtype=torch.long))
    ]


def _diffuse(stage: Any, cached: bool) -> Workload:
    model = stage.model
    return Workload(tuple(_denoiser(model, name) for name in stage.targets), () if cached else _encoding(model))


def _join(stage: Any, cached: bool) -> Workload:
    """All modalities at once: the largest set of targets that a step can draw."""
    model = stage.model
    names = in_table_order(model.config.modalities)
    passes = [_denoiser(model, name, environments=len(names) - 1) for name in names]
    drawn = sum(map(len, stage.target_sets)) / (len(stage.target_sets) * len(names))
    trained = (*passes, *(_environment(model, name) for name in names))
    return Workload(trained, () if cached else _encoding(model), drawn)


WORKLOADS: dict[str, Callable[[Any, bool], Workload]] = {
    "autoencode": _autoencode,
    "align": _align,
    "diffuse": _diffuse,
    "join": _join,
}
