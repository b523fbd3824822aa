"""Stage ``diffuse``: each denoiser learns its own modality from every subset of the others (single target, multi-prompt)."""

from __future__ import annotations

import torch
from torch import nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import add_noise, denoising_error, training_target
from medcodi.randomness import StepRandomness
from medcodi.stages.encoded import EncodedBatch, draw_training_prompts, encode_batch, prompted_context
from medcodi.stages.sharing import Share, each_weight
from medcodi.stages.stage import Stage, StepOutput, mean_over_ranks
from medcodi.stages.tally import tally
from medcodi.stages.timesteps import draw_timesteps, tally_timesteps


@config
class DiffuseOptions:
    """What ``diffuse`` can be told."""

    targets: tuple[str, ...] = ()  # empty: every modality of the model
    drop_probability: float = 0.1  # of the null prompt, for guidance
    most_prompts: int | None = None  # at once; 1 is single-prompt training, None the paper's: any subset

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, expected a number in [0, 1)")
        if self.most_prompts is not None and self.most_prompts < 1:
            raise ValueError(f"most_prompts is {self.most_prompts}, expected at least 1, or nothing")


class DiffuseStage(Stage):
    """eps (or v) prediction of one modality at a time, prompts drawn per sample; autoencoders and encoders are frozen."""

    name = "diffuse"
    requires = ("autoencode", "align")
    Options = DiffuseOptions
    timed = True
    options: DiffuseOptions

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities whose denoisers are trained."""
        return tuple(self.options.targets) or tuple(self.model.config.modalities)

    def trained_parts(self) -> list[nn.Module]:
        """The chosen denoisers, without the connectors: nothing is heard in this stage."""
        return [part for name in self.targets for part in self.model.denoisers[name].single_target_parts()]  # pyright: ignore

    def parts(self) -> dict[str, list[nn.Module]]:
        """A denoiser for each target."""
        return {name: self.model.denoisers[name].single_target_parts() for name in self.targets}  # pyright: ignore

    def needs(self) -> tuple[str, ...]:
        """Its targets; any of the others may be absent, as prompts are in generation."""
        return self.targets

    def components(self) -> tuple[str, ...]:
        """The denoisers of its targets."""
        return tuple(f"denoiser_{name}" for name in self.targets)

    def forward(
        self, batch: Batch | EncodedBatch, randomness: StepRandomness, share: Share | None = None
    ) -> StepOutput:
        """Sum over targets of the denoising loss; logs it per target, and per target and what it was prompted with."""
        encoded, num_timesteps = encode_batch(self.model, batch), self.model.schedule.config["num_train_timesteps"]
        losses, logs = [], {}
        for target in self.targets:
            mean, std = encoded.means[target], encoded.stds[target]
            shape, device = mean.shape[1:], mean.device
            x0 = mean + std * randomness.normal(f"posterior/{target}", shape, device)
            noise = randomness.normal(f"noise/{target}", shape, device)
            t = draw_timesteps(randomness, f"t/{target}", num_timesteps).to(device)
            with torch.no_grad():
                drawn = draw_training_prompts(
                    encoded,
                    (target,),
                    randomness,
                    drop_probability=self.options.drop_probability,
                    most=self.options.most_prompts,
                )
                context = prompted_context(self.model, encoded, drawn)
            x_t = add_noise(self.model.schedule, x0, noise, t)
            prediction = self.model.denoise({target: x_t}, t, context)[target]
            error = denoising_error(prediction, training_target(self.model.schedule, x0, noise, t))
            whole = each_weight(share, lambda rows, name=target: rows.present[name])
            present = encoded.present[target]
            loss = mean_over_ranks(error, present, whole)
            losses.append(loss)
            logs[f"loss/{target}"] = loss.detach()
            logs |= tally(error, present, drawn.cells, [f"loss/{target}/from {subset}" for subset in drawn.subsets])
            logs |= tally_timesteps(randomness, error, present, num_timesteps, target)
        return StepOutput(torch.stack(losses).sum(), logs)
