"""A stage of training says what one step optimises; it knows neither the loop nor the engine around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from medcodi.config import from_dict
from medcodi.errors import ConfigError, TrainingError, one_of
from medcodi.model.low_rank import LowRank, LowRankConfig
from medcodi.randomness import StepRandomness, seed_from_keys
from medcodi.stages.dry_run import DryRun
from medcodi.stages.step import Accumulation, Features, Rows, Step, StepOutput

if TYPE_CHECKING:
    from medcodi.data.loading import Batch
    from medcodi.model import MedCoDi

# Every stage, in the order of training: name -> module and class, imported when it is used. A new stage is one more row.
STAGES: dict[str, str] = {
    "autoencode": "medcodi.stages.autoencode:AutoencodeStage",  # trains the autoencoders
    "align": "medcodi.stages.align:AlignStage",  # trains the prompt encoders
    "diffuse": "medcodi.stages.diffuse:DiffuseStage",  # trains the denoisers, each alone
    "join": "medcodi.stages.join:JoinStage",  # trains the environment encoders and the connectors
    "distil": "medcodi.stages.distil:DistilStage",  # adds students that generate in few steps
}


class Stage(nn.Module):
    """One stage of training. Subclasses define :meth:`parts`, :meth:`loss` and the class attributes."""

    name: ClassVar[str]  # in the table
    Config: ClassVar[type]  # filled from the YAML key stage.options
    requires: ClassVar[tuple[str, ...]] = ()  # stages that the model must have been through
    least_modalities: ClassVar[int] = 1  # of its needs, that studies must have for a validation to measure anything
    timed: ClassVar[bool] = False  # whether it draws timesteps, so that a validation can log losses by timestep
    takes_low_rank: ClassVar[bool] = False  # whether low-rank changes can be trained in place of its weights
    # Why no gradient belongs to one study, so that the stage cannot be made private; None: it defines study_inputs and study_losses.
    why_not_private: ClassVar[str | None] = "it does not give the loss of each study alone"

    def __init__(self, model: MedCoDi, config: Any = None) -> None:
        """Prepare a model, which is changed in place: only the parts that this stage trains keep ``requires_grad``."""
        super().__init__()
        missing = [stage for stage in self.requires if stage not in model.trained_stages]
        if missing:
            raise TrainingError(
                f"stage {self.name!r} cannot start: the model has not been through {', '.join(map(repr, missing))}",
                expected=f"a model trained by {', '.join(map(repr, self.requires))}",
                fix=f"train {missing[0]!r} first, or start from the model folder it wrote",
            )
        self.model = model
        self.config = self.Config() if config is None else config
        self.adapters = nn.ModuleDict()  # component -> its low-rank changes, where these are trained and no weights
        model.requires_grad_(False)
        for part in self.trained_parts():
            part.requires_grad_(True)
        self.train()

    def train_low_rank(self, config: LowRankConfig, seed: int) -> None:
        """Freeze the weights, and train a low-rank change of each linear layer and convolution among them.

        Raises:
            TrainingError: If the stage trains more than weights, or ``config.layers`` names none of its layers.
        """
        if not self.takes_low_rank:
            raise TrainingError(
                f"low_rank in stage {self.name!r}", expected="stage 'diffuse' or 'align'", fix="remove low_rank"
            )
        # The layers that the stage trains, by component; those of a model that is read lazily are read now.
        self.model.load_components(self.components(cached=True))
        trained = {
            component: [name for name, layer in module.named_modules() if _is_trained_layer(layer)]
            for component, module in self.model.components().items()
        }
        names = sorted({name for layers in trained.values() for name in layers})
        if unknown := [part for part in config.layers if not any(part in name for name in names)]:
            raise TrainingError(
                f"low_rank.layers names {unknown[0]!r}, which is part of no layer that stage {self.name!r} trains",
                expected=f"parts of names such as {', '.join(names[:: max(1, len(names) // 4)][:5])}",
                fix="correct low_rank.layers, or leave it out",
            )

        # One adapter for each component, the same on all ranks.
        self.model.requires_grad_(False)
        device = self.model.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from_keys("low rank", seed))
            for component, layers in trained.items():
                chosen = {name for name in layers if not config.layers or any(part in name for part in config.layers)}
                if chosen:
                    module = self.model.components()[component]
                    adapter = LowRank(module, config.rank, chosen)
                    self.adapters[component] = adapter if device.type == "cpu" else adapter.to(device)
                    adapter.attach(module)

    # ---- what it trains, and on what ---------------------------------------------------------------------------
    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules that this stage trains, under the names by which a run logs them."""
        raise NotImplementedError

    def trained_parts(self) -> list[nn.Module]:
        """The modules that this stage trains."""
        return [module for modules in self.parts().values() for module in modules]

    def needs(self) -> tuple[str, ...]:
        """The modalities without which there is nothing to train; by default all of the model's."""
        return tuple(self.model.config.modalities)

    def components(self, *, cached: bool = False) -> tuple[str, ...]:
        """Names of the model's components that a step runs; ``cached``: on studies that come encoded; by default all."""
        return tuple(self.model.components())

    @property
    def num_turns(self) -> int:
        """Number of kinds of step (each step draws one); a validation takes each equally often."""
        return 1

    def dry_run(self, *, cached: bool = False) -> DryRun:
        """The forward passes of one micro-batch, without data, for counting; ``cached``: studies come encoded from a cache."""
        raise NotImplementedError

    # ---- what one step optimises -------------------------------------------------------------------------------
    def loss(self, batch: Any, step: Step) -> Tensor:
        """The loss of one micro-batch, a scalar with gradient; what is logged goes into ``step.logs``.

        Its mean over micro-batches and ranks, and that of its gradients, are those of the global batch.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, randomness: StepRandomness, accumulation: Accumulation | None = None) -> StepOutput:
        """Loss and logs of one micro-batch; ``accumulation`` holds the rows of all micro-batches of the step; None: this is the only one."""
        step = Step(randomness, Rows.of(batch), accumulation)
        return StepOutput(self.loss(batch, step), step.logs)

    def train(self, mode: bool = True) -> Stage:
        """Training mode for the parts that are trained; the others stay in evaluation mode."""
        super().train(mode)
        self.model.eval()
        for part in self.trained_parts():
            part.train(mode)
        return self

    # ---- losses that compare studies ---------------------------------------------------------------------------
    def encoded(self, batch: Batch) -> Any:
        """The batch for :meth:`features` and :meth:`forward` in a step of several micro-batches: frozen parts run once, here."""
        return batch

    def features(self, batch: Batch, draws: StepRandomness) -> Features:
        """Features of one micro-batch that the loss compares between studies (name -> ``[B, ...]``, or a scalar); none by default.

        They are computed twice in a step of several micro-batches, first without gradient, from the same draws.
        """
        return {}

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """The part of the loss that compares studies, over all rows of this rank (other ranks' by its own exchange)."""
        raise NotImplementedError

    def compared(self, features: Features, step: Step) -> Tensor:
        """:meth:`compare` over the rows of all micro-batches of the step; logs what it logs."""
        accumulation = step.accumulation
        if accumulation is None or accumulation.comparison is None:
            loss, logs = self.compare(features, step.rows)
        else:
            comparison = accumulation.comparison
            loss, logs = comparison.attached(accumulation.index, features), comparison.logs
        step.logs |= logs
        return loss

    # ---- losses of single studies --------------------------------------------------------------------------------
    def study_inputs(self, batch: Batch, draws: StepRandomness) -> Any:
        """Inputs of each study's loss besides weights: a tree of tensors ``[B, ...]``, computed without gradient."""
        raise NotImplementedError

    def study_losses(self, inputs: Any) -> Tensor:
        """The losses ``[B]`` of the studies of :meth:`study_inputs`, each a function of its own row; transformable by ``torch.func``."""
        raise NotImplementedError

    # ---- the end ---------------------------------------------------------------------------------------------------
    def finish(self, batches: Iterable[Batch]) -> None:
        """Work that remains once training is over, with some batches of training data; none by default."""


def _is_trained_layer(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad


def stage_class(name: str) -> type[Stage]:
    """The class of a stage; an unknown name is a ConfigError that names the nearest one."""
    module, _, attribute = STAGES[one_of("stage", name, STAGES, ConfigError)].partition(":")
    return getattr(import_module(module), attribute)


def build_stage(name: str, model: MedCoDi, config: Any = None) -> Stage:
    """A stage around a model, which is changed in place; ``config`` is the stage's ``Config``, or plain values for it.

    Raises:
        ConfigError: If the stage or one of its options is unknown or invalid.
        TrainingError: If the model has not been through a stage that must come before.
    """
    stage = stage_class(name)
    if isinstance(config, Mapping):
        config = from_dict(stage.Config, dict(config), source=f"options of stage {name!r}")
    return stage(model, config)


def trained_in(model: MedCoDi) -> dict[str, tuple[str, ...]]:
    """Parameter name -> the stages that train it at their default configs, in order; those of every model.

    The model may be on the meta device. Afterwards only the last stage's parameters have ``requires_grad``.
    """
    from medcodi.model import STAGES as STAGES_OF_EVERY_MODEL

    stages: dict[str, list[str]] = {name: [] for name, _ in model.named_parameters()}
    been_through, model.trained_stages = model.trained_stages, tuple(STAGES)
    try:
        # Each stage prepares the model in turn, and leaves its own parameters trainable.
        for stage in STAGES_OF_EVERY_MODEL:
            build_stage(stage, model).eval()
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    stages[name].append(stage)
    finally:
        model.trained_stages = been_through
    return {name: tuple(names) for name, names in stages.items()}
