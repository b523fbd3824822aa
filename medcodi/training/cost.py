"""What a stage costs, counted without running it: parameters, activations and operations.

Networks are run on fake tensors (shapes and precisions, no numbers): what autograd keeps for the backward pass is summed
up, and floating-point operations are counted. Nothing is allocated but the count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from medcodi.config import from_dict, load
from medcodi.model import STAGES, MedCoDi, ModelConfig
from medcodi.model.files import read_index
from medcodi.networks.tokenizer import AbsentTokenizer, Tokenizers
from medcodi.stages import build_stage
from medcodi.stages.dry_run import DryRun, Forward
from medcodi.stages.stage import Stage
from medcodi.training.config import TrainConfig


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
        parts = (
            stage.model.components()
        )  # all are kept, for samples and for the end, unless studies come from the cache
        names = stage.components() if run.cache is not None else tuple(parts)
        held = sum(p.numel() for name in names for p in parts[name].parameters())
        one, two = (_saved_bytes(passes.trained, stage, run, studies) for studies in (1, 2))
        with torch.no_grad():
            transient = max((_largest_result(forward, stage, run) for forward in passes.frozen), default=0.0)
        flops = _operations(passes)
    return Cost(trained, max(0, held - trained), max(0.0, 2 * one - two), two - one, transient, flops)


def _built(run: TrainConfig, described: ModelConfig) -> tuple[Stage, DryRun]:
    """A run's stage around a model without numbers, and its forward passes; called where tensors are fake."""
    model = MedCoDi(described, empty_vocabularies(described))
    model.trained_stages = STAGES
    stage = build_stage(run.stage.name, model, run.stage.options)
    return stage, stage.dry_run(cached=run.cache is not None)


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


def _operations(passes: DryRun) -> float:
    """Floating-point operations of one study, where tensors are fake."""
    with Operations() as frozen, torch.no_grad():
        for forward in passes.frozen:
            forward(1)
    with Operations() as trained, torch.enable_grad():
        for forward in passes.trained:
            ends = [result.float().sum() for result in forward(1) if result.requires_grad]
            torch.stack(ends).sum().backward()
    return frozen.total + passes.drawn * trained.total
