"""Stage ``diffuse``: each denoiser learns its own modality from a drawn subset of the others (single target, multi-prompt)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcodi.config import config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import denoising_error
from medcodi.stages.dry_run import DryRun, denoising, frozen_encoding
from medcodi.stages.encoded import EncodedBatch, draw_training_prompts, encode_batch, noisy_latent
from medcodi.stages.stage import Stage
from medcodi.stages.step import Step, draw_timesteps
from medcodi.transfer import to_device


@config
class DiffuseConfig:
    """Config of stage ``diffuse``."""

    targets: tuple[str, ...] = ()  # empty: every modality of the model
    drop_probability: float = 0.1  # of the null prompt, for guidance
    most_prompts: int | None = None  # at once; 1 is single-prompt training, None the paper's: any subset

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, expected a number in [0, 1)")
        if self.most_prompts is not None and self.most_prompts < 1:
            raise ValueError(f"most_prompts is {self.most_prompts}, expected at least 1, or nothing")


class DiffuseStage(Stage):
    """Prediction of eps (or v) of one modality at a time, prompts drawn per sample; autoencoders and encoders are frozen."""

    name = "diffuse"
    requires = ("autoencode", "align")
    Config = DiffuseConfig
    timed = True
    config: DiffuseConfig

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities whose denoisers are trained."""
        return tuple(self.config.targets) or tuple(self.model.config.modalities)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The denoiser of each target, without the connectors: no environment is heard in this stage."""
        return {name: self.model.denoisers[name].single_target_parts() for name in self.targets}  # pyright: ignore

    def needs(self) -> tuple[str, ...]:
        """Its targets; any of the others may be absent, as prompts are in generation."""
        return self.targets

    def components(self) -> tuple[str, ...]:
        """The denoisers of its targets."""
        return tuple(f"denoiser_{name}" for name in self.targets)

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """Every target's denoiser."""
        trained = tuple(denoising(self.model, name) for name in self.targets)
        return DryRun(trained, () if cached else frozen_encoding(self.model))

    def loss(self, batch: Batch | EncodedBatch, step: Step) -> Tensor:
        """Sum over targets of the mean squared error against eps (or v); logs it by target, by prompts and by timestep."""
        encoded, num_timesteps = encode_batch(self.model, batch), self.model.schedule.config["num_train_timesteps"]
        losses = []
        for target in self.targets:
            # Noise the target at a timestep of each row's own.
            t = draw_timesteps(step.draws, f"t/{target}", num_timesteps)
            t = to_device(t, encoded.means[target].device)
            x_t, training_target = noisy_latent(self.model, encoded, target, t, step.draws)

            # Draw each row's prompts among its other modalities, and mix them into one context.
            prompts = draw_training_prompts(
                encoded,
                (target,),
                step.draws,
                drop_probability=self.config.drop_probability,
                most=self.config.most_prompts,
            )
            context = prompts.context(self.model, encoded)

            # Predict eps (or v); rows without the target do not count.
            prediction = self.model.denoise({target: x_t}, t, context)[target]
            error = denoising_error(prediction, training_target)  # [B]
            loss = step.mean(error, lambda rows, name=target: rows.present[name], log=f"loss/{target}")
            losses.append(loss)

            # Log it by the prompts that rows had, and by timestep.
            present = encoded.present[target]
            step.log_cells(
                error, present, prompts.cells, [f"loss/{target}/from {subset}" for subset in prompts.subsets]
            )
            step.log_timesteps(target, error, present, num_timesteps)
        return torch.stack(losses).sum()
