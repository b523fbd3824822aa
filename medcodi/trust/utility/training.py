"""Training of one arm's network: a fixed number of steps, and the weights with the lowest validation loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcodi.config import to_dict
from medcodi.evaluation.annotators.classifier_training import learning_rate
from medcodi.metrics.findings import best_thresholds
from medcodi.randomness import numpy_generator, seed_from_keys, torch_generator
from medcodi.trust.utility.arms import Selection
from medcodi.trust.utility.config import ArmConfig, UtilityConfig
from medcodi.trust.utility.pools import Pool
from medcodi.trust.utility.tasks import Task

GREATEST_WEIGHT = 50.0  # of a positive
MAX_GRADIENT = 5.0  # norm to which gradients are clipped
_VALIDATED = 256  # studies of a validation batch


@dataclass(frozen=True)
class Trained:
    """A trained network: the chosen weights, and what its record says."""

    network: nn.Module
    thresholds: np.ndarray  # float64 [K], of the best F1 on validation studies; empty for retrieval
    record: dict[str, Any]


class Batches:
    """Rows of every step: a permutation of each epoch, a function of (seed, step); pretraining first sees what is added alone."""

    def __init__(self, arm: ArmConfig, selection: Selection, num_steps: int, batch_size: int, seed: int) -> None:
        self._seed, self._batch_size = seed, batch_size
        everything = np.arange(len(selection.pool))
        self._first = round(arm.pretrain * num_steps)  # step at which real studies take over
        self._phases = (
            (everything[selection.num_real :], everything[: selection.num_real]) if arm.pretrain else (everything,) * 2
        )
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def rows(self, step: int) -> Tensor:
        """Rows of the arm's pool, ``[batch_size]``; a batch may straddle epochs, and a small set comes several times."""
        phase = int(step >= self._first)
        among, start = self._phases[phase], step - (self._first if phase else 0)
        positions = np.arange(start * self._batch_size, (start + 1) * self._batch_size)
        return torch.tensor(
            [
                among[self._order(phase, int(epoch))[at]]
                for epoch, at in zip(*divmod(positions, len(among)), strict=True)
            ]
        )

    def _order(self, phase: int, epoch: int) -> np.ndarray:
        if (phase, epoch) not in self._orders:
            if len(self._orders) > 4 * self._batch_size:
                self._orders.clear()
            size = len(self._phases[phase])
            self._orders[phase, epoch] = numpy_generator("utility order", self._seed, phase, epoch).permutation(size)
        return self._orders[phase, epoch]


def positive_weights(arm: ArmConfig, truth: Tensor) -> Tensor:
    """Weights of positives ``[K]``: 1, or with ``loss_weights`` the odds against each finding, at most 50."""
    if not arm.loss_weights:
        return torch.ones(truth.shape[1])
    rate = truth.nanmean(0).nan_to_num(0.5).clamp(1e-6, 1)
    return ((1 - rate) / rate).clamp(1, GREATEST_WEIGHT)


def train(
    task: Task, arm: ArmConfig, selection: Selection, validation: Pool, config: UtilityConfig, seed: int
) -> Trained:
    """Train a task's network on the studies of an arm.

    Everything but the studies, their weights and their augmentation is the same in every arm: initial weights, steps, batch,
    schedule, precision, and the rule by which weights are chosen.
    """
    options, device = config.training, torch.device(config.device)
    torch.manual_seed(seed_from_keys("utility weights", seed))
    network = task.build().to(device).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    batches = Batches(arm, selection, options.num_steps, options.batch_size, seed)
    weights = positive_weights(arm, selection.pool.truth).to(device)
    checks = {options.num_steps * number // options.num_checks for number in range(1, options.num_checks + 1)}
    losses: list[tuple[float, int]] = []
    best: dict[str, Tensor] = {}
    for step in range(options.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        # Forward, backward, update.
        rng = torch_generator("utility augmentation", seed, step)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = task.loss(network, selection.pool, batches.rows(step), weights, arm.augmentation, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT)
        optimizer.step()
        # Keep the weights with the lowest validation loss.
        if step + 1 in checks:
            losses.append((validation_loss(task, network, validation, config), step + 1))
            if losses[-1] == min(losses) or not best:
                best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(best)
    network.eval()
    # Thresholds of F1, on validation studies too.
    thresholds = np.zeros(0)
    if config.task != "retrieval":
        thresholds = best_thresholds(validation.truth.double().numpy(), predict(task, network, validation))
    return Trained(
        network, thresholds, {**protocol(config), "chosen_step": min(losses)[1], "validation_losses": losses}
    )


@torch.inference_mode()
def validation_loss(task: Task, network: nn.Module, validation: Pool, config: UtilityConfig) -> float:
    """The unweighted, unaugmented loss of the validation studies, in float32."""
    network.eval()
    ones, total = torch.ones(validation.truth.shape[1], device=config.device), 0.0
    for rows in torch.arange(len(validation)).split(_VALIDATED):
        total += task.loss(network, validation, rows, ones, "none", torch.Generator()).item() * len(rows)
    network.train()
    return total / len(validation)


@torch.inference_mode()
def predict(task: Task, network: nn.Module, pool: Pool) -> np.ndarray:
    """A task's predictions of every study, in float32."""
    network.eval()
    return task.predict(network, pool)


def protocol(config: UtilityConfig) -> dict[str, Any]:
    """The values that every arm's record must have in common."""
    options = config.training
    return {
        "num_steps": options.num_steps,
        "batch_size": options.batch_size,
        "schedule": f"AdamW, warm-up over {options.warmup_steps} steps to {options.learning_rate:g}, cosine decay to 0, "
        f"weight decay {options.weight_decay:g}, gradient norm at most {MAX_GRADIENT:g}",
        "selection": f"lowest validation loss of {options.num_checks} checks",
        "precision": options.precision,
        "network": to_dict(config.network),
    }


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute on this number of CPU threads, on which rounding depends."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
