"""Stage ``join``: environment encoders and connectors learn to let the denoisers of a joint run hear each other."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import add_noise, denoising_error, timesteps_from_uniform, training_target
from medcodi.model import MedCoDi
from medcodi.randomness import StepRandomness
from medcodi.stages.contrastive import contrast, group_ids
from medcodi.stages.encoded import EncodedBatch, encode_batch, training_context
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks


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

    def forward(self, batch: Batch | EncodedBatch, randomness: StepRandomness) -> StepOutput:
        """Denoising losses of one set of targets (drawn for the step) plus the weighted InfoNCE of their environments."""
        encoded = encode_batch(self.model, batch)
        draw = torch.randint(len(self.target_sets), (), generator=randomness.shared_generator("targets"))
        targets = self.target_sets[int(draw)]
        u = randomness.uniform("t")[:, 0]
        t = timesteps_from_uniform(u, self.model.schedule.config["num_train_timesteps"])
        whole = torch.stack([encoded.present[name] for name in targets]).all(dim=0)  # [B]: rows with every target
        with torch.no_grad():
            context = training_context(
                self.model, encoded, targets, randomness, drop_probability=self.options.drop_probability
            )
        t = t.to(whole.device)
        noisy, wanted = {}, {}
        for name in targets:
            mean, std = encoded.means[name], encoded.stds[name]
            x0 = mean + std * randomness.normal(f"posterior/{name}", mean.shape[1:], mean.device)
            noise = randomness.normal(f"noise/{name}", mean.shape[1:], mean.device)
            noisy[name] = add_noise(self.model.schedule, x0, noise, t)
            wanted[name] = training_target(self.model.schedule, x0, noise, t)

        environments = self.model.environments(noisy, t)
        predictions = self.model.denoise(noisy, t, context, heard=environments)
        losses = {name: mean_over_ranks(denoising_error(predictions[name], wanted[name]), whole) for name in targets}
        studies = group_ids(encoded.study_ids, whole.device)
        agreement = torch.stack(
            [
                contrast(environments[a], environments[b], 1 / self.options.temperature, studies, whole).loss
                for a, b in combinations(targets, 2)
            ]
        ).mean()
        loss = torch.stack(list(losses.values())).sum() + self.options.contrastive_weight * agreement
        logs = {f"loss/{name}": value.detach() for name, value in losses.items()}
        return StepOutput(loss + 0.0 * self._untouched(targets), {**logs, "environment_info_nce": agreement.detach()})

    def _untouched(self, targets: tuple[str, ...]) -> torch.Tensor:
        """Zero, attached to the parts this step leaves out, so that every rank's gradients cover the same parameters."""
        idle = [name for name in self.model.config.modalities if name not in targets]
        modules = [part for name in idle for part in (self.model.environment[name], self.model.denoisers[name])]
        sums = [p.flatten()[0] for module in modules for p in module.parameters() if p.requires_grad]
        return torch.stack(sums).sum() if sums else torch.zeros((), device=self.model.device)
