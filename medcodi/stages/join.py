"""Stage ``join``: environment encoders and connectors learn to let the denoisers of a joint run hear each other."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import denoising_error
from medcodi.modality import in_table_order
from medcodi.model import MedCoDi
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.dry_run import DryRun, denoising, environment, frozen_encoding
from medcodi.stages.encoded import EncodedBatch, draw_training_prompts, encode_batch, noisy_latent
from medcodi.stages.stage import Stage
from medcodi.stages.step import Features, Rows, Step, StepOutput, draw_timesteps


@config
class JoinConfig:
    """Config of stage ``join``."""

    drop_probability: float = 0.1  # of the null prompt, for guidance
    contrastive_weight: float = 0.1  # of the InfoNCE between the targets' environment vectors
    temperature: float = 0.1  # of that InfoNCE
    train_denoisers: bool = False  # also continue to train the rest of the denoisers

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1 or self.temperature <= 0 or self.contrastive_weight < 0:
            raise ValueError("expected drop_probability in [0, 1), temperature > 0 and contrastive_weight >= 0")


class JoinStage(Stage):
    """Joint denoising of two targets or more at a shared t, each hearing V of the others; V trained with InfoNCE too."""

    name = "join"
    requires = ("autoencode", "align", "diffuse")
    Config = JoinConfig
    timed = True
    config: JoinConfig

    def __init__(self, model: MedCoDi, config: JoinConfig | None = None) -> None:
        super().__init__(model, config)
        names = model.config.modalities
        self.target_sets = [chosen for size in range(2, len(names) + 1) for chosen in combinations(names, size)]

    def parts(self) -> dict[str, list[nn.Module]]:
        """The environment encoder and the connectors of each modality; its whole denoiser with ``train_denoisers``."""
        denoisers = self.model.denoisers.items()
        hearing = {name: [d] if self.config.train_denoisers else d.connectors() for name, d in denoisers}  # pyright: ignore
        return {name: [self.model.environment[name], *modules] for name, modules in hearing.items()}

    def components(self) -> tuple[str, ...]:
        """All denoisers and environment encoders."""
        return tuple(f"{part}_{name}" for part in ("denoiser", "environment") for name in self.model.config.modalities)

    @property
    def num_turns(self) -> int:
        """One for each set of targets."""
        return len(self.target_sets)

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """All modalities at once: the largest set of targets that a step can draw."""
        names = in_table_order(self.model.config.modalities)
        passes = [denoising(self.model, name, num_environments=len(names) - 1) for name in names]
        drawn = sum(map(len, self.target_sets)) / (len(self.target_sets) * len(names))
        trained = (*passes, *(environment(self.model, name) for name in names))
        return DryRun(trained, () if cached else frozen_encoding(self.model), drawn)

    def loss(self, batch: Batch | EncodedBatch, step: Step) -> Tensor:
        """Denoising losses of one set of targets (drawn for the step) plus the weighted InfoNCE of their environments."""
        # Noise the step's targets at one timestep a row, which all targets share.
        encoded = encode_batch(self.model, batch)
        z, training_targets, t = self._noisy_targets(encoded, step.draws)
        targets = tuple(z)

        # Draw prompts among the modalities that are no targets, and mix them into one context.
        drawn = draw_training_prompts(encoded, targets, step.draws, drop_probability=self.config.drop_probability)
        context = drawn.context(self.model, encoded)

        # Predict every target, each hearing the environments of the others; only rows that have all of them count.
        environments = self.model.environments(z, t)
        predictions = self.model.denoise(z, t, context, heard=environments)
        errors = {name: denoising_error(predictions[name], training_targets[name]) for name in targets}  # each [B]
        losses = {
            name: step.mean(error, lambda rows: _complete(rows, targets), log=f"loss/{name}")
            for name, error in errors.items()
        }

        # Add the InfoNCE between the environments of one study.
        info_nce = self.compared(environments, step)

        # Log each target's loss, by its fellow targets and prompts, and by timestep.
        complete = _complete(step.rows, targets)
        for name, error in errors.items():
            fellows = "+".join(other for other in targets if other != name)
            names = [f"loss/{name}/with {fellows} from {subset}" for subset in drawn.subsets]
            step.log_cells(error, complete, drawn.cells, names)
            step.log_timesteps(name, error, complete, self.model.schedule.config["num_train_timesteps"])
        return torch.stack(list(losses.values())).sum() + self.config.contrastive_weight * info_nce

    def _noisy_targets(
        self, encoded: EncodedBatch, draws: StepRandomness
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Draw the step's targets, for all ranks together: target -> noisy latent, target -> eps or v, and the shared ``t`` ``[B]``."""
        targets = self.target_sets[draws.choice("targets", len(self.target_sets))]
        t = draw_timesteps(draws, "t", self.model.schedule.config["num_train_timesteps"])
        t = t.to(encoded.means[targets[0]].device)
        pairs = {name: noisy_latent(self.model, encoded, name, t, draws) for name in targets}
        return (
            {name: z for name, (z, _) in pairs.items()},
            {name: training_target for name, (_, training_target) in pairs.items()},
            t,
        )

    # ---- InfoNCE of the environments ---------------------------------------------------------------------------
    def encoded(self, batch: Batch | EncodedBatch) -> Batch | EncodedBatch:
        """The encoded studies, where the InfoNCE needs them."""
        return encode_batch(self.model, batch) if self.config.contrastive_weight else batch

    def features(self, batch: Batch | EncodedBatch, draws: StepRandomness) -> Features:
        """The environment vectors of the step's targets; none where the InfoNCE has no weight."""
        if not self.config.contrastive_weight:
            return {}
        z, _, t = self._noisy_targets(encode_batch(self.model, batch), draws)
        return self.model.environments(z, t)

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """InfoNCE between the environments of every two targets, over all rows that have all of them."""
        complete = _complete(rows, tuple(features))
        studies = group_ids(rows.study_ids, complete.device)
        pairs = combinations(features.values(), 2)
        results = [contrast(a, b, 1 / self.config.temperature, studies, complete) for a, b in pairs]
        loss = torch.stack([result.loss for result in results]).mean()
        has_rows = results[0].num_rows > 0  # the same for every pair; without a row, both are absent from the log
        logs = {
            "environment_info_nce": torch.where(has_rows, loss.detach(), torch.nan),
            "environment/top1": torch.where(
                has_rows, torch.stack([result.accuracy for result in results]).mean(), torch.nan
            ),
            "environment/spread": torch.stack([result.spread for result in results]).mean(),
        }
        return StepOutput(loss, logs)


def _complete(rows: Rows, targets: tuple[str, ...]) -> Tensor:
    """Bool ``[B]``: rows that have every target."""
    return torch.stack([rows.present[name] for name in targets]).all(dim=0)
