"""The engine of a private run: each patient's gradient is clipped, their sum gets noise, and the optimiser takes a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcodi.data.loading import Batch
from medcodi.distributed import Ranks
from medcodi.randomness import StepRandomness, keyed_normal
from medcodi.stages.stage import Stage
from medcodi.training.config import TrainConfig
from medcodi.training.engine import PlainEngine, StepResult
from medcodi.training.optimizer import learning_rate
from medcodi.training.private.accounting import Mechanism
from medcodi.training.private.gradients import clipped_sum, patient_means, study_gradients


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
