"""Stage ``join``: the denoisers of a joint run learn to hear each other, by environment vectors or by feature maps."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor, nn

from medcodi.config import Finite, config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import denoising_error, min_snr_weight
from medcodi.modality import in_table_order
from medcodi.model import MedCoDi
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.dry_run import DryRun, denoising, denoising_together, environment, frozen_encoding
from medcodi.stages.encoded import EncodedBatch, draw_training_prompts, encode_batch, noisy_latent
from medcodi.stages.stage import Stage
from medcodi.stages.step import Features, Rows, Step, StepOutput, Where, draw_timesteps
from medcodi.transfer import to_device


@config
class JoinConfig:
    """Config of stage ``join``."""

    drop_probability: float = 0.1  # share of the rows that get the null prompt, for classifier-free guidance
    contrastive_weight: float = 0.1  # of the InfoNCE between the targets' environment vectors
    temperature: float = 0.1  # of that InfoNCE
    train_denoisers: bool = False  # also continue to train the rest of the denoisers
    # environment: {kind: features} only: share of the rows whose targets are all at the same t; in the others each has its own
    share_timesteps: float = 0.5
    # environment: {kind: features} only: share of the rows in which one target is finished: at t = 0, heard, and not in the loss
    finish_one: float = 0.2
    min_snr_gamma: Finite = 0.0  # as in stage diffuse

    def __post_init__(self) -> None:
        for name in ("share_timesteps", "finish_one"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a share in [0, 1]")
        if not 0 <= self.drop_probability < 1 or self.temperature <= 0 or self.contrastive_weight < 0:
            raise ValueError("expected drop_probability in [0, 1), temperature > 0 and contrastive_weight >= 0")
        if self.min_snr_gamma < 0:
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma}, expected a number that is not negative")


class JoinStage(Stage):
    """Joint denoising of two targets or more, each hearing the others.

    With ``environment: {kind: vector}`` all targets are at one t and hear the vectors V of the others; V is trained with InfoNCE too. With
    ``{kind: features}`` they hear the others' feature maps; each row's targets share a t, or each has its own, or one is finished
    (t = 0); there is no InfoNCE.
    """

    name = "join"
    requires = ("autoencode", "align", "diffuse")
    Config = JoinConfig
    least_modalities = 2  # targets that hear each other
    timed = True
    config: JoinConfig

    def __init__(self, model: MedCoDi, config: JoinConfig | None = None) -> None:
        super().__init__(model, config)
        names = model.config.modalities
        self.by_vector = model.config.environment.kind == "vector"
        self.target_sets = [chosen for size in range(2, len(names) + 1) for chosen in combinations(names, size)]

    def parts(self) -> dict[str, list[nn.Module]]:
        """The parts by which each modality hears: V and connectors, or connectors to feature maps; with ``train_denoisers`` its denoiser too."""
        denoisers = self.model.denoisers.items()
        trained = {name: [d] if self.config.train_denoisers else d.connectors() for name, d in denoisers}  # pyright: ignore
        return {name: [self.model.environment[name], *modules] for name, modules in trained.items()}

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """All denoisers and environment encoders; all, where it encodes the studies."""
        names = self.model.config.modalities
        parts = tuple(f"{part}_{name}" for part in ("denoiser", "environment") for name in names)
        return parts if cached else super().components()

    @property
    def num_turns(self) -> int:
        """One for each set of targets."""
        return len(self.target_sets)

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """All modalities at once: the largest set of targets that a step can draw."""
        names = in_table_order(self.model.config.modalities)
        drawn = sum(map(len, self.target_sets)) / (len(self.target_sets) * len(names))
        if self.by_vector:
            passes = [denoising(self.model, name, num_environments=len(names) - 1) for name in names]
            trained = (*passes, *(environment(self.model, name) for name in names))
        else:
            trained = (denoising_together(self.model, names),)
        return DryRun(trained, () if cached else frozen_encoding(self.model), drawn)

    def loss(self, batch: Batch | EncodedBatch, step: Step) -> Tensor:
        """Denoising losses of one set of targets (drawn for the step) plus the weighted InfoNCE of their environment vectors."""
        # Noise the step's targets, each row at timesteps of its own.
        encoded = encode_batch(self.model, batch)
        z, training_targets, times = self._noisy_targets(encoded, step.draws)
        targets = tuple(z)

        # Draw prompts among the modalities that are no targets, and mix them into one context.
        drawn = draw_training_prompts(encoded, targets, step.draws, drop_probability=self.config.drop_probability)
        context = drawn.context(self.model, encoded)

        # Predict every target, each hearing the others; only rows that have all of them count, and targets that are not finished.
        environments = self.model.environments(z, times) if self.by_vector else None
        predictions = self.model.denoise(z, times, context, heard=environments)
        errors = {name: denoising_error(predictions[name], training_targets[name]) for name in targets}  # each [B]
        complete = _complete(step.rows, targets)
        counted = {name: complete & ~self._finished(targets, step.draws, name, complete.device) for name in targets}
        share = 1.0 if self.by_vector else 1 - self.config.finish_one / len(targets)  # of the complete rows, on average
        losses = []
        for name, error in errors.items():
            weights = counted[name] / share
            factors = min_snr_weight(self.model.schedule, times[name], self.config.min_snr_gamma)
            where: Where = lambda rows: _complete(rows, targets)  # noqa: E731
            losses.append(step.mean(error, where, weights, factors=factors, log=f"loss/{name}"))
        loss = torch.stack(losses).sum()

        # Add the InfoNCE between the environments of one study.
        if environments is not None:
            loss = loss + self.config.contrastive_weight * self.compared(environments, step)

        # Log each target's loss, by its fellow targets and prompts, and by timestep.
        for name, error in errors.items():
            fellows = "+".join(other for other in targets if other != name)
            names = [f"loss/{name}/with {fellows} from {subset}" for subset in drawn.subsets]
            step.log_cells(error, counted[name], drawn.cells, names)
            step.log_timesteps(name, error, counted[name], self.model.schedule.config["num_train_timesteps"])
        return loss

    def _noisy_targets(
        self, encoded: EncodedBatch, draws: StepRandomness
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Draw the step's targets, for all ranks together: target -> noisy latent, target -> eps, v or velocity, and target -> ``t`` ``[B]``."""
        targets = self.target_sets[draws.choice("targets", len(self.target_sets))]
        device = encoded.means[targets[0]].device
        times = {name: to_device(t, device) for name, t in self._times(targets, draws).items()}
        pairs = {name: noisy_latent(self.model, encoded, name, times[name], draws) for name in targets}
        return (
            {name: z for name, (z, _) in pairs.items()},
            {name: training_target for name, (_, training_target) in pairs.items()},
            times,
        )

    def _times(self, targets: tuple[str, ...], draws: StepRandomness) -> dict[str, Tensor]:
        """Target -> timesteps ``[B]``: shared by a row's targets, or each its own, or 0 for the one that is finished."""
        num_timesteps = self.model.schedule.config["num_train_timesteps"]
        shared = draw_timesteps(draws, "t", num_timesteps)
        if self.by_vector:
            return dict.fromkeys(targets, shared)
        sharing = draws.uniform("share")[:, 0] < self.config.share_timesteps
        times = {}
        for name in targets:
            own = draw_timesteps(draws, f"t/{name}", num_timesteps)
            times[name] = torch.where(sharing, shared, own).masked_fill(self._finished(targets, draws, name), 0)
        return times

    def _finished(
        self, targets: tuple[str, ...], draws: StepRandomness, name: str, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Bool ``[B]``: rows in which the target ``name`` is finished, at t = 0."""
        if self.by_vector:
            return torch.zeros(len(draws.samples), dtype=torch.bool, device=device)
        u = to_device(draws.uniform("finished", 2), device)  # [B, 2]: whether one is, and which
        which = (u[:, 1] * len(targets)).long()
        return (u[:, 0] < self.config.finish_one) & (which == targets.index(name))

    # ---- InfoNCE of the environments ---------------------------------------------------------------------------
    def encoded(self, batch: Batch | EncodedBatch) -> Batch | EncodedBatch:
        """The encoded studies, where the InfoNCE needs them."""
        return encode_batch(self.model, batch) if self.by_vector and self.config.contrastive_weight else batch

    def features(self, batch: Batch | EncodedBatch, draws: StepRandomness) -> Features:
        """The environment vectors of the step's targets; none where the InfoNCE has no weight."""
        if not (self.by_vector and self.config.contrastive_weight):
            return {}
        z, _, times = self._noisy_targets(encode_batch(self.model, batch), draws)
        return self.model.environments(z, times)

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
