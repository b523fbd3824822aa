"""Plan before you pay: memory per GPU, micro-batch, ZeRO stage, steps and GPU-hours of a run, without running it.

Networks are run on fake tensors (shapes and precisions, no numbers): what autograd keeps for the backward pass is summed
up, and floating-point operations are counted. Nothing is allocated but the count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from medcodi.config import config, from_dict, load
from medcodi.errors import ConfigError
from medcodi.model import STAGES, MedCoDi, ModelConfig
from medcodi.model_files import read_index
from medcodi.networks.tokenizer import AbsentTokenizer, Tokenizers
from medcodi.stages import build_stage
from medcodi.stages.stage import Stage
from medcodi.stages.workload import Forward, Workload, workload
from medcodi.training.config import TrainConfig

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
class Cost:
    """What a stage needs, whatever the hardware.

    Attributes:
        trained: Parameters with gradient.
        frozen: Parameters without, held in memory: none of those that the cache stands for.
        fixed_activations: Bytes kept for the backward pass whatever the batch (weights cast by autocast).
        study_activations: Bytes kept for the backward pass, per study of the micro-batch.
        study_transient: Bytes of the frozen networks' largest intermediate results, per study; gone before the rest begins.
        study_flops: Floating-point operations per study, forward and backward (:func:`study_flops`).
    """

    trained: int
    frozen: int
    fixed_activations: float
    study_activations: float
    study_transient: float
    study_flops: float


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
            mend=f"batch.global_size={-(-run.batch.global_size // hardware.gpus) * hardware.gpus}",
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


# ---- counting ----------------------------------------------------------------------------------------------------
def stage_cost(run: TrainConfig, described: ModelConfig | None = None) -> Cost:
    """Count parameters, activations and operations of a run's stage on fake tensors; seconds, and next to no memory.

    Args:
        run: The run.
        described: Its model; None: the one that the run names.
    """
    described = described or _described(run)
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage, passes = _built(run, described)
        trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
        parts = stage.model.components()  # all are kept, for samples and for the end, unless studies come from the cache
        names = stage.components() if run.cache is not None else tuple(parts)
        held = sum(p.numel() for name in names for p in parts[name].parameters())
        one, two = (_saved_bytes(passes.trained, stage, run, studies) for studies in (1, 2))
        with torch.no_grad():
            transient = max((_largest_result(forward, stage, run) for forward in passes.frozen), default=0.0)
        flops = _operations(passes)
    return Cost(trained, max(0, held - trained), max(0.0, 2 * one - two), two - one, transient, flops)


def _built(run: TrainConfig, described: ModelConfig) -> tuple[Stage, Workload]:
    """A run's stage around a model without numbers, and its forward passes; called where tensors are fake."""
    model = MedCoDi(described, empty_vocabularies(described))
    model.trained_stages = STAGES
    stage = build_stage(run.stage.name, model, run.stage.options)
    return stage, workload(stage, cached=run.cache is not None)


def _described(run: TrainConfig) -> ModelConfig:
    if run.model is not None:
        return load(ModelConfig, run.model)
    folder, index = read_index(str(run.init))
    return from_dict(ModelConfig, index["config"], source=str(folder))


def empty_vocabularies(described: ModelConfig) -> Tokenizers:
    """Vocabularies of the right sizes, without a word in them."""
    sizes = {
        "prompts": described.prompt_encoders.text.vocab_size,
        "report": described.report_autoencoder.encoder_vocab_size,
        "decoder": described.report_autoencoder.decoder_vocab_size,
    }
    own = described.vocab_size
    return Tokenizers(**{role: AbsentTokenizer(size or own, role) for role, size in sizes.items()})


def _autocast(run: TrainConfig) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=run.precision != "fp32")


def _saved_bytes(passes: Iterable[Forward], stage: nn.Module, run: TrainConfig, studies: int) -> float:
    """Bytes that autograd keeps for the backward pass, each storage once, parameters not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in stage.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no number is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(run):
        results = [forward(studies) for forward in passes]
    total = float(sum(storage.nbytes() for storage in kept.values()))
    del results
    return total


class _Largest(TorchDispatchMode):
    """Notes the largest results that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                size = tensor.numel() * tensor.element_size()
                self.bytes = max(self.bytes, min(size, tensor.untyped_storage().nbytes()))  # an expanded view is small
        return result


def _largest_result(forward: Forward, stage: nn.Module, run: TrainConfig) -> float:
    """Three of the largest result, for one study: input, output and one beside them."""
    with _Largest() as largest, _autocast(run):
        forward(1)
    return 3.0 * largest.bytes


class Operations(TorchDispatchMode):
    """Adds up the floating-point operations of matrix products, convolutions and attention, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)  # pyright: ignore[reportFunctionMemberAccess]
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def study_flops(run: TrainConfig, described: ModelConfig) -> float:
    """Floating-point operations of a training step for each study: forward and backward, nothing computed twice.

    Counted on fake tensors, which hold no numbers. Weights that are frozen have no gradient, and count so.

    Args:
        run: The run.
        described: Its model.
    """
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        return _operations(_built(run, described)[1])


def _operations(passes: Workload) -> float:
    """Floating-point operations of one study, where tensors are fake."""
    with Operations() as frozen, torch.no_grad():
        for forward in passes.frozen:
            forward(1)
    with Operations() as trained, torch.enable_grad():
        for forward in passes.trained:
            ends = [result.float().sum() for result in forward(1) if result.requires_grad]
            torch.stack(ends).sum().backward()
    return frozen.total + passes.drawn * trained.total
