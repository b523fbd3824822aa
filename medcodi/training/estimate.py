"""Plan before you pay: memory per GPU, micro-batch, ZeRO stage, steps and GPU-hours of a run, without running it."""

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
    """What a run is planned for.

    Attributes:
        gpus: How many.
        gpu_memory: GiB of each.
        peak_tflops: Of one GPU in bf16, without sparsity: 312 A100, 989 H100 and H200 (their data sheets).
        mfu: Share of the peak that training reaches; take it from a measured run of your own where you have one.
        reserved: GiB of each GPU that are never ours: CUDA context, libraries' workspaces, NCCL.
        fragmentation: Share of what is left that the allocator cannot use.
    """

    gpus: int = 8
    gpu_memory: float = 80.0
    peak_tflops: float = 312.0
    mfu: float = 0.35
    reserved: float = 2.0
    fragmentation: float = 0.05

    def __post_init__(self) -> None:
        for name in ("gpus", "gpu_memory", "peak_tflops"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must be above 0")
        if not 0 < self.mfu <= 1 or self.reserved < 0 or not 0 <= self.fragmentation < 1:
            raise ValueError(f"mfu {self.mfu} must be in (0, 1], reserved >= 0, fragmentation in [0, 1)")

    @property
    def usable(self) -> float:
        """Bytes of one GPU that a run can fill."""
        return (self.gpu_memory - self.reserved) * GIB * (1 - self.fragmentation)


@dataclass(frozen=True)
class StagePlan:
    """Bytes on each GPU under one ZeRO stage, and the largest micro-batch that fits; 0: not even one study."""

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
        """Everything that does not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer + self.average + self.buffers + self.fixed_activations

    def peak(self, micro_size: int) -> float:
        """Bytes at the end of the forward pass."""
        return self.states + micro_size * self.study_activations


@dataclass(frozen=True)
class Estimate:
    """A plan: what each ZeRO stage needs, which is best, and how long it takes."""

    cost: Cost
    hardware: Hardware
    plans: tuple[StagePlan, ...]
    best: StagePlan | None
    steps: int
    global_size: int
    gpu_hours: float

    @property
    def epochs(self) -> float:
        """How often the run sees MIMIC-CXR."""
        return self.steps * self.global_size / MIMIC_STUDIES


def estimate(run: TrainConfig, hardware: Hardware, cost: Cost | None = None) -> Estimate:
    """Plan a run.

    Args:
        run: As it would be given to ``train``; the model comes from its ``model`` recipe or ``init`` folder.
        hardware: What it would run on.
        cost: What :func:`stage_cost` found, to plan the same run on several machines.

    Raises:
        ConfigError: If the global batch does not divide over the GPUs, or the model is not to be found.
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
    """The lowest ZeRO stage (the least talk between GPUs) that fits the whole share, else the one that fits most of it."""
    fitting = [plan for plan in plans if plan.micro_size]
    whole = [plan for plan in fitting if plan.micro_size == share]
    return whole[0] if whole else max(fitting, key=lambda plan: (plan.micro_size, -plan.zero_stage), default=None)


def _plan(cost: Cost, hardware: Hardware, zero_stage: int, share: int) -> StagePlan:
    def split(from_stage: int) -> int:
        return hardware.gpus if zero_stage >= from_stage else 1

    masters = 4 * cost.trained / hardware.gpus if zero_stage in (1, 2) else 0  # ZeRO keeps its share of float32 masters
    buckets = 2 * 4 * min(cost.trained, BUCKET_ELEMENTS) if zero_stage else 0
    weights = 4 * cost.trained / split(3) + 4 * cost.frozen + masters
    gradients, optimizer = 4 * cost.trained / split(2), ADAM_BYTES * cost.trained / split(1)
    average = 4 * cost.trained / split(3)
    per_study = max(cost.study_activations, cost.study_transient)
    states = weights + gradients + optimizer + average + buckets + cost.fixed_activations
    room = max(0.0, hardware.usable - states)
    largest = min(share, math.floor(room / per_study)) if per_study else share
    micro = next((size for size in range(largest, 0, -1) if share % size == 0), 0)
    return StagePlan(
        zero_stage, weights, gradients, optimizer, average, buckets, cost.fixed_activations, per_study, micro
    )
