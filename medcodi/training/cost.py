"""The cost of a stage, counted without running it, and the plan of a run that follows: memory per GPU, ZeRO stage, GPU-hours.

Networks run on fake tensors (shapes and precisions, no numbers): what autograd saves for the backward pass is added up, and
operations are counted; no memory is allocated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from medcodi.config import check_positive, config, from_dict, load
from medcodi.data.dataset import read_info
from medcodi.errors import ConfigError
from medcodi.model import STAGES, MedCoDi, ModelConfig
from medcodi.model.files import read_index
from medcodi.model.fresh import absent_tokenizers
from medcodi.stages import build_stage
from medcodi.stages.dry_run import DryRun, Forward, LargestResult, Norms, Operations
from medcodi.stages.stage import Stage
from medcodi.training.config import TrainConfig

GIB = 2**30
MIMIC_IMAGES, MIMIC_STUDIES = 377_110, 227_835  # MIMIC-CXR 2.0.0 (Johnson et al., 2019, Scientific Data 6:317)
ADAM_BYTES = 8  # two float32 moments
# Card -> GiB as nvidia-smi shows them, bf16 TFLOP/s without sparsity, and GB/s of its link within a machine, one way: NVLink, or
# PCIe 4.0 x16 (the makers' data sheets).
CARDS = {
    "a100": (80.0, 312.0, 300.0),
    "a100-40gb": (40.0, 312.0, 300.0),
    "h100": (79.6, 989.0, 450.0),
    "h200": (140.4, 989.0, 450.0),
    "b200": (179.0, 2250.0, 900.0),
    "l40s": (45.0, 362.0, 32.0),
    "a10g": (22.5, 70.0, 32.0),
    "rtx4090": (24.0, 165.0, 32.0),
    "rtx3090": (24.0, 71.0, 32.0),
}
# GPUs of a machine, and GB/s between machines: a ring goes through each machine once, over its eight ports of 200 Gb/s together.
MACHINE_GPUS, NETWORK = 8, 200.0
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default reduce and all-gather buckets


@dataclass(frozen=True)
class Cost:
    """Costs of a stage that do not depend on the hardware."""

    trained: int  # parameters with gradient
    frozen: int  # parameters without gradient that are in memory; none that no step runs
    fixed_activations: float  # bytes saved for the backward pass for any batch (weights cast by autocast)
    study_activations: float  # bytes saved for the backward pass, per study of the micro-batch
    # bytes of the frozen networks' largest intermediate results, per study; freed before the rest
    study_transient: float
    study_flops: float  # floating-point operations per study, forward and backward


def stage_cost(run: TrainConfig, model: ModelConfig | None = None, *, device: str = "cuda") -> Cost:
    """Count parameters, activations and operations of a run's stage on a kind of device, by default with the model that the run names.

    The device decides what autocast keeps in float32; none is needed.
    """
    model = model or _model_config(run)
    with FakeTensorMode(allow_non_fake_inputs=True), Norms(wide=device != "cpu" and run.precision != "fp32"):
        stage, passes = _build(run, model)
        # Parameters: of the components that a step runs; the others stay on disk.
        trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        parts = stage.model.components()
        names = stage.components(cached=run.cache is not None)
        in_memory = sum(p.numel() for name in names for p in parts[name].parameters())

        # Activations of one study and of two: the difference is that of each study, the rest is fixed.
        of_one, of_two = (_saved_bytes(passes.trained, stage, run, studies) for studies in (1, 2))
        with torch.no_grad():
            transient = max((_largest_result(forward, run) for forward in set(passes.frozen)), default=0.0)
        flops = _operations(passes)
    return Cost(trained, max(0, in_memory - trained), max(0.0, 2 * of_one - of_two), of_two - of_one, transient, flops)


def _build(run: TrainConfig, config: ModelConfig) -> tuple[Stage, DryRun]:
    """A run's stage around a model without numbers, and its forward passes; call it where tensors are fake."""
    model = MedCoDi(config, absent_tokenizers(config))
    model.trained_stages = STAGES
    stage = build_stage(run.stage.name, model, run.stage.options)
    if run.low_rank is not None:
        stage.train_low_rank(run.low_rank, run.seed)
    return stage, stage.dry_run(cached=run.cache is not None)


