"""A batch as the stages ``diffuse`` and ``join`` need it: latents' moments and prompt encodings, no pixels, no words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medcodi.data.loading import Batch
from medcodi.diffusion.prompts import draw_prompts
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.networks.prompt_encoders import PromptEncoding
from medcodi.randomness import StepRandomness


@dataclass(frozen=True)
class EncodedBatch:
    """What frozen parts make of a batch.

    Attributes:
        means: Modality -> ``[B, *latent_shape]``, scaled.
        stds: Modality -> posterior standard deviation, like ``means``.
        prompts: Modality -> encoding of every row (of the null prompt where the row lacks the modality).
        present: Modality -> bool ``[B]``.
        study_ids: ``B`` names.
        patient_ids: ``B`` names.
        samples: ``B`` indices in the dataset.
    """

    means: dict[str, Tensor]
    stds: dict[str, Tensor]
    prompts: dict[str, PromptEncoding]
    present: dict[str, Tensor]
    study_ids: list[str]
    patient_ids: list[str]
    samples: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.study_ids)

    def to(self, device: torch.device | str) -> EncodedBatch:
        """The same on a device."""
        moved = {
            field: {name: value.to(device) for name, value in getattr(self, field).items()}
            for field in ("means", "stds", "prompts", "present")
        }
        return replace(self, **moved)


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
    )


def training_context(
    model: MedCoDi,
    batch: EncodedBatch,
    targets: tuple[str, ...],
    randomness: StepRandomness,
    *,
    drop_probability: float,
) -> Context:
    """The context a sample is trained with (DESIGN section 2, multi-prompt).

    Per sample, keyed: a non-empty subset of the modalities it has apart from the targets, uniformly; then, with
    ``drop_probability``, or where it has none, the null prompts instead.
    """
    names = [name for name in batch.prompts if name not in targets]
    if not names:
        return model.null_context((), len(batch))
    what = "+".join(targets)
    u = randomness.uniform(f"prompts/{what}", 2).to(torch.float32)  # [B, 2]
    chosen = draw_prompts(torch.stack([batch.present[name] for name in names], dim=1), u[:, 0])  # [B, P]
    empty = ~chosen.any(dim=1)
    dropped = (u[:, 1].to(chosen.device) < drop_probability) | empty
    chosen = chosen | empty[:, None]  # rows without any prompt: the nulls of all
    encodings = {name: batch.prompts[name].where(~dropped, model.null_prompts(name, len(batch))) for name in names}
    return model.context(encodings, {name: chosen[:, index].float() for index, name in enumerate(names)})
