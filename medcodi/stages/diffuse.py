"""Stage ``diffuse``: each denoiser learns its own modality from every subset of the others (single target, multi-prompt)."""

from __future__ import annotations

import torch
from torch import nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import add_noise, denoising_error, timesteps_from_uniform, training_target
from medcodi.randomness import StepRandomness
from medcodi.stages.encoded import EncodedBatch, encode_batch, training_context
from medcodi.stages.sharing import Share, each_weight
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks


@config
class DiffuseOptions:
    """What ``diffuse`` can be told."""

    targets: tuple[str, ...] = ()  # empty: every modality of the model
    drop_probability: float = 0.1  # of the null prompt, for guidance

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, expected a number in [0, 1)")


class DiffuseStage(Stage):
    """eps (or v) prediction of one modality at a time, prompts drawn per sample; autoencoders and encoders are frozen."""

    name = "diffuse"
    requires = ("autoencode", "align")
    Options = DiffuseOptions
    options: DiffuseOptions

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities whose denoisers are trained."""
        return tuple(self.options.targets) or tuple(self.model.config.modalities)

    def trained_parts(self) -> list[nn.Module]:
        """The chosen denoisers, without the connectors: nothing is heard in this stage."""
        return [part for name in self.targets for part in self.model.denoisers[name].single_target_parts()]  # pyright: ignore

    def needs(self) -> tuple[str, ...]:
        """Its targets; any of the others may be absent, as prompts are in generation."""
        return self.targets

    def forward(
        self, batch: Batch | EncodedBatch, randomness: StepRandomness, share: Share | None = None
    ) -> StepOutput:
        """Sum over targets of the denoising loss; logs it per target."""
        encoded = encode_batch(self.model, batch)
        losses, logs = [], {}
        for target in self.targets:
            mean, std = encoded.means[target], encoded.stds[target]
            shape, device = mean.shape[1:], mean.device
            x0 = mean + std * randomness.normal(f"posterior/{target}", shape, device)
            noise = randomness.normal(f"noise/{target}", shape, device)
            u = randomness.uniform(f"t/{target}")[:, 0]
            t = timesteps_from_uniform(u, self.model.schedule.config["num_train_timesteps"]).to(device)
            with torch.no_grad():
                context = training_context(
                    self.model, encoded, (target,), randomness, drop_probability=self.options.drop_probability
                )
            x_t = add_noise(self.model.schedule, x0, noise, t)
            prediction = self.model.denoise({target: x_t}, t, context)[target]
            error = denoising_error(prediction, training_target(self.model.schedule, x0, noise, t))
            whole = each_weight(share, lambda rows, name=target: rows.present[name])
            loss = mean_over_ranks(error, encoded.present[target], whole)
            losses.append(loss)
            logs[f"loss/{target}"] = loss.detach()
        return StepOutput(torch.stack(losses).sum(), logs)
