"""The ground of ``diffuse`` and ``join``: encoded batches, noisy latents, and the prompts that rows are trained with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medcodi.data.loading import Batch
from medcodi.diffusion.objective import add_noise, training_target
from medcodi.diffusion.prompts import draw_prompts
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.networks.prompt_encoding import PromptEncoding
from medcodi.randomness import StepRandomness
from medcodi.transfer import to_device


@dataclass(frozen=True)
class EncodedBatch:
    """A batch as the frozen networks encode it, by modality: no pixels, no words."""

    means: dict[str, Tensor]  # of the latents' posteriors, scaled [B, *latent_shape]
    stds: dict[str, Tensor]  # standard deviations, like means
    prompts: dict[str, PromptEncoding]  # B rows, of the null prompt where a row lacks the modality
    present: dict[str, Tensor]  # bool [B]
    study_ids: list[str]
    patient_ids: list[str]
    samples: tuple[int, ...]  # B indices in the dataset
    nulls: dict[str, PromptEncoding] = field(default_factory=dict)  # of the null prompt, one row

    def __len__(self) -> int:
        return len(self.study_ids)

    def to(self, device: torch.device | str) -> EncodedBatch:
        """The same on a device."""
        tensors = {
            part: {name: to_device(value, device) for name, value in getattr(self, part).items()}
            for part in ("means", "stds", "present")
        }
        encodings = {
            part: {name: value.to(device) for name, value in getattr(self, part).items()}
            for part in ("prompts", "nulls")
        }
        return replace(self, **tensors, **encodings)


@torch.no_grad()
def encode_batch(model: MedCoDi, batch: Batch | EncodedBatch) -> EncodedBatch:
    """Run the frozen autoencoders and prompt encoders; a batch that comes encoded from a cache passes through."""
    if isinstance(batch, EncodedBatch):
        return batch
    names = [name for name in model.config.modalities if name in batch.contents]
    moments = {name: model.latent_moments(name, batch.contents[name]) for name in names}
    return EncodedBatch(
        means={name: mean.float() for name, (mean, _) in moments.items()},
        stds={name: std.float() for name, (_, std) in moments.items()},
        prompts={name: model.encode_prompts(name, batch.contents[name]) for name in names},
        present={name: batch.present[name] for name in names},
        study_ids=batch.study_ids,
        patient_ids=batch.patient_ids,
        samples=batch.samples,
        nulls=encode_nulls(model, names),
    )


@torch.no_grad()
def encode_nulls(model: MedCoDi, names: Iterable[str]) -> dict[str, PromptEncoding]:
    """Modality -> encoding of its null prompt, one row; encoded once for each kind."""
    kinds = {MODALITIES[name].kind: name for name in names}
    encoded = {kind: model.null_prompts(name, 1) for kind, name in kinds.items()}
    return {name: encoded[MODALITIES[name].kind] for name in names}


@torch.no_grad()
def noisy_latent(
    model: MedCoDi, batch: EncodedBatch, name: str, t: Tensor, draws: StepRandomness
) -> tuple[Tensor, Tensor]:
    """Draw latents x0 of a modality from their posteriors; x_t at timesteps ``[B]`` and the denoiser's target (eps, v or velocity).

    Both are ``[B, *latent_shape]``; x_t = a_t x0 + s_t eps.
    """
    mean, std = batch.means[name], batch.stds[name]
    x0 = mean + std * draws.normal(f"posterior/{name}", mean.shape[1:], mean.device)
    noise = draws.normal(f"noise/{name}", mean.shape[1:], mean.device)
    return add_noise(model.schedule, x0, noise, t), training_target(model.schedule, x0, noise, t)


@dataclass(frozen=True)
class DrawnPrompts:
    """The prompts that each row is trained with."""

    names: tuple[str, ...]  # the P modalities that can prompt: those that are no targets
    chosen: Tensor  # bool [B, P], the subset of each row
    dropped: Tensor  # bool [B], True where the null prompts replace the subset

    @property
    def subsets(self) -> list[str]:
        """Every subset in words, ``"nothing"`` first; :attr:`cells` are indices into it."""
        codes = range(2 ** len(self.names))
        parts = [[name for bit, name in enumerate(self.names) if code >> bit & 1] for code in codes]
        return ["+".join(part) or "nothing" for part in parts]

    @property
    def cells(self) -> Tensor:
        """Int64 ``[B]``: the index among :attr:`subsets` of each row's prompts."""
        bits = torch.arange(len(self.names), device=self.chosen.device)
        codes = (self.chosen.long() << bits).sum(dim=1)  # [B]
        return torch.where(self.dropped, torch.zeros_like(codes), codes)

    @torch.no_grad()
    def context(self, model: MedCoDi, batch: EncodedBatch) -> Context:
        """The context that the denoisers of these rows attend to."""
        nulls = {name: null.expand(len(batch)) for name, null in batch.nulls.items()}
        if not self.names:
            equal = torch.ones(len(batch), device=self.dropped.device)
            return model.context(nulls, {name: equal for name in nulls})
        encodings = {name: batch.prompts[name].where(~self.dropped, nulls[name]) for name in self.names}
        return model.context(encodings, {name: self.chosen[:, index].float() for index, name in enumerate(self.names)})

    def null_context(self, model: MedCoDi, batch: EncodedBatch) -> Context:
        """The context of these rows' null prompts, which guidance contrasts theirs with."""
        return replace(self, dropped=torch.ones_like(self.dropped)).context(model, batch)


@torch.no_grad()
def draw_training_prompts(
    batch: EncodedBatch,
    targets: tuple[str, ...],
    draws: StepRandomness,
    *,
    drop_probability: float,
    most: int | None = None,
) -> DrawnPrompts:
    """Draw for each row a non-empty subset (of at most ``most``) of its modalities apart from the targets, uniformly.

    With ``drop_probability``, or where a row has none, the null prompts replace it (the paper, multi-prompt training).
    """
    names = tuple(name for name in batch.prompts if name not in targets)
    present = [batch.present[name] for name in names]
    if not names:  # every modality is a target
        all_rows = torch.ones(len(batch), dtype=torch.bool, device=next(iter(batch.present.values())).device)
        return DrawnPrompts((), all_rows[:, None][:, :0], all_rows)
    u = draws.uniform(f"prompts/{'+'.join(targets)}", 2).to(torch.float32)
    u = to_device(u, present[0].device)  # [B, 2]
    chosen = draw_prompts(torch.stack(present, dim=1), u[:, 0], most)  # [B, P]
    empty = ~chosen.any(dim=1)
    dropped = (u[:, 1] < drop_probability) | empty
    return DrawnPrompts(names, chosen | empty[:, None], dropped)  # rows without any prompt: the nulls of all
