"""The engine of a private run: each patient's gradient is clipped, their sum gets noise, and the optimiser takes a step.

A gradient is that of the patient's loss by the low-rank changes alone; clipping bounds what one patient can change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from medcodi.data.loading import Batch
from medcodi.distributed import Ranks
from medcodi.randomness import StepRandomness, keyed_normal
from medcodi.stages.stage import Stage
from medcodi.training.config import TrainConfig
from medcodi.training.engine import PlainEngine, StepResult
from medcodi.training.optimizer import learning_rate
from medcodi.training.private.accounting import Mechanism

Gradients = Mapping[str, Tensor]  # name of a parameter -> [B, *shape], one row a study or a patient


class _StudyLoss(nn.Module):
    """The loss of one study, as a module whose parameters torch.func can replace."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: Any) -> Tensor:
        batch = tree_map(lambda value: value[None], inputs)  # of one row
        return self.stage.study_losses(batch)[0]


def study_gradients(
    stage: Stage, parameters: Mapping[str, Tensor], inputs: Any, chunk: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients ``[B, *shape]`` and losses ``[B]`` of B studies, each as if it were alone.

    Args:
        stage: Whose ``study_losses`` are differentiated.
        parameters: Name -> parameter of the stage, by which the losses are differentiated.
        inputs: Tree of ``[B, ...]``, from the stage's ``study_inputs``.
        chunk: Studies whose gradients are computed at the same time; None: all.
    """
    module = _StudyLoss(stage)
    values = {f"stage.{name}": parameter.detach() for name, parameter in parameters.items()}
    of_one = grad_and_value(lambda values, inputs: functional_call(module, values, (inputs,)))
    with sdpa_kernel([SDPBackend.MATH]):  # the fused kernels have no rule for vmap, and would run row by row
        gradients, losses = vmap(of_one, in_dims=(None, 0), chunk_size=chunk)(values, inputs)
    return {name.removeprefix("stage."): gradient.detach() for name, gradient in gradients.items()}, losses.detach()


def patient_means(gradients: Gradients, patient_ids: Sequence[str]) -> dict[str, Tensor]:
    """The mean over the studies ``[B, ...]`` of each patient: ``[P, ...]``, patients in the order of their first study."""
    place = {name: number for number, name in enumerate(dict.fromkeys(patient_ids))}
    rows = torch.tensor([place[name] for name in patient_ids])
    counts = torch.bincount(rows)  # studies of each patient, [P]
    means = {}
    for name, gradient in gradients.items():
        index = rows.to(gradient.device)
        total = gradient.new_zeros(len(place), *gradient.shape[1:]).index_add(0, index, gradient)
        means[name] = total / counts.to(gradient).view(-1, *[1] * (gradient.ndim - 1))
    return means


def clipped_sum(gradients: Gradients, clip: float) -> tuple[dict[str, Tensor], Tensor]:
    """The sum over patients of their gradients ``[P, ...]``, each shortened to at most ``clip``; and which were, bool ``[P]``.

    A gradient that is not finite counts as zero: it must not tell of its patient more than any other.
    """
    squares = [gradient.flatten(1).square().sum(dim=1) for gradient in gradients.values()]
    norms = torch.stack(squares).sum(dim=0).sqrt()  # [P], over all parameters
    finite = norms.isfinite()
    share = torch.where(finite, (clip / norms).clamp(max=1.0), 0.0)
    total = {
        name: torch.einsum("p,p...->...", share, torch.where(_like(finite, gradient), gradient, 0.0))
        for name, gradient in gradients.items()
    }
    return total, ~finite | (norms > clip)


def _like(flags: Tensor, gradient: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (gradient.ndim - 1))


# ---- the engine ------------------------------------------------------------------------------------------------------
class PrivateEngine(PlainEngine):
    """DP-SGD (Abadi et al., 2016, algorithm 1) with the optimiser of the run, on one process or several.

    The gradient of a step is (sum of the patients' clipped gradients + noise) / expected number of patients. It is the same for any
    number of ranks and micro-batches, up to the order of the sum.
    """

    def __init__(self, stage: Stage, config: TrainConfig, ranks: Ranks, mechanism: Mechanism, secret: str) -> None:
        """Take a stage that trains low-rank changes; ``secret`` is the key of the noise."""
        super().__init__(stage, config, ranks)
        self.mechanism, self._secret = mechanism, secret

    def _parallel(self, stage: Stage) -> nn.Module:
        return stage  # ranks exchange sums of clipped gradients, and nothing before

    def run_step(self, micro_batches: Sequence[Batch], randomness: Sequence[StepRandomness]) -> StepResult:
        """Clip, add up, add noise, and step; a rank without a patient in the step has no micro-batch."""
        step = randomness[0].step
        lr = learning_rate(self.config.optimizer, step, self.config.horizon)

        # Add up the clipped gradients of this rank's patients.
        total = {name: torch.zeros_like(parameter) for name, parameter in self._trained.items()}
        losses, clipped = [torch.zeros(0, device=self.ranks.device)], [torch.zeros(0, device=self.ranks.device)]
        for batch, draws in zip(micro_batches, randomness, strict=False):  # draws alone where there is no batch
            with self.autocast():
                inputs = self.stage.study_inputs(batch.to(self.ranks.device), draws)
                chunk = self.config.batch.micro_size
                gradients, of_studies = study_gradients(self.stage, self._trained, inputs, chunk)
            sums, shortened = clipped_sum(patient_means(gradients, batch.patient_ids), self.mechanism.clip)
            for name, value in sums.items():
                total[name] += value
            losses.append(of_studies.float())
            clipped.append(shortened.float())

        # The sum over all ranks, with noise that every rank draws alike, over the expected number of patients.
        for name, value in total.items():
            if self.ranks.world_size > 1:
                dist.all_reduce(value)
            if self.mechanism.noise:
                value += self.mechanism.noise * self.mechanism.clip * self._noise(step, name, value)
            self._trained[name].grad = value / self.mechanism.expected
        grad_norm, skipped = self._update(lr)

        # For the owner's log alone: these are computed without noise.
        loss, share = torch.cat(losses), torch.cat(clipped)
        logs = {"loss": _sum_and_count(loss), "privacy/clipped": _sum_and_count(share)}
        mean = loss.mean() if len(loss) else loss.new_tensor(torch.nan)
        return StepResult([mean], [logs], grad_norm, lr, skipped)

    def _noise(self, step: int, name: str, like: Tensor) -> Tensor:
        """Standard normal numbers, keyed by (secret, step, parameter)."""
        return keyed_normal([("privacy noise", self._secret, step, name)], like.shape, like.device)[0]


def _sum_and_count(values: Tensor) -> Tensor:
    return torch.stack([values.nan_to_num().sum(), values.new_tensor(float(len(values)))])
