"""Stage ``distil``: students that generate in few steps, without guidance, what the denoisers generate in many with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcodi.config import Count, Finite, config
from medcodi.data.loading import Batch
from medcodi.diffusion.guidance import guided
from medcodi.diffusion.objective import denoising_error, teacher_prediction, trailing_timesteps
from medcodi.errors import ConfigError
from medcodi.model import MedCoDi
from medcodi.model.config import StudentConfig
from medcodi.networks.attention import Context
from medcodi.stages.dry_run import DryRun, denoising, frozen_encoding
from medcodi.stages.encoded import EncodedBatch, draw_training_prompts, encode_batch, noisy_latent
from medcodi.stages.stage import Stage
from medcodi.stages.step import Step
from medcodi.transfer import to_device


@config
class DistilConfig:
    """Config of stage ``distil``."""

    steps: Count = 4  # of the students
    substeps: Count = 4  # of the guided denoisers, for each step of a student
    rank: Count = 16  # of the change of each weight
    guidance_scale: Finite | None = None  # that the students have built in; None: the model's own
    targets: tuple[str, ...] = ()  # empty: every modality of the model
    drop_probability: float = 0.1  # of the null prompt: students generate without a prompt too

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability < 1:
            raise ValueError(f"drop_probability is {self.drop_probability}, expected a number in [0, 1)")


class DistilStage(Stage):
    """Low-rank changes of the denoisers' weights, trained towards several guided steps at once; all else is frozen.

    They are students of single targets: they hear no other, so several targets are generated in a chain.
    """

    name = "distil"
    requires = ("autoencode", "align", "diffuse")
    Config = DistilConfig
    timed = True
    config: DistilConfig

    def __init__(self, model: MedCoDi, config: DistilConfig | None = None) -> None:
        config = config or DistilConfig()
        scale = model.config.generation.guidance_scale if config.guidance_scale is None else config.guidance_scale
        assert scale is not None
        if model.config.schedule.num_train_timesteps % config.steps:
            raise ConfigError(
                f"steps is {config.steps}, which does not divide the {model.config.schedule.num_train_timesteps} timesteps",
                expected="a divisor, so that the sampler of the students is at the timesteps that they were trained for",
                fix="steps: 4, or 1, 2, 5 or 8",
            )
        model.add_students(StudentConfig(steps=config.steps, rank=config.rank, guidance_scale=scale))
        model.load_components(f"student_{name}" for name in model.students)  # of a model that has some already
        if model.device.type != "cpu":  # fresh ones are on the CPU; fake tensors, of an estimate, cannot be moved
            model.students.to(model.device)
        super().__init__(model, config)

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities whose students are trained."""
        return tuple(self.config.targets) or tuple(self.model.config.modalities)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The student of each target."""
        return {name: [self.model.students[name]] for name in self.targets}

    def needs(self) -> tuple[str, ...]:
        """Its targets; any of the others may be absent, as prompts are in generation."""
        return self.targets

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """The denoisers and students of its targets; all, where it encodes the studies."""
        names = tuple(f"{part}_{name}" for part in ("denoiser", "student") for name in self.targets)
        return names if cached else super().components()

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """Every target's student, and the passes of its teacher, two for each guided step."""
        trained = tuple(denoising(self.model, name, student=True) for name in self.targets)
        teacher = tuple(denoising(self.model, name) for name in self.targets) * (2 * self.config.substeps)
        return DryRun(trained, (*teacher, *(() if cached else frozen_encoding(self.model))))

    def loss(self, batch: Batch | EncodedBatch, step: Step) -> Tensor:
        """Sum over targets of the mean squared error against the teacher's steps; logs it by target, prompts and timestep."""
        encoded, schedule = encode_batch(self.model, batch), self.model.schedule
        num_timesteps = schedule.config["num_train_timesteps"]
        grid = trailing_timesteps(num_timesteps, self.config.steps)
        losses = []
        for target in self.targets:
            # Noise the target at one of the student's timesteps, drawn for each row.
            u = step.draws.uniform(f"t/{target}")[:, 0]
            number = self.config.steps - 1 - (u * self.config.steps).long().clamp_(max=self.config.steps - 1)  # [B]
            device = encoded.means[target].device
            number, t = to_device(number, device), to_device(grid[number], device)
            x_t, _ = noisy_latent(self.model, encoded, target, t, step.draws)

            # Draw each row's prompts, and let the guided teacher go several steps.
            prompts = draw_training_prompts(
                encoded, (target,), step.draws, drop_probability=self.config.drop_probability
            )
            context, null = prompts.context(self.model, encoded), prompts.null_context(self.model, encoded)
            goal = self._teacher(target, x_t, number, context, null)

            # The student learns to do it in one; rows without the target do not count.
            weights = {target: self.model.students[target].weights(self.model.denoisers[target])}  # pyright: ignore
            prediction = self.model.denoise({target: x_t}, t, context, weights=weights)[target]
            error = denoising_error(prediction, goal)  # [B]
            losses.append(step.mean(error, lambda rows, name=target: rows.present[name], log=f"loss/{target}"))

            # Log it by the prompts that rows had, and by timestep.
            present = encoded.present[target]
            names = [f"loss/{target}/from {subset}" for subset in prompts.subsets]
            step.log_cells(error, present, prompts.cells, names)
            step.log_timesteps(target, error, present, num_timesteps)
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _teacher(self, target: str, x_t: Tensor, number: Tensor, context: Context, null: Context) -> Tensor:
        """The prediction that the student learns in its step of this number: the denoiser's guided steps in one, ``[B, *latent_shape]``."""
        student, both = self.model.config.student, Context.cat([null, context]).remembering()
        assert student is not None
        denoise = guided(lambda latents, t: self.model.denoise(latents, t, both), student.guidance_scale)
        return teacher_prediction(
            self.model.schedule,
            lambda z, t: denoise({target: z}, t)[target],
            x_t,
            number,
            self.config.steps,
            self.config.substeps,
        )
