"""What a stage is: it says what one step optimises, and asks neither for the loop nor for the engine around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcodi.config import from_dict
from medcodi.errors import ConfigError, TrainingError, one_of
from medcodi.randomness import StepRandomness
from medcodi.stages.sharing import Features, Rows, Share

if TYPE_CHECKING:
    from medcodi.data.loading import Batch
    from medcodi.model import MedCoDi
    from medcodi.stages.encoded import EncodedBatch

# Name -> where its class is. In the order of training. A new stage is one more row.
STAGES: dict[str, str] = {
    "autoencode": "medcodi.stages.autoencode:AutoencodeStage",
    "align": "medcodi.stages.align:AlignStage",
    "diffuse": "medcodi.stages.diffuse:DiffuseStage",
    "join": "medcodi.stages.join:JoinStage",
}


class StepOutput(NamedTuple):
    """What one step comes to: a tuple, for engines look for tensors in what a forward pass returns.

    Attributes:
        loss: Scalar, with gradient.
        logs: Name -> scalar without gradient, averaged over ranks and micro-batches by whoever logs them; or ``[2]``, a
            weighted sum and its weights, of which all ranks' and micro-batches' are added up (:func:`medcodi.stages.tally.tally`).
    """

    loss: Tensor
    logs: dict[str, Tensor]


class Stage(nn.Module):
    """One stage of training. Subclasses name themselves, their options, what they train and what must come before.

    Attributes:
        name: Its name in the table.
        Options: Class of its options, made by :func:`medcodi.config.config`.
        requires: Stages that the model must have been through.
        timed: Whether it draws timesteps, so that a validation can be told bucket by bucket.
        model: The model that it trains.
        options: Its options.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    requires: ClassVar[tuple[str, ...]] = ()
    timed: ClassVar[bool] = False

    def __init__(self, model: MedCoDi, options: Any = None) -> None:
        """Take a model over: only the parts that this stage trains keep ``requires_grad``.

        Raises:
            TrainingError: If the model has not been through a stage that must come before.
        """
        super().__init__()
        missing = [stage for stage in self.requires if stage not in model.trained_stages]
        if missing:
            raise TrainingError(
                f"stage {self.name!r} cannot start: the model has not been through {', '.join(map(repr, missing))}",
                expected=f"a model trained by {', '.join(map(repr, self.requires))}",
                fix=f"train {missing[0]!r} first, or start from the model folder it wrote",
            )
        self.model = model
        self.options = self.Options() if options is None else options
        model.requires_grad_(False)
        for part in self.trained_parts():
            part.requires_grad_(True)
        self.train()

    def trained_parts(self) -> list[nn.Module]:
        """The modules whose parameters this stage trains."""
        raise NotImplementedError

    def parts(self) -> dict[str, list[nn.Module]]:
        """What is trained, under the names by which a run tells of it."""
        return {self.name: self.trained_parts()}

    @property
    def num_turns(self) -> int:
        """How many kinds of step it takes (one is drawn for each step); a validation takes each equally often."""
        return 1

    def needs(self) -> tuple[str, ...]:
        """The modalities without which there is nothing to train; by default all of the model's."""
        return tuple(self.model.config.modalities)

    def components(self) -> tuple[str, ...]:
        """Names of the model's components that a step runs, given studies as :meth:`forward` takes them; by default all.

        For the stages that train on encodings: of encoded studies.
        """
        return tuple(self.model.components())

    def train(self, mode: bool = True) -> Stage:
        """Training mode for the parts that are trained; the others stay in evaluation mode."""
        super().train(mode)
        self.model.eval()
        for part in self.trained_parts():
            part.train(mode)
        return self

    def forward(self, batch: Batch, randomness: StepRandomness, share: Share | None = None) -> StepOutput:
        """The loss of one micro-batch; all noise comes from ``randomness``.

        Args:
            batch: The studies.
            randomness: Of this step and these studies.
            share: What the micro-batch knows of the others of its step; None: it is alone.

        Returns:
            A loss whose mean over micro-batches and ranks is that of the global batch, and so are its gradients.
        """
        raise NotImplementedError

    # ---- what micro-batches must know of each other ----------------------------------------------------------------
    def encoded(self, batch: Batch) -> Any:
        """What :meth:`features` and :meth:`forward` take in the place of one batch of several; by default the batch itself.

        Work of frozen parts that both would do is done here, once.
        """
        return batch

    def features(self, batch: Batch, randomness: StepRandomness) -> Features:
        """What the loss compares between studies, of one micro-batch; empty: it looks at each study alone.

        Returns:
            Name -> ``[B, ...]``, or a scalar that is the same for all studies. Computed twice in a step of several
            micro-batches, first without gradient, so from the same draws.
        """
        return {}

    def compare(self, features: Features, rows: Rows) -> StepOutput:
        """The part of the loss that compares studies, over all rows of this rank (and of the others, by its own exchange)."""
        raise NotImplementedError

    def compared(self, features: Features, batch: Batch | EncodedBatch, share: Share | None) -> StepOutput:
        """:meth:`compare` for one micro-batch: with those before and after it, if it is one of several."""
        if share is None or share.comparison is None:
            return self.compare(features, Rows.of(batch))
        return StepOutput(share.comparison.attached(share.index, features), share.comparison.logs)

    def finish(self, batches: Iterable[Batch]) -> None:
        """What is left to do once training is over, with some batches of training data; nothing by default."""


def stage_class(name: str) -> type[Stage]:
    """The class of a stage.

    Raises:
        ConfigError: If there is no such stage; names the nearest one.
    """
    module, _, attribute = STAGES[one_of("stage", name, STAGES, ConfigError)].partition(":")
    return getattr(import_module(module), attribute)


def build_stage(name: str, model: MedCoDi, options: Any = None) -> Stage:
    """A stage around a model.

    Args:
        name: One of ``STAGES``.
        model: The model to train, changed in place.
        options: The stage's ``Options``, or plain values for them; None takes the defaults.

    Raises:
        ConfigError: If the stage or one of its options is unknown or wrong.
        TrainingError: If the model has not been through a stage that must come before.
    """
    stage = stage_class(name)
    if isinstance(options, Mapping):
        options = from_dict(stage.Options, dict(options), source=f"options of stage {name!r}")
    return stage(model, options)


def num_ranks() -> int:
    """Number of processes that train together; 1 where there is only this one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(values: Tensor, weights: Tensor, whole: Sequence[Tensor] | None = None) -> Tensor:
    """Weighted mean over the rows of all ranks, as far as this rank contributes to it.

    Averaged over micro-batches and ranks, as engines average losses and gradients, it is the mean over the rows of the
    global batch, however unevenly present rows are spread.

    Args:
        values: ``[B]``.
        weights: ``[B]``, bool or numbers; 0 leaves a row out.
        whole: The weights of all micro-batches of this rank's step, these among them; None: there is this one.

    Returns:
        Scalar: ``micro-batches * ranks * sum(w v) / sum of w everywhere``; 0 where nobody has a row.
    """
    weights = weights.to(values)
    parts = [weights] if whole is None else [part.to(values) for part in whole]
    total = torch.stack([part.sum() for part in parts]).sum()
    if num_ranks() > 1:
        total = total.clone()
        dist.all_reduce(total)
    kept = torch.where(weights > 0, values, torch.zeros_like(values))
    return len(parts) * num_ranks() * (kept * weights).sum() / total.clamp(min=1e-12)