def _model_config(run: TrainConfig) -> ModelConfig:
    if recipe := run.extend or run.model:
        return load(ModelConfig, recipe)
    folder, index = read_index(str(run.init))
    config = from_dict(ModelConfig, index["config"], source=str(folder))
    return config if run.environment is None else replace(config, environment=run.environment)


def _autocast(run: TrainConfig) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=run.precision != "fp32")


def _saved_bytes(passes: Iterable[Forward], stage: nn.Module, run: TrainConfig, studies: int) -> float:
    """Bytes that autograd saves for the backward pass: each storage once, without parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in stage.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # referenced, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(run):
        results = [forward(studies) for forward in passes]
    total = float(sum(storage.nbytes() for storage in saved.values()))
    del results
    return total


def _largest_result(forward: Forward, run: TrainConfig) -> float:
    """Bytes of three times the largest result for one study: an operation's input, its output, and one beside them."""
    with LargestResult() as largest, _autocast(run):
        forward(1)
    return 3.0 * largest.bytes


def study_flops(run: TrainConfig, model: ModelConfig) -> float:
    """Floating-point operations of a training step per study, forward and backward, without recomputed activations."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        return _operations(_build(run, model)[1])


def _operations(passes: DryRun) -> float:
    """Floating-point operations of one study, where tensors are fake."""
    # A pass that a step takes several times (a teacher's) is counted once, and multiplied.
    frozen = 0
    for forward, times in Counter(passes.frozen).items():
        with Operations() as once, torch.no_grad():
            forward(1)
        frozen += times * once.total
    with Operations() as trained, torch.enable_grad():
        for forward in passes.trained:
            ends = [result.float().sum() for result in forward(1) if result.requires_grad]
            torch.stack(ends).sum().backward()
    return frozen + passes.drawn * trained.total


# ---- the plan of a run -----------------------------------------------------------------------------------------------
@config
class Hardware:
    """The GPUs that a run is planned for."""

    gpus: int = 8  # number of GPUs
    gpu_memory: float = 80.0  # GiB of each
    peak_tflops: float = 312.0  # of one GPU in bf16, without sparsity: 312 A100, 989 H100 and H200 (their data sheets)
    mfu: float = 0.35  # share of the peak that one GPU's training reaches; best taken from a measured run
    bandwidth: float = NETWORK  # GB/s (1e9 bytes) of an all-reduce, the bus bandwidth that nccl-tests prints
    reserved: float = 2.0  # GiB of each GPU for the CUDA context, libraries' workspaces, and NCCL
    fragmentation: float = 0.05  # share of the rest that the allocator cannot use
    price: float | None = None  # of one GPU for an hour, in any currency; None: costs are left out

    def __post_init__(self) -> None:
        check_positive(self, "gpus", "gpu_memory", "peak_tflops", "bandwidth", "price")
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
    sent: float  # bytes that each GPU sends in a step; of the smallest micro-batch where none fits

    @property
    def states(self) -> float:
        """Bytes that do not depend on the micro-batch."""
        return self.weights + self.gradients + self.optimizer + self.average + self.buffers + self.fixed_activations

    def peak(self, micro_size: int) -> float:
        """Bytes at the end of the forward pass."""
        return self.states + micro_size * self.study_activations


@dataclass(frozen=True)
class RunEstimate:
    """Needs of each ZeRO stage, the best one, and the duration of the run."""

    cost: Cost
    hardware: Hardware
    plans: tuple[StagePlan, ...]
    best: StagePlan | None
    steps: int
    global_size: int
    computation: float  # seconds of a step
    studies: int  # in the training data

    @property
    def epochs(self) -> float:
        """Passes of the run over its studies."""
        return self.steps * self.global_size / self.studies

    @property
    def communication(self) -> float:
        """Seconds of a step in which GPUs send and nothing is computed; 0 where no stage fits."""
        return self.best.sent / (self.hardware.bandwidth * 1e9) if self.best else 0.0

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of the run."""
        return self.steps * (self.computation + self.communication) * self.hardware.gpus / 3600

    @property
    def price(self) -> float | None:
        """Price of the run, where that of a GPU-hour is known."""
        return None if self.hardware.price is None else self.hardware.price * self.gpu_hours


