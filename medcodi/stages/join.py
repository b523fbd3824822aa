"""Stage ``join``: environment encoders and connectors learn to let the denoisers of a joint run hear each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import add_noise, denoising_error, training_target
from medcodi.model import MedCoDi
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.encoded import (
    DrawnPrompts,
    EncodedBatch,
    draw_training_prompts,
    encode_batch,
    prompted_context,
)
from medcodi.stages.sharing import Features, Rows, Share, each_weight
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks
from medcodi.stages.tally import tally
from medcodi.stages.timesteps import draw_timesteps, tally_timesteps


@config
class JoinOptions:
    """What ``join`` can be told."""

    drop_probability: float = 0.1
    contrastive_weight: float = 0.1  # of the InfoNCE between the targets' environment vectors
    temperature: float = 0.1
    train_denoisers: bool = False  # also go on with the rest of the denoisers

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1 or self.temperature <= 0 or self.contrastive_weight < 0:
            raise ValueError("expected drop_probability in [0, 1), temperature > 0 and contrastive_weight >= 0")


class JoinStage(Stage):
    """Joint denoising of two targets or more at a shared t, each hearing V of the others; V trained with InfoNCE too."""

    name = "join"
    requires = ("autoencode", "align", "diffuse")
    Options = JoinOptions
    timed = True
    options: JoinOptions

    def __init__(self, model: MedCoDi, options: JoinOptions | None = None) -> None:
        super().__init__(model, options)
        names = model.config.modalities
        self.target_sets = [chosen for size in range(2, len(names) + 1) for chosen in combinations(names, size)]

    def trained_parts(self) -> list[nn.Module]:
        """Environment encoders and connectors; the whole denoisers with ``train_denoisers``."""
        denoisers = list(self.model.denoisers.values())
        heard = denoisers if self.options.train_denoisers else [c for d in denoisers for c in d.connectors()]  # pyright: ignore
        return [*self.model.environment.values(), *heard]

    def components(self) -> tuple[str, ...]:
        """All denoisers and environment encoders."""
        return tuple(f"{part}_{name}" for part in ("denoiser", "environment") for name in self.model.config.modalities)

    def parts(self) -> dict[str, list[nn.Module]]:
        """What lets each modality speak, and hear."""
        denoisers = self.model.denoisers.items()
        heard = {name: [d] if self.options.train_denoisers else d.connectors() for name, d in denoisers}  # pyright: ignore
        return {name: [self.model.environment[name], *modules] for name, modules in heard.items()}

    @property
    def num_turns(self) -> int:
        """One for each set of targets."""
        return len(self.target_sets)

    def forward(
        self, batch: Batch | EncodedBatch, randomness: StepRandomness, share: Share | None = None
    ) -> StepOutput:
        """Denoising losses of one set of targets (drawn for the step) plus the weighted InfoNCE of their environments."""
        encoded = encode_batch(self.model, batch)
        noised = self._noised(encoded, randomness)
        targets = tuple(noised.z)
        with torch.no_grad():
            drawn = draw_training_prompts(encoded, targets, randomness, drop_probability=self.options.drop_probability)
            context = prompted_context(self.model, encoded, drawn)
        environments = self.model.environments(noised.z, noised.t)
        predictions = self.model.denoise(noised.z, noised.t, context, heard=environments)
        whole, everywhere = _complete(encoded, targets), each_weight(share, lambda rows: _complete(rows, targets))
        errors = {name: denoising_error(predictions[name], noised.wanted[name]) for name in targets}
        losses = {name: mean_over_ranks(error, whole, everywhere) for name, error in errors.items()}
        agreement, told = self.compared(environments, encoded, share)
        loss = torch.stack(list(losses.values())).sum() + self.options.contrastive_weight * agreement
        logs = {f"loss/{name}": value.detach() for name, value in losses.items()}
        for name, error in errors.items():
            logs |= _by_prompts(name, targets, error, whole, drawn)
            logs |= tally_timesteps(randomness, error, whole, self.model.schedule.config["num_train_timesteps"], name)
        return StepOutput(loss, {**logs, "environment_info_nce": agreement.detach(), **told})

    @torch.no_grad()
    def _noised(self, encoded: EncodedBatch, randomness: StepRandomness) -> _Noised:
        """The step's targets, drawn for all ranks together, at the timesteps of their samples."""
        targets = self.target_sets[randomness.choice("targets", len(self.target_sets))]
        schedule = self.model.schedule
        device = encoded.means[targets[0]].device
        t = draw_timesteps(randomness, "t", schedule.config["num_train_timesteps"]).to(device)
        z, wanted = {}, {}
        for name in targets:
            mean, std = encoded.means[name], encoded.stds[name]
            x0 = mean + std * randomness.normal(f"posterior/{name}", mean.shape[1:], device)
            noise = randomness.normal(f"noise/{name}", mean.shape[1:], device)
            z[name] = add_noise(schedule, x0, noise, t)
            wanted[name] = training_target(schedule, x0, noise, t)
        return _Noised(z, wanted, t)

    # ---- what micro-batches must know of each other ----------------------------------------------------------------
    def encoded(self, batch: Batch | EncodedBatch) -> Batch | EncodedBatch:
        """The encoded studies, where the InfoNCE asks for them."""
        return encode_batch(self.model, batch) if self.options.contrastive_weight else batch

    def features(self, batch: Batch | EncodedBatch, randomness: StepRandomness) -> Features:
        """The environment vectors of the step's targets; nothing where the InfoNCE has no weight."""
        if not self.options.contrastive_weight:
            return {}
        noised = self._noised(encode_batch(self.model, batch), randomness)
        return self.model.environments(noised.z, noised.t)

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """InfoNCE between the environments of every two targets, over all rows that have all of them."""
        whole = _complete(rows, tuple(features))
        studies = group_ids(rows.study_ids, whole.device)
        pairs = combinations(features.values(), 2)
        found = [contrast(a, b, 1 / self.options.temperature, studies, whole) for a, b in pairs]
        told = {name: torch.stack([getattr(one, what) for one in found]).mean() for name, what in TOLD.items()}
        return StepOutput(torch.stack([one.loss for one in found]).mean(), told)


TOLD = {"environment/top1": "accuracy", "environment/spread": "spread"}  # of the comparison of environments


def _by_prompts(
    name: str, targets: tuple[str, ...], error: Tensor, whole: Tensor, drawn: DrawnPrompts
) -> dict[str, Tensor]:
    """The loss of one target by what it was generated with, and from."""
    others = "+".join(other for other in targets if other != name)
    return tally(error, whole, drawn.cells, [f"loss/{name}/with {others} from {subset}" for subset in drawn.subsets])


@dataclass(frozen=True)
class _Noised:
    """Target -> noisy latent, target -> what its denoiser should say, and the shared timesteps ``[B]``."""

    z: dict[str, Tensor]
    wanted: dict[str, Tensor]
    t: Tensor


def _complete(rows: EncodedBatch | Rows, targets: tuple[str, ...]) -> Tensor:
    """Bool ``[B]``: rows that have every target."""
    return torch.stack([rows.present[name] for name in targets]).all(dim=0)
