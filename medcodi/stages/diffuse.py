"""Stage ``diffuse``: each denoiser learns its own modality from a drawn subset of the others (single target, multi-prompt)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medcodi.config import Finite, config
from medcodi.data.loading import Batch
from medcodi.diffusion.objective import denoising_error, min_snr_weight
from medcodi.errors import TrainingError
from medcodi.modality import MODALITIES
from medcodi.model import MedCoDi
from medcodi.networks.attention import Context
from medcodi.randomness import StepRandomness
from medcodi.stages.dry_run import DryRun, denoising, frozen_encoding
from medcodi.stages.encoded import DrawnPrompts, EncodedBatch, draw_training_prompts, encode_batch, noisy_latent
from medcodi.stages.stage import Stage
from medcodi.stages.step import Step, Where, draw_timesteps
from medcodi.stages.tower_features import TowerFeatures
from medcodi.transfer import to_device


@config
class DiffuseConfig:
    """Config of stage ``diffuse``."""

    targets: tuple[str, ...] = ()  # empty: every modality of the model
    drop_probability: float = 0.1  # share of the rows that get the null prompt, for classifier-free guidance
    most_prompts: int | None = None  # of a row, at most; 1 is single-prompt training, None the paper's: any subset
    # of the distance between the middle of an image's denoiser and the image tower's features of the clean image (REPA, arXiv 2410.06940)
    tower_weight: float = 0.0
    # weights of rows by timestep, so that the error of x0 weighs min(SNR, this): 5 in Hang et al., 2023 (arXiv 2303.09556); 0: all weigh alike
    min_snr_gamma: Finite = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, expected a number in [0, 1)")
        if self.most_prompts is not None and self.most_prompts < 1:
            raise ValueError(f"most_prompts is {self.most_prompts}, expected at least 1, or nothing")
        if not 0 <= self.tower_weight < float("inf"):
            raise ValueError(f"tower_weight is {self.tower_weight}, expected a number that is not negative")
        if self.min_snr_gamma < 0:
            raise ValueError(f"min_snr_gamma is {self.min_snr_gamma}, expected a number that is not negative")


class DiffuseStage(Stage):
    """Prediction of eps (v, velocity) of one modality at a time, prompts drawn per sample; autoencoders and encoders are frozen."""

    name = "diffuse"
    requires = ("autoencode", "align")
    Config = DiffuseConfig
    timed = True
    takes_low_rank = True
    why_not_private = None
    config: DiffuseConfig

    def __init__(self, model: MedCoDi, config: DiffuseConfig | None = None) -> None:
        super().__init__(model, config)
        self.towers = nn.ModuleDict()  # target -> distance of its denoiser's middle from the tower's features
        if not self.config.tower_weight:
            return
        if model.config.context != "tokens":
            raise TrainingError(
                f"tower_weight = {self.config.tower_weight} needs the image tower's tokens, and the model's context is {model.config.context!r}",
                fix="context: tokens in the model's config, or tower_weight=0",
            )
        for name in self.targets:
            if MODALITIES[name].kind == "image":
                denoiser: Any = model.denoisers[name]
                channels = denoiser.middle_channels
                self.towers[name] = TowerFeatures(channels, model, hidden=4 * channels)

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

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """The denoisers of its targets; all, where it encodes the studies."""
        return tuple(f"denoiser_{name}" for name in self.targets) if cached else super().components()

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """Every target's denoiser."""
        trained = tuple(denoising(self.model, name) for name in self.targets)
        return DryRun(trained, () if cached else frozen_encoding(self.model))

    def loss(self, batch: Batch | EncodedBatch, step: Step) -> Tensor:
        """Sum over targets of the (weighted) mean squared error against eps (v, velocity); logs it unweighted by target, prompts, timestep."""
        encoded, num_timesteps = encode_batch(self.model, batch), self.model.schedule.config["num_train_timesteps"]
        losses = []
        for target in self.targets:
            # Predict eps (v, velocity); rows without the target do not count.
            inputs, prompts = self._inputs(encoded, target, step.draws)
            with self._middle(target) as maps:
                error = self._errors(target, inputs)  # [B]
            where: Where = lambda rows, name=target: rows.present[name]  # noqa: E731
            factors = min_snr_weight(self.model.schedule, inputs["t"], self.config.min_snr_gamma)
            losses.append(step.mean(error, where, factors=factors, log=f"loss/{target}"))
            # Bring the middle of the denoiser near to the features that the tower computes of the clean image.
            if maps:
                tower: Any = self.towers[target]
                distance = tower.distance(maps[0], encoded.prompts[target])  # [B]
                losses.append(self.config.tower_weight * step.mean(distance, where))
                step.mean(distance.detach(), where, log=f"tower/{target}")

            # Log it by the prompts that rows had, and by timestep.
            present = encoded.present[target]
            step.log_cells(
                error, present, prompts.cells, [f"loss/{target}/from {subset}" for subset in prompts.subsets]
            )
            step.log_timesteps(target, error, present, num_timesteps)
        return torch.stack(losses).sum()

    def study_inputs(self, batch: Batch | EncodedBatch, draws: StepRandomness) -> dict[str, dict[str, Tensor]]:
        """Target -> inputs of its denoiser, and whether each row has it; private training takes the gradient of each study's loss."""
        encoded = encode_batch(self.model, batch)
        return {
            target: {**self._inputs(encoded, target, draws)[0], "present": encoded.present[target]}
            for target in self.targets
        }

    def study_losses(self, inputs: dict[str, dict[str, Tensor]]) -> Tensor:
        """Sum over the targets that a study has of the (weighted) mean squared error against eps (v, velocity): ``[B]``."""
        errors = {target: self._errors(target, tensors) for target, tensors in inputs.items()}
        for target, tensors in inputs.items():
            factors = min_snr_weight(self.model.schedule, tensors["t"], self.config.min_snr_gamma)
            errors[target] = errors[target] if factors is None else factors * errors[target]
        return torch.stack(
            [torch.where(inputs[target]["present"], error, 0.0) for target, error in errors.items()]
        ).sum(dim=0)

    def _inputs(
        self, encoded: EncodedBatch, target: str, draws: StepRandomness
    ) -> tuple[dict[str, Tensor], DrawnPrompts]:
        """Inputs of one target's denoiser and what it should predict, rows ``[B, ...]``; and the prompts of each row."""
        # Noise the target at a timestep of each row's own.
        t = draw_timesteps(draws, f"t/{target}", self.model.schedule.config["num_train_timesteps"])
        t = to_device(t, encoded.means[target].device)
        x_t, goal = noisy_latent(self.model, encoded, target, t, draws)

        # Draw each row's prompts among its other modalities, and mix them into one context.
        prompts = draw_training_prompts(
            encoded,
            (target,),
            draws,
            drop_probability=self.config.drop_probability,
            most=self.config.most_prompts,
        )
        context = prompts.context(self.model, encoded)
        weights = {} if context.log_weight is None else {"log_weight": context.log_weight}
        return {"x_t": x_t, "t": t, "goal": goal, "tokens": context.tokens, **weights}, prompts

    def _errors(self, target: str, inputs: dict[str, Tensor]) -> Tensor:
        """The denoiser's error for each row, ``[B]``."""
        context = Context(inputs["tokens"], inputs.get("log_weight"))
        prediction = self.model.denoise({target: inputs["x_t"]}, inputs["t"], context)[target]
        return denoising_error(prediction, inputs["goal"])

    @contextmanager
    def _middle(self, target: str) -> Iterator[list[Tensor]]:
        """A list that the next forward pass fills with the output of the denoiser's middle, ``[B, C, h, w]``; empty without ``tower_weight``."""
        maps: list[Tensor] = []
        if target not in self.towers:
            yield maps
            return
        hook = self.model.denoisers[target].middle_out.register_forward_hook(lambda *call: maps.append(call[-1]))  # pyright: ignore
        try:
            yield maps
        finally:
            hook.remove()