def estimate(
    run: TrainConfig,
    hardware: Hardware,
    cost: Cost | None = None,
    *,
    studies: int | None = None,
    epochs: float | None = None,
) -> RunEstimate:
    """Plan a run.

    Args:
        run: Config of the run; its model is that of the ``model`` recipe or the ``init`` folder.
        hardware: Where it would run.
        cost: Result of :func:`stage_cost`, to plan the same run for several machines.
        studies: Number of studies to train on. None: those of the run's data, where they are here, else MIMIC-CXR's.
        epochs: Passes over them. None: as many as the run's steps are.

    Raises:
        ConfigError: If the global batch cannot be divided over the GPUs, or there is no such model.
    """
    if run.privacy is not None:
        raise ConfigError(
            "an estimate of a private run",
            expected="a run without privacy: gradients of single patients are not counted",
            fix="privacy=null estimates the same run without them",
        )
    if run.batch.global_size % hardware.gpus:
        raise ConfigError(
            f"batch.global_size {run.batch.global_size} over {hardware.gpus} GPUs",
            expected=f"a multiple of {hardware.gpus}",
            fix=f"batch.global_size={-(-run.batch.global_size // hardware.gpus) * hardware.gpus}",
        )
    cost = cost or stage_cost(run)
    share = run.batch.global_size // hardware.gpus
    plans = tuple(_plan(cost, hardware, zero_stage, share) for zero_stage in range(4))
    size, studies = run.batch.global_size, studies or data_studies(run) or MIMIC_STUDIES
    steps = run.steps if epochs is None else math.ceil(epochs * studies / size)
    computation = share * cost.study_flops / (hardware.peak_tflops * 1e12 * hardware.mfu)
    return RunEstimate(cost, hardware, plans, recommend(plans, share), steps, size, computation, studies)


def data_studies(run: TrainConfig) -> int | None:
    """Number of training studies of a run, where its config or its prepared folder says it."""
    data = run.data
    if data.num_studies is not None or data.path is None or not Path(data.path).is_dir():
        return data.num_studies
    return int(read_info(data.path)["counts"]["split"].get(data.split, 0)) or None


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
    sent = bytes_sent(cost.trained, hardware.gpus, zero_stage, accumulated=share // max(1, micro))
    return StagePlan(
        zero_stage, weights, gradients, optimizer, average, buckets, cost.fixed_activations, per_study, micro, sent
    )


def bytes_sent(trained: int, gpus: int, zero_stage: int, *, accumulated: int = 1) -> float:
    """Bytes that each GPU sends in one optimiser step, float32, by rings (Rajbhandari et al., 2020, arXiv 1910.02054, section 7).

    Args:
        trained: Parameters with gradient.
        gpus: Of the run.
        zero_stage: What is partitioned.
        accumulated: Micro-batches of a step.
    """
    ring = 4 * trained * (gpus - 1) / gpus  # one reduce-scatter, or one all-gather
    # Gradients are reduced to their owners, and what the owners made of them is gathered: an all-reduce is both.
    if zero_stage < 2:
        return 2 * ring
    # Gradients are reduced after every micro-batch. ZeRO-3 gathers weights before each forward and each backward pass instead.
    return (accumulated + 1) * ring if zero_stage == 2 else 3 * accumulated * ring
