"""The plan of a run without running it: memory per GPU, micro-batch, ZeRO stage, steps, GPU-hours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from medcodi.config import config
from medcodi.errors import ConfigError
from medcodi.training.config import TrainConfig
from medcodi.training.cost import Cost, stage_cost

GIB = 2**30
MIMIC_IMAGES, MIMIC_STUDIES = 377_110, 227_835  # MIMIC-CXR 2.0.0 (Johnson et al., 2019, Scientific Data 6:317)
ADAM_BYTES = 8  # two float32 moments
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default reduce and all-gather buckets


@config
class Hardware:
    """The GPUs that a run is planned for."""

    gpus: int = 8  # number of GPUs
    gpu_memory: float = 80.0  # GiB of each
    peak_tflops: float = 312.0  # of one GPU in bf16, without sparsity: 312 A100, 989 H100 and H200 (their data sheets)
    mfu: float = 0.35  # share of the peak that training reaches; best taken from a measured run
    reserved: float = 2.0  # GiB of each GPU for the CUDA context, libraries' workspaces, and NCCL
    fragmentation: float = 0.05  # share of the rest that the allocator cannot use

    def __post_init__(self) -> None:
        for name in ("gpus", "gpu_memory", "peak_tflops"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if not 0 < self.mfu <= 1 or self.reserved < 0 or not 0 <= self.fragmentation < 1:
            raise ValueError(f"mfu {self.mfu} must be in (0, 1], reserved >= 0, fragmentation in [0, 1)")

    @property
    def usable(self) -> float:
        """Bytes of one GPU that a run can use."""
        return (self.gpu_memory - self.reserved) * GIB * (1 - self.fragmentation)


@dataclass(frozen=True)
class StagePlan:
    """Bytes on each GPU under one ZeRO stage, and the largest micro-batch that fits; 0: not one study does."""

    zero_stage: int
    weights: float
    gradients: float
    optimizer: float
    average: float
    buffers: float
    fixed_activations: float
    study_activations: float
    micro_size: int

    @property
    def states(self) -> float:
        """Bytes that do not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer + self.average + self.buffers + self.fixed_activations

    def peak(self, micro_size: int) -> float:
        """Bytes at the end of the forward pass."""
        return self.states + micro_size * self.study_activations


@dataclass(frozen=True)
class Estimate:
    """Needs of each ZeRO stage, the best one, and the duration of the run."""

    cost: Cost
    hardware: Hardware
    plans: tuple[StagePlan, ...]
    best: StagePlan | None
    steps: int
    global_size: int
    gpu_hours: float

    @property
    def epochs(self) -> float:
        """Passes of the run over MIMIC-CXR."""
        return self.steps * self.global_size / MIMIC_STUDIES


def estimate(run: TrainConfig, hardware: Hardware, cost: Cost | None = None) -> Estimate:
    """Plan a run.

    Args:
        run: Config of the run; its model is that of the ``model`` recipe or the ``init`` folder.
        hardware: Where it would run.
        cost: Result of :func:`stage_cost`, to plan the same run for several machines.

    Raises:
        ConfigError: If the global batch cannot be divided over the GPUs, or there is no such model.
    """
    if run.batch.global_size % hardware.gpus:
        raise ConfigError(
            f"batch.global_size {run.batch.global_size} over {hardware.gpus} GPUs",
            expected=f"a multiple of {hardware.gpus}",
            fix=f"batch.global_size={-(-run.batch.global_size // hardware.gpus) * hardware.gpus}",
        )
    cost = cost or stage_cost(run)
    share = run.batch.global_size // hardware.gpus
    plans = tuple(_plan(cost, hardware, zero_stage, share) for zero_stage in range(4))
    seconds = run.steps * run.batch.global_size * cost.study_flops / (hardware.peak_tflops * 1e12 * hardware.mfu)
    return Estimate(cost, hardware, plans, recommend(plans, share), run.steps, run.batch.global_size, seconds / 3600)


def recommend(plans: Iterable[StagePlan], share: int) -> StagePlan | None:
    """The lowest ZeRO stage (the least communication) that fits a GPU's whole share, else the one that fits most of it."""
    fitting = [plan for plan in plans if plan.micro_size]
    whole = [plan for plan in fitting if plan.micro_size == share]
    return whole[0] if whole else max(fitting, key=lambda plan: (plan.micro_size, -plan.zero_stage), default=None)


def _plan(cost: Cost, hardware: Hardware, zero_stage: int, share: int) -> StagePlan:
    # What each GPU holds: ZeRO-1 partitions the optimiser, 2 also gradients, 3 also weights.
    def split(from_stage: int) -> int:
        return hardware.gpus if zero_stage >= from_stage else 1

    masters = 4 * cost.trained / hardware.gpus if zero_stage in (1, 2) else 0  # ZeRO keeps a shard of float32 copies
    buckets = 2 * 4 * min(cost.trained, BUCKET_ELEMENTS) if zero_stage else 0
    weights = 4 * cost.trained / split(3) + 4 * cost.frozen + masters
    gradients, optimizer = 4 * cost.trained / split(2), ADAM_BYTES * cost.trained / split(1)
    average = 4 * cost.trained / split(3)

    # The largest micro-batch that fits beside them, and divides the GPU's share of the global batch.
    per_study = max(cost.study_activations, cost.study_transient)
    states = weights + gradients + optimizer + average + buckets + cost.fixed_activations
    room = max(0.0, hardware.usable - states)
    largest = min(share, math.floor(room / per_study)) if per_study else share
    micro = next((size for size in range(largest, 0, -1) if share % size == 0), 0)
    return StagePlan(
        zero_stage, weights, gradients, optimizer, average, buckets, cost.fixed_activations, per_study, micro
    )
