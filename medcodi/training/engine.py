"""The engine owns device, precision, accumulation and the exchange of gradients; a stage does not know which one runs it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medcodi.data.loading import Batch
from medcodi.distributed import Ranks
from medcodi.errors import ConfigError, TrainingError
from medcodi.randomness import StepRandomness, seed_from_keys
from medcodi.stages.stage import Stage
from medcodi.stages.step import accumulations
from medcodi.training.config import TrainConfig
from medcodi.training.deepspeed.library import check_deepspeed
from medcodi.training.execution import autocast, checkpoint_activations, compile_blocks
from medcodi.training.optimizer import build_optimizer, learning_rate, trained_parameters

OPTIMIZER_STATE = ("exp_avg", "exp_avg_sq")
# Name -> where its class is. A new engine is one more row.
ENGINES = {
    "plain": "medcodi.training.engine:PlainEngine",
    "deepspeed": "medcodi.training.deepspeed.engine:DeepSpeedEngine",
}


@dataclass(frozen=True)
class StepResult:
    """Outcome of one optimiser step on this rank."""

    losses: list[Tensor]  # of each micro-batch, on the device
    logs: list[dict[str, Tensor]]  # of the stage, for each micro-batch
    grad_norm: float | None  # before clipping, over all ranks; None where the engine does not know it
    lr: float
    skipped: bool = False  # the step was not taken, because a loss or gradient was not finite
    suspects: list[str] = field(default_factory=list)  # this rank's studies whose micro-batch's loss was not finite


class Engine(ABC):
    """Runs the steps of one stage. ``shards`` are this rank's part of the trained weights: all, except under ZeRO-3."""

    def __init__(self, stage: Stage, config: TrainConfig, ranks: Ranks) -> None:
        """Move the stage to its device, and have its blocks compiled or checkpointed.

        Raises:
            TrainingError: If the stage trains nothing.
        """
        self.config, self.ranks = config, ranks
        self.stage = stage.to(ranks.device)
        self._trained = trained_parameters(stage)
        if not self._trained:
            raise TrainingError(f"stage {config.stage.name!r} trains no parameter", fix="check stage.options")
        if config.compile:
            compile_blocks(stage, ranks.device)
        if config.engine.activation_checkpointing:
            checkpoint_activations(stage)

    def autocast(self) -> Any:
        """Context in which the stage computes at the run's precision."""
        return autocast(self.ranks.device, self.config.precision)

    def evaluation(self) -> Any:
        """Context in which the stage and its parts are used outside a step, with the current shards."""
        return self.autocast()

    @abstractmethod
    def run_step(self, micro_batches: Sequence[Batch], randomness: Sequence[StepRandomness]) -> StepResult:
        """Forward and backward over the micro-batches, then one optimiser step."""

    # ---- state: whole tensors by name, so that a checkpoint fits every engine, ZeRO stage and number of ranks ----
    @abstractmethod
    def shards(self) -> dict[str, Tensor]:
        """Name -> live tensor of the trained weights on this rank."""

    @abstractmethod
    def whole(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> whole tensor on the CPU, on the first rank only; every rank calls this."""

    @abstractmethod
    def share(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of whole tensors named like the trained weights: the shape of ``shards``, on its device."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Tensor]:
        """``exp_avg.<name>`` and ``exp_avg_sq.<name>`` -> whole tensor, on the first rank only; every rank calls this."""

    @abstractmethod
    def load_optimizer_state(self, state: Mapping[str, Tensor], num_steps: int) -> None:
        """Restore what :meth:`optimizer_state` returned after ``num_steps`` steps."""

    def scalars(self) -> dict[str, float]:
        """The engine's own numbers in a checkpoint (the fp16 loss scale)."""
        return {}

    def load_scalars(self, scalars: Mapping[str, float]) -> None:
        """Restore what :meth:`scalars` returned."""
        return


def seed_step(randomness: StepRandomness, rank: int, micro: int) -> None:
    """Seed torch's global generator, from which dropout draws, by step, rank and micro-batch: no state to save."""
    torch.manual_seed(seed_from_keys("dropout", randomness.seed, randomness.step, rank, micro))


def features_of(
    engine: Engine, batches: list[Any], randomness: Sequence[StepRandomness]
) -> Iterator[dict[str, Tensor]]:
    """The stage's features of each micro-batch, from the draws of its own forward pass.

    Replaces each of ``batches`` by what the stage encodes of it, so that its forward pass need not encode it again.
    """
    for index, draw in enumerate(randomness):
        seed_step(draw, engine.ranks.rank, index)
        with engine.autocast():  # entered anew each time: autocast would cache weights that it cast without a gradient
            batches[index] = engine.stage.encoded(batches[index])
            features = engine.stage.features(batches[index], draw)
        yield features


def check_finite(losses: Sequence[Tensor], micro_batches: Sequence[Batch]) -> list[str]:
    """Studies of the micro-batches whose loss is not finite; waits for the device once."""
    finite = torch.stack(list(losses)).isfinite().tolist()
    return [study for ok, batch in zip(finite, micro_batches, strict=True) if not ok for study in batch.study_ids]


def marked(loss: Tensor) -> Tensor:
    """The loss, with a gradient that is NaN everywhere if it is not finite: every rank sees it in the gradient norm."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)


class PlainEngine(Engine):
    """Plain torch: one process, or DistributedDataParallel under a launcher."""

    def __init__(self, stage: Stage, config: TrainConfig, ranks: Ranks) -> None:
        check_plain(config, ranks)
        super().__init__(stage, config, ranks)
        self._module = self._parallel(stage) if ranks.world_size > 1 else self.stage
        self._optimizer = build_optimizer(stage, config.optimizer)
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")

    def _parallel(self, stage: Stage) -> nn.Module:
        """The stage with an exchange of gradients in its backward pass."""
        # Ranks may need different denoisers; this setting also keeps the buckets, and so the order of sums, the same.
        return DistributedDataParallel(stage, broadcast_buffers=False, find_unused_parameters=True)

    def run_step(self, micro_batches: Sequence[Batch], randomness: Sequence[StepRandomness]) -> StepResult:
        """Forward and backward over the micro-batches, then one optimiser step."""
        lr = learning_rate(self.config.optimizer, randomness[0].step, self.config.horizon)

        # What micro-batches must know of each other, computed before their own passes.
        batches = [batch.to(self.ranks.device) for batch in micro_batches]
        step_accumulations = accumulations(self.stage.compare, batches, features_of(self, batches, randomness))

        # Accumulate gradients; ranks exchange them with the last micro-batch only.
        losses, logs = [], []
        for index, (batch, draw, accumulation) in enumerate(zip(batches, randomness, step_accumulations, strict=True)):
            seed_step(draw, self.ranks.rank, index)
            last = index + 1 == len(micro_batches)
            with nullcontext() if last or self._module is self.stage else self._module.no_sync():  # type: ignore[operator]
                with self.autocast():
                    output = self._module(batch, draw, accumulation)
                self._scaler.scale(marked(output.loss) / len(micro_batches)).backward()
            losses.append(output.loss.detach())
            logs.append(output.logs)

        # Clip and step, unless the norm is not finite.
        grad_norm, skipped = self._update(lr)
        suspects = check_finite(losses, micro_batches) if skipped else []
        return StepResult(losses, logs, grad_norm, lr, skipped, suspects)

    def _update(self, lr: float) -> tuple[float, bool]:
        """Clip and step; returns the norm, and whether the step was skipped."""
        parameters = list(self._trained.values())
        # A parameter that no sample reached has a zero gradient, as under ZeRO: it still decays.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._scaler.unscale_(self._optimizer)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = nn.utils.get_total_norm(gradients)
        grad_norm = float(total)
        finite = math.isfinite(grad_norm)
        clip = self.config.optimizer.grad_clip
        if finite and clip is not None and grad_norm + 1e-6 > clip:  # otherwise torch would multiply by one
            self._clip(parameters, clip, total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if finite or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)  # the scaler itself skips a step with infinities
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.__dict__.pop("grad_scale", None)
        return grad_norm, not finite

    def _clip(self, parameters: list[nn.Parameter], clip: float, total: Tensor) -> None:
        """Shorten the gradients to ``clip``: as the fused optimiser reads them, which saves a pass over memory."""
        if self._scaler.is_enabled():  # it sets the optimiser's scale itself
            nn.utils.clip_grads_with_norm_(parameters, clip, total)
        else:
            self._optimizer.grad_scale = (total + 1e-6) / clip  # pyright: ignore[reportAttributeAccessIssue]

    def shards(self) -> dict[str, Tensor]:
        """Name -> live tensor of the trained weights: whole, on every rank."""
        return {name: parameter.data for name, parameter in self._trained.items()}

    def whole(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> tensor on the CPU, on the first rank; the live one where training waits for the writer, which needs no copy."""
        if not self.ranks.is_first:
            return {}
        copy = self.config.checkpoint.background
        return {name: tensor.detach().to("cpu", copy=copy).contiguous() for name, tensor in shards.items()}

    def share(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All of it, on the device."""
        return {name: tensor.to(self.ranks.device) for name, tensor in whole.items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """Both moments of every trained parameter, on the first rank."""
        moments = {}
        for name, parameter in self._trained.items():
            state = self._optimizer.state.get(parameter, {})
            moments |= {f"{key}.{name}": state.get(key, torch.zeros_like(parameter)) for key in OPTIMIZER_STATE}
        return self.whole(moments)

    def load_optimizer_state(self, state: Mapping[str, Tensor], num_steps: int) -> None:
        """Restore the moments."""
        for name, parameter in self._trained.items():
            moments = {key: state[f"{key}.{name}"].to(parameter.device, copy=True) for key in OPTIMIZER_STATE}
            count = torch.tensor(float(num_steps), device=parameter.device)
            self._optimizer.state[parameter] = {"step": count, **moments}

    def scalars(self) -> dict[str, float]:
        """The fp16 loss scale and its growth count; nothing at other precisions."""
        state = self._scaler.state_dict()
        return {key: float(state[key]) for key in ("scale", "_growth_tracker") if key in state}

    def load_scalars(self, scalars: Mapping[str, float]) -> None:
        """Restore the loss scale."""
        if scalars and self._scaler.is_enabled():
            state = {**self._scaler.state_dict(), "scale": scalars["scale"]}
            self._scaler.load_state_dict({**state, "_growth_tracker": int(scalars["_growth_tracker"])})


def check_plain(config: TrainConfig, ranks: Ranks) -> None:
    """Refuse what only DeepSpeed, or only a GPU, can do.

    Raises:
        ConfigError: Names the setting.
    """
    if config.precision == "fp16" and ranks.device.type != "cuda":
        raise ConfigError("precision fp16 on the CPU", expected="a GPU for fp16", fix="precision=bf16")
    for key in ("offload_optimizer", "offload_parameters"):
        value = getattr(config.engine, key)
        if value != "none":
            raise ConfigError(
                f"engine.{key} {value} on the plain engine",
                expected="DeepSpeed, the only engine that offloads",
                fix=f"start with: deepspeed --module medcodi train …, or engine.name=deepspeed under torchrun, or engine.{key}=none",
            )


def chosen_engine(config: TrainConfig, started_by: str) -> str:
    """``plain`` or ``deepspeed``; ``auto`` is DeepSpeed when its launcher started this process, else plain."""
    name = config.engine.name
    return ("deepspeed" if started_by == "deepspeed" else "plain") if name == "auto" else name


def describe_engine(config: TrainConfig, started_by: str) -> str:
    """The engine in words, for the first line of a run."""
    return (
        f"DeepSpeed, ZeRO-{config.engine.zero_stage}" if chosen_engine(config, started_by) == "deepspeed" else "plain"
    )


def check_engine(config: TrainConfig, ranks: Ranks, started_by: str) -> None:
    """Refuse settings that :func:`build_engine` would refuse, before anything is read or computed.

    Raises:
        ConfigError: If the engine cannot do what the config says.
        MissingExtraError: If DeepSpeed is not installed.
        TrainingError: If DeepSpeed was not started by a launcher.
    """
    if chosen_engine(config, started_by) == "plain":
        check_plain(config, ranks)
        return
    if config.low_rank is not None:
        raise ConfigError(
            "low_rank with DeepSpeed",
            expected="the plain engine: low-rank changes are small, and need no ZeRO",
            fix="engine.name=plain, or start with torchrun",
        )
    check_deepspeed(config, ranks)


def build_engine(stage: Stage, config: TrainConfig, ranks: Ranks, started_by: str) -> Engine:
    """The engine that the config names."""
    module, _, name = ENGINES[chosen_engine(config, started_by)].partition(":")
    return getattr(import_module(module), name)(stage, config, ranks)
