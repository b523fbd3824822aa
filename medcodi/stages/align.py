"""Stage ``align``: the prompt encoders learn one space by InfoNCE over every pair of modalities in a batch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import ConfigError
from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.sharing import Features, Rows, Share, each_weight
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks
from medcodi.stages.statements import STATEMENT_TEXTS, agreement, statement_truth
from medcodi.stages.tally import tally

if TYPE_CHECKING:
    from medcodi.data.loading import Batch
    from medcodi.model import MedCoDi


@config
class AlignOptions:
    """Options of stage ``align``."""

    same_patient_negatives: bool = True  # False: studies of one patient are not negatives of each other either
    shift: float = 0.0  # images move by up to this share of their side, each way
    intensity: float = 0.0  # contrast changes by up to this share, brightness by half of it
    statement_weight: float = (
        0.0  # of the agreement with statements about findings (medcodi.stages.statements); 0: InfoNCE alone
    )

    @model_validator(mode="after")
    def _check(self) -> AlignOptions:
        if not (0 <= self.shift < 0.5 and 0 <= self.intensity < 1):
            raise ValueError(f"shift = {self.shift} must be in [0, 0.5), intensity = {self.intensity} in [0, 1)")
        if self.statement_weight < 0:
            raise ValueError(f"statement_weight = {self.statement_weight} must be at least 0")
        return self


class AlignStage(Stage):
    """Trains both towers and the temperature."""

    name = "align"
    Options = AlignOptions
    options: AlignOptions

    def __init__(self, model: MedCoDi, options: AlignOptions | None = None) -> None:
        super().__init__(model, options)
        if self.options.statement_weight and not _texts(model.config.modalities):
            raise ConfigError(
                f"statement_weight = {self.options.statement_weight} in a model of {', '.join(model.config.modalities)}",
                expected="a text modality, in which findings are told",
                fix="set it to 0",
            )

    def trained_parts(self) -> list[nn.Module]:
        """The prompt encoders."""
        return [self.model.prompt_encoders]

    def forward(self, batch: Batch, randomness: StepRandomness, share: Share | None = None) -> StepOutput:
        """Sum over pairs of modalities of the symmetric InfoNCE; logs loss, top-1 accuracy and spread of each pair.

        With ``statement_weight``, plus each modality's disagreement with the statements about its study.
        """
        features = self.features(batch, randomness)
        output = self.compared(features, batch, share)
        if not self.options.statement_weight:
            return output
        stated, logs = self._stated(features, batch, share)
        return StepOutput(output.loss + self.options.statement_weight * stated, {**output.logs, **logs})

    def features(self, batch: Batch, randomness: StepRandomness) -> Features:
        """The pooled encodings, and the temperature they are compared at."""
        return {**self._pooled(batch, randomness), "logit_scale": self.model.prompt_encoders.clamped_logit_scale()}

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """InfoNCE over all rows."""
        logit_scale = features["logit_scale"]
        pooled = [name for name in features if name != "logit_scale"]
        names = rows.study_ids if self.options.same_patient_negatives else rows.patient_ids
        groups = group_ids(names, logit_scale.device)
        loss, logs = logit_scale * 0.0, {}
        for first, second in combinations(pooled, 2):
            both = rows.present[first] & rows.present[second]
            result = contrast(features[first], features[second], logit_scale.exp(), groups, both)
            loss = loss + result.loss
            logs[f"{first}-{second}/loss"] = result.loss.detach()
            logs[f"{first}-{second}/top1"] = result.accuracy
            logs[f"{first}-{second}/spread"] = result.spread
        logs["logit_scale"] = logit_scale.detach()
        return StepOutput(loss, logs)

    def _stated(self, features: Features, batch: Batch, share: Share | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Disagreement of every modality with the statements about its study, averaged over modalities, and what is logged of it.

        Rows without a report, whose truth nobody tells, take no part.
        """
        told = _texts(batch.contents)[0]
        reports: Any = batch.contents[told]
        scale = features["logit_scale"].exp()
        truth = statement_truth(reports).to(scale.device)
        statements = self.model.prompt_encoders.encode("text", STATEMENT_TEXTS).pooled
        names = [name for name in features if name != "logit_scale"]
        loss, logs = scale * 0.0, {}
        for name in names:
            weigh = partial(_both_present, name, told)
            weight, everywhere = weigh(Rows.of(batch)), each_weight(share, weigh)
            held = agreement(features[name], statements, truth, scale)
            loss = loss + mean_over_ranks(held.loss, weight, everywhere) / len(names)
            logs[f"{name}/statements"] = mean_over_ranks(held.loss.detach(), weight, everywhere)
            everyone = torch.zeros(len(held.hits), dtype=torch.int64)
            logs |= tally(held.hits, weight * (held.claims > 0), everyone, [f"{name}/claims_right"])
        return loss, logs

    def _pooled(self, batch: Batch, randomness: StepRandomness) -> dict[str, Tensor]:
        """Modality -> pooled encodings ``[B, D]`` of all rows, absent ones too; each tower runs once."""
        names = in_table_order(batch.contents)
        pooled: dict[str, Tensor] = {}
        kinds: dict[Kind, None] = dict.fromkeys(MODALITIES[name].kind for name in names)
        for kind in kinds:
            served = [name for name in names if MODALITIES[name].kind == kind]
            values: list[Any] = [self._augmented(name, batch, randomness) for name in served]
            joined: Any = torch.cat(values) if kind == "image" else [text for part in values for text in part]
            parts = self.model.prompt_encoders.encode(kind, joined).pooled.chunk(len(served))
            pooled.update(zip(served, parts, strict=True))
        return {name: pooled[name] for name in names}

    def _augmented(self, name: str, batch: Batch, randomness: StepRandomness) -> Tensor | list[str]:
        values: Any = batch.contents[name]
        if not self.training or MODALITIES[name].kind != "image" or not (self.options.shift or self.options.intensity):
            return values
        draws = randomness.uniform(f"align/{name}", 4).to(values) * 2.0 - 1.0  # [B, 4] in [-1, 1)
        return jitter(values, shift=draws[:, :2] * self.options.shift, gain=draws[:, 2:] * self.options.intensity)


def _texts(names: Iterable[str]) -> list[str]:
    return [name for name in in_table_order(names) if MODALITIES[name].kind == "text"]


def _both_present(name: str, told: str, rows: Rows) -> Tensor:
    return rows.present[name] & rows.present[told]


def jitter(images: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    """Move images and change their contrast and brightness.

    Args:
        images: ``[B, 1, H, W]`` in [0, 1].
        shift: ``[B, 2]``, right and down, in shares of the side; what comes in repeats the border.
        gain: ``[B, 2]``, change of contrast about mid-grey, and twice the change of brightness.

    Returns:
        ``[B, 1, H, W]`` in [0, 1].
    """
    theta = torch.eye(2, 3).to(images).repeat(len(images), 1, 1)
    theta[:, :, 2] = -2.0 * shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast_, brightness = (gain[:, i].view(-1, 1, 1, 1) for i in range(2))
    return ((moved - 0.5) * (1.0 + contrast_) + 0.5 + 0.5 * brightness).clamp(0.0, 1.0)
