"""Forward passes without data, and the modes that count what they cost: operations, largest results, a GPU's autocast.

The model may be on meta or fake tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from medcodi.modality import MODALITIES, Kind
from medcodi.model.low_rank import call_with
from medcodi.networks.attention import Context

Forward = Callable[[int], list[Tensor]]  # number of studies -> the tensors that the loss is made of


@dataclass(frozen=True)
class DryRun:
    """The forward passes of one micro-batch of a stage, every study complete."""

    trained: tuple[Forward, ...]  # their activations wait for the backward pass, all at the same time
    frozen: tuple[Forward, ...] = ()  # run before, without gradient; none where studies come from a cache of encodings
    drawn: float = 1.0  # share of the trained passes that a step runs on average, where it draws some of them


def image_reconstruction(model: Any, crop_size: int | None) -> Forward:
    """Encode and decode every view, whole or cropped."""
    autoencoder, side = model.autoencoders["image"], crop_size or model.config.image_size

    def forward(studies: int) -> list[Tensor]:
        mean, logvar = autoencoder.encode(_images(model, studies, side))
        return [autoencoder.decode_unclamped(mean + logvar), mean, logvar]

    return forward


def report_reconstruction(model: Any) -> Forward:
    """Encode and decode reports of the greatest length."""
    autoencoder = model.autoencoders["text"]

    def forward(studies: int) -> list[Tensor]:
        ids, mask = _tokens(autoencoder, studies)
        mean, logvar = autoencoder.encode_ids(ids, mask)
        return [autoencoder.logits(mean + logvar, ids[:, 1:]).float().log_softmax(-1)]

    return forward


def record_reconstruction(model: Any) -> Forward:
    """Encode and decode records."""

    def forward(studies: int) -> list[Tensor]:
        loss = model.autoencoders["table"].reconstruction_loss([{}] * studies)
        return [loss.loss, loss.kl]

    return forward


def prompt_encoding(model: Any) -> dict[Kind, Forward]:
    """Kind -> its tower: of images on every view, of text on reports of the greatest length, of records where there is one."""
    encoders = model.prompt_encoders

    def image_tower(studies: int) -> list[Tensor]:
        return [encoders.encode("image", _images(model, studies)).pooled]

    def text_tower(studies: int) -> list[Tensor]:
        tower, length = encoders.text_tower, encoders.max_tokens("text")
        x = tower.token_embedding(torch.zeros(studies, length, dtype=torch.long)) + tower.positional_embedding[:length]
        return [tower.ln_final(tower.transformer(x)) @ tower.text_projection]

    def record_tower(studies: int) -> list[Tensor]:
        return [encoders.encode("table", [{}] * studies).tokens]

    towers: dict[Kind, Forward] = {"image": image_tower, "text": text_tower}
    return towers if encoders.record_tower is None else {**towers, "table": record_tower}


def frozen_encoding(model: Any) -> tuple[Forward, ...]:
    """The encoders that ``diffuse`` and ``join`` run without gradient: of both autoencoders, and of prompts."""
    autoencoders = model.autoencoders

    def image(studies: int) -> list[Tensor]:
        return list(autoencoders["image"].encode(_images(model, studies)))

    def report(studies: int) -> list[Tensor]:
        return list(autoencoders["text"].encode_ids(*_tokens(autoencoders["text"], studies)))

    def record(studies: int) -> list[Tensor]:
        return list(autoencoders["table"].encode([{}] * studies))

    passes = {"image": image, "text": report, "table": record}
    return *(passes[kind] for kind in autoencoders), *prompt_encoding(model).values()


def denoising(model: Any, name: str, num_environments: int = 0, *, student: bool = False) -> Forward:
    """The denoiser of one modality, or its student, prompted with all others; it hears the environments of its fellow targets."""
    prompts = [other for other in model.config.modalities if other != name]

    def forward(studies: int) -> list[Tensor]:
        z, t = _noisy_latents(model, name, studies)
        vectors = torch.zeros(studies, num_environments, model.config.environment.dim) if num_environments else None
        environment = None if vectors is None else Context(vectors)
        weights = model.student_weights([name])[name] if student else None
        return [call_with(model.denoisers[name], weights, z, t, _context(model, studies, prompts), environment)]

    return forward


def denoising_together(model: Any, names: Sequence[str]) -> Forward:
    """The denoisers of several targets in lockstep, hearing each other's maps; prompted with all modalities but one."""

    def forward(studies: int) -> list[Tensor]:
        latents = {name: _noisy_latents(model, name, studies)[0] for name in names}
        t = torch.zeros(studies, dtype=torch.long)
        return list(model.denoise(latents, t, _context(model, studies, list(names[1:]))).values())

    return forward


def environment(model: Any, name: str) -> Forward:
    """The environment encoder of one modality."""
    return lambda studies: [model.environment[name](*_noisy_latents(model, name, studies))]


def _images(model: Any, studies: int, side: int | None = None) -> Tensor:
    kinds: list[Kind] = [MODALITIES[name].kind for name in model.config.modalities]
    pixels = int(side or model.config.image_size)
    return torch.zeros(kinds.count("image") * studies, 1, pixels, pixels)  # every view


def _tokens(autoencoder: Any, studies: int) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(studies, autoencoder.config.max_length, dtype=torch.long)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def _noisy_latents(model: Any, name: str, studies: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(studies, *model.latent_shape(name)), torch.zeros(studies, dtype=torch.long)


def _context(model: Any, studies: int, prompts: list[str]) -> Context:
    encoders = model.prompt_encoders
    if model.config.context == "pooled":
        return Context(torch.zeros(studies, 1, encoders.embed_dim))
    length = sum(encoders.max_tokens(MODALITIES[name].kind) for name in prompts)
    return Context(torch.zeros(studies, length, encoders.embed_dim), torch.zeros(studies, length))


# ---- counting: modes under which passes of fake tensors run ----------------------------------------------------------
class Norms(TorchFunctionMode):
    """``wide``: computes norms in float32, as autocast does on a GPU, but not on the CPU, where operations are counted."""

    def __init__(self, *, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.wide and func in (F.group_norm, F.layer_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


class LargestResult(TorchDispatchMode):
    """Finds the largest result of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                # An expanded view is no larger than its storage.
                size = min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
                self.bytes = max(self.bytes, size)
        return result


# The CPU's attention kernels, which torch's registry lacks: fake tensors are on the CPU.
_CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda gradient, q, k, v, *_, **__: (
        sdpa_backward_flop_count(gradient.shape, q.shape, k.shape, v.shape)
    ),
}


class Operations(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products, convolutions and attention, in both passes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket  # pyright: ignore[reportFunctionMemberAccess]
        count = _CPU_ATTENTION.get(packet) or flop_registry.get(packet)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result
