"""Stage ``align``: the prompt encoders learn one space by InfoNCE over every pair of modalities in a batch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import model_validator
from torch import Tensor, nn

from medcodi.config import config
from medcodi.errors import ConfigError, TrainingError
from medcodi.modality import MODALITIES, Kind, in_table_order
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.dry_run import DryRun, prompt_encoding
from medcodi.stages.stage import Stage
from medcodi.stages.statements import STATEMENT_TEXTS, agreement, statement_truth
from medcodi.stages.step import Features, Rows, Step, StepOutput
from medcodi.transfer import to_device

if TYPE_CHECKING:
    from medcodi.data.loading import Batch
    from medcodi.model import MedCoDi


@config
class AlignConfig:
    """Config of stage ``align``."""

    # Kinds of modalities whose towers are trained; empty: all of them, and the temperature. The others stay as they are, for a
    # model that was trained before a modality was added.
    kinds: tuple[Kind, ...] = ()
    same_patient_negatives: bool = True  # False: studies of one patient are not negatives of each other either
    shift: float = 0.0  # images move by at most this share of their side, each way
    intensity: float = 0.0  # contrast changes by at most this share, brightness by half of it
    # Weight of the agreement with statements about findings (medcodi.stages.statements); 0: InfoNCE alone.
    statement_weight: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> AlignConfig:
        if not (0 <= self.shift < 0.5 and 0 <= self.intensity < 1):
            raise ValueError(f"shift = {self.shift} must be in [0, 0.5), intensity = {self.intensity} in [0, 1)")
        if self.statement_weight < 0:
            raise ValueError(f"statement_weight = {self.statement_weight} must be at least 0")
        return self


class AlignStage(Stage):
    """Trains both towers and the temperature."""

    name = "align"
    Config = AlignConfig
    least_modalities = 2  # a pair
    takes_low_rank = True
    why_not_private = "InfoNCE compares every study with all others of its batch, so no gradient belongs to one patient"
    config: AlignConfig

    def __init__(self, model: MedCoDi, config: AlignConfig | None = None) -> None:
        chosen, there = (config or self.Config()).kinds, {MODALITIES[name].kind for name in model.config.modalities}
        if absent := [kind for kind in chosen if kind not in there]:
            raise TrainingError(
                f"kinds name {absent[0]}, the model has none of it",
                expected=f"some of {', '.join(sorted(there))}",
                fix="correct stage.options.kinds",
            )
        super().__init__(model, config)
        if self.config.statement_weight and not _texts(model.config.modalities):
            raise ConfigError(
                f"statement_weight = {self.config.statement_weight} in a model of {', '.join(model.config.modalities)}",
                expected="a text modality, which reports findings",
                fix="set it to 0",
            )

    def parts(self) -> dict[str, list[nn.Module]]:
        """The prompt encoders, or the towers of the chosen kinds."""
        encoders = self.model.prompt_encoders
        if not self.config.kinds:
            return {self.name: [encoders]}
        return {kind: [encoders.towers[kind]] for kind in self.config.kinds}

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """The prompt encoders."""
        return ("prompt_encoders",)

    def _is_trained(self, name: str) -> bool:
        return not self.config.kinds or MODALITIES[name].kind in self.config.kinds

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """All towers; those that are not trained run without gradient."""
        towers = prompt_encoding(self.model)
        trained = self.config.kinds or tuple(towers)
        return DryRun(
            tuple(tower for kind, tower in towers.items() if kind in trained),
            tuple(tower for kind, tower in towers.items() if kind not in trained),
        )

    def loss(self, batch: Batch, step: Step) -> Tensor:
        """Sum over pairs of modalities of the symmetric InfoNCE; logs loss, top-1 accuracy and spread of each pair.

        With ``statement_weight``, plus each modality's disagreement with the statements about its study.
        """
        features = self.features(batch, step.draws)
        loss = self.compared(features, step)
        if self.config.statement_weight:
            loss = loss + self.config.statement_weight * self._statement_loss(features, batch, step)
        return loss

    def features(self, batch: Batch, draws: StepRandomness) -> Features:
        """The pooled encodings, and the temperature they are compared at."""
        return {**self._pooled(batch, draws), "logit_scale": self.model.prompt_encoders.clamped_logit_scale()}

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """InfoNCE of every pair of modalities, over all rows that have both."""
        logit_scale, pooled = features["logit_scale"], _without_scale(features)
        ids = rows.study_ids if self.config.same_patient_negatives else rows.patient_ids
        groups = group_ids(ids, logit_scale.device)
        loss, logs = logit_scale * 0.0, {}
        for first, second in combinations(pooled, 2):
            if not (self._is_trained(first) or self._is_trained(second)):
                continue  # a constant
            both = rows.present[first] & rows.present[second]
            result = contrast(pooled[first], pooled[second], logit_scale.exp(), groups, both)
            loss = loss + result.loss
            # A pair that no row of the step has is absent from the log: a loss of 0 would look perfect.
            has_rows = result.num_rows > 0
            logs[f"{first}-{second}/loss"] = torch.where(has_rows, result.loss.detach(), torch.nan)
            logs[f"{first}-{second}/top1"] = torch.where(has_rows, result.accuracy, torch.nan)
            logs[f"{first}-{second}/spread"] = result.spread
        logs["logit_scale"] = logit_scale.detach()
        return StepOutput(loss, logs)

    def _statement_loss(self, features: Features, batch: Batch, step: Step) -> Tensor:
        """Disagreement of every modality with the statements about its study, averaged over modalities.

        Rows without a report do not count, because nothing says which statements hold.
        """
        # Encode the statements; whether they hold is read from the reports.
        text = _texts(batch.contents)[0]
        reports: Any = batch.contents[text]
        scale, pooled = features["logit_scale"].exp(), _without_scale(features)
        truth = to_device(statement_truth(reports), scale.device)  # [B, K]
        statements = self.model.prompt_encoders.encode("text", STATEMENT_TEXTS).pooled  # [2 K, D]

        loss = scale * 0.0
        trained = {name: encodings for name, encodings in pooled.items() if self._is_trained(name)}
        for name, encodings in trained.items():

            def where(rows: Rows, name: str = name) -> Tensor:
                return rows.present[name] & rows.present[text]

            result = agreement(encodings, statements, truth, scale)
            loss = loss + step.mean(result.loss, where) / len(trained)
            step.mean(result.loss.detach(), where, log=f"{name}/statements")
            one_cell = torch.zeros(len(result.hits), dtype=torch.int64)
            step.log_cells(result.hits, where(step.rows) * (result.claims > 0), one_cell, [f"{name}/claims_right"])
        return loss

    def _pooled(self, batch: Batch, draws: StepRandomness) -> dict[str, Tensor]:
        """Modality -> pooled encodings ``[B, D]`` of all rows, absent ones too; each tower runs once."""
        names = [name for name in self.model.config.modalities if name in batch.contents]
        pooled: dict[str, Tensor] = {}
        kinds: dict[Kind, None] = dict.fromkeys(MODALITIES[name].kind for name in names)
        for kind in kinds:
            views = [name for name in names if MODALITIES[name].kind == kind]
            values: list[Any] = [self._augmented(name, batch, draws) for name in views]
            joined: Any = torch.cat(values) if kind == "image" else [value for part in values for value in part]
            encodings = self.model.prompt_encoders.encode(kind, joined).pooled
            pooled |= zip(views, rearrange(encodings, "(v b) d -> v b d", v=len(views)), strict=True)
        return {name: pooled[name] for name in names}

    def _augmented(self, name: str, batch: Batch, draws: StepRandomness) -> Tensor | list[str]:
        values: Any = batch.contents[name]
        if not self.training or MODALITIES[name].kind != "image" or not (self.config.shift or self.config.intensity):
            return values
        # [B, 4] in [-1, 1)
        u = to_device(draws.uniform(f"align/{name}", 4).to(values.dtype), values.device) * 2.0 - 1.0
        return jitter(values, shift=u[:, :2] * self.config.shift, gain=u[:, 2:] * self.config.intensity)


def _texts(names: Iterable[str]) -> list[str]:
    return [name for name in in_table_order(names) if MODALITIES[name].kind == "text"]


def _without_scale(features: Features) -> dict[str, Tensor]:
    return {name: value for name, value in features.items() if name != "logit_scale"}


def jitter(images: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    """Move images ``[B, 1, H, W]`` in [0, 1], and change their contrast and brightness.

    ``shift`` ``[B, 2]`` is right and down, in shares of the side; the border is repeated. ``gain`` ``[B, 2]`` is the change of
    contrast about mid-grey, and twice the change of brightness.
    """
    # Sample each pixel where it came from: x_in = x_out - 2 shift, in coordinates of [-1, 1].
    theta = torch.eye(2, 3, dtype=images.dtype, device=images.device).repeat(len(images), 1, 1)
    theta[:, :, 2] = -2.0 * shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast_, brightness = (gain[:, i].view(-1, 1, 1, 1) for i in range(2))
    return ((moved - 0.5) * (1.0 + contrast_) + 0.5 + 0.5 * brightness).clamp(0.0, 1.0)
